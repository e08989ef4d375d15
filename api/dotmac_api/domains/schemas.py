"""Bodies of /settings."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from dotmac_api.domains.specs import Kind
from dotmac_api.domains.store import Source
from dotmac_api.schemas import Body

Text = Annotated[str, Field(max_length=1000)]
SettingValue = StrictBool | StrictInt | Text | Annotated[list[Text], Field(max_length=100)]


class SettingWrite(Body):
    """Nothing is stripped: a password may begin or end with a space."""

    model_config = ConfigDict(str_strip_whitespace=False)

    value: SettingValue


class SettingRead(BaseModel):
    domain: str
    key: str
    type: Kind
    value: Annotated[SettingValue | None, Field(description="the value in force; a secret reads ***")]
    default: SettingValue | None
    description: str
    source: Source
    is_secret: bool
    read_only: Annotated[str | None, Field(description="why it cannot be changed here")]
    minimum: int | None
    maximum: int | None
    choices: list[str]
    updated_at: datetime | None
