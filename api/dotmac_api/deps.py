"""Dependencies that endpoints of every noun use."""

from typing import Annotated

from fastapi import Depends, Header, Request

from dotmac_api.facade import Facade


# async, although nothing is awaited: FastAPI runs plain functions in a thread, which costs more than all they do.
async def _facade(request: Request) -> Facade:
    facade: Facade = request.app.state.facade
    return facade


FacadeDep = Annotated[Facade, Depends(_facade)]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=500)]
