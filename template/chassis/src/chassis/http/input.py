"""What a client may send."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


class Input(BaseModel):
    """Base of every model that is read from a request: unknown fields are refused, and so is a "1" for a 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("before the year 1 or after the year 9999 in UTC") from None


# As browsers check it (https://html.spec.whatwg.org/#valid-e-mail-address), but with a dot in the domain.
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_ADDRESS = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:{_LABEL}\.)+{_LABEL}")


def _address(text: str) -> str:
    if len(text) > 254 or not _ADDRESS.fullmatch(text):
        raise ValueError("not an e-mail address")
    return text


Email = Annotated[str, AfterValidator(_address), Field(json_schema_extra={"format": "email", "maxLength": 254})]
"""An e-mail address as it was written. Only a message to it can tell whether it exists."""

Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its offset from UTC (RFC 3339), as UTC. One without an offset is refused: it would be a guess."""
