"""What a client may send in a body."""

from pydantic import BaseModel, ConfigDict


class Input(BaseModel):
    """Base of every model that is read from a request: unknown fields are refused, and so is a "1" for a 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
