"""What a client may send."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict


class Input(BaseModel):
    """Base of every model that is read from a request: unknown fields are refused, and so is a "1" for a 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("before the year 1 or after the year 9999 in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its offset from UTC (RFC 3339), as UTC. One without an offset is refused: it would be a guess."""
