"""Bases of request and response bodies, and the shape of lists."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from dotmac_api.errors import Invalid

# The largest offset that fits PostgreSQL's bigint with room to spare; more is a client's mistake.
MAX_OFFSET = 2**31 - 1


class Body(BaseModel):
    """A request body: unknown fields are refused, strings are stripped at both ends."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @field_validator("*")
    @classmethod
    def _storable_text(cls, value: Any) -> Any:
        if _holds_nul(value):
            raise ValueError("must not hold the character NUL (U+0000), which the database cannot store")
        return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(_holds_nul(part) for part in value)


class Row(BaseModel):
    """A response built from a model's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Timestamped(Row):
    created_at: datetime
    updated_at: datetime


class Page[T](BaseModel):
    """A slice of a list; `count` is the total that the filters match."""

    items: Sequence[T]
    count: int
    limit: int
    offset: int


def page_of[M, R](found: tuple[Sequence[M], int], page: "Slice", read: Callable[[M], R]) -> Page[R]:
    """The answer of a list: rows and their total, as `paginate` gives them, each as `read` makes it."""
    rows, count = found
    return Page(items=[read(row) for row in rows], count=count, limit=page.limit, offset=page.offset)


def page_of_list[R](rows: Sequence[R], page: "Slice", *orderable: str) -> Page[R]:
    """The answer of a list that is no table: in its own order unless one of the attributes `orderable` is asked for.

    Raises Invalid for another `order_by`.
    """
    if page.order_by is not None:
        if page.order_by not in orderable:
            raise unknown_order(orderable)
        rows = sorted(rows, key=attrgetter(page.order_by), reverse=page.order_dir == "desc")
    part = rows[page.offset : page.offset + page.limit]
    return Page(items=part, count=len(rows), limit=page.limit, offset=page.offset)


def unknown_order(orderable: Iterable[str]) -> Invalid:
    return Invalid.field("query.order_by", f"must be one of {', '.join(orderable)}")


class Slice(BaseModel):
    """offset, limit and ordering, as every list takes them."""

    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    limit: int = Field(default=25, ge=1, le=100)
    order_by: str | None = Field(default=None, max_length=60)
    order_dir: Literal["asc", "desc"] = "desc"


async def slice_query(
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 25,
    order_by: Annotated[str | None, Query(max_length=60, description="a column of the list")] = None,
    order_dir: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Slice:
    return Slice.model_construct(offset=offset, limit=limit, order_by=order_by, order_dir=order_dir)


ListSlice = Annotated[Slice, Depends(slice_query)]


class ListQuery[Q: Slice]:
    """The query of a list, checked as one model. Use: `query: Annotated[Q, Depends(ListQuery(Q))]`, and
    `openapi_extra=ListQuery(Q).documented` beside it.

    FastAPI looks into the annotation of each parameter anew for each request, which for a list of eleven took a quarter
    of the whole time of an answer.
    """

    def __init__(self, model: type[Q]) -> None:
        self._model = model

    async def __call__(self, request: Request) -> Q:
        """Raises RequestValidationError as FastAPI does; of a parameter that is repeated the last counts."""
        known = {name: value for name, value in request.query_params.items() if name in self._model.model_fields}
        try:
            return self._model.model_validate(known)
        except ValidationError as refused:
            errors = refused.errors(include_url=False, include_context=False)
            raise RequestValidationError([{**e, "loc": ("query", *e["loc"])} for e in errors]) from None

    @property
    def documented(self) -> dict[str, Any]:
        """The parameters for OpenAPI."""
        schema = self._model.model_json_schema()
        return {
            "parameters": [
                {"name": name, "in": "query", "required": False, "schema": shape}
                for name, shape in schema["properties"].items()
            ]
        }


Orderable = dict[str, InstrumentedAttribute[Any]]


async def paginate[M](
    session: AsyncSession, query: Select[M], page: Slice, orderable: Orderable
) -> tuple[Sequence[M], int]:
    """The rows of one slice and the total. `orderable` maps public names to columns, its first is the default;
    its last entry must be unique, to keep pages stable. Raises Invalid for another `order_by`."""
    name = page.order_by or next(iter(orderable))
    if name not in orderable:
        raise unknown_order(orderable)
    columns = [orderable[name], list(orderable.values())[-1]]
    ordering = [column.asc() if page.order_dir == "asc" else column.desc() for column in dict.fromkeys(columns)]
    # The total comes with the rows, in one trip; only a slice beyond the end has no row to bring it.
    counted = query.add_columns(func.count().over()).order_by(*ordering).offset(page.offset).limit(page.limit)
    rows = (await session.execute(counted)).all()
    if rows:
        return [row[0] for row in rows], int(rows[0][-1])
    if page.offset == 0:
        return [], 0
    return [], await session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
