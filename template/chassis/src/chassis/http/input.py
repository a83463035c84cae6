"""What a client may send, and the 422 that says which fields were wrong, and how, without repeating any of it.

A validator that wants to be understood raises PydanticCustomError: what a ValueError says may be what was sent.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
)

from chassis.http.reply import Problem


class Input(BaseModel):
    """Base of every model that is read from a request: unknown fields are refused, and so is a "1" for a 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# RFC 3339, section 5.6. A number alone would be read as seconds since 1970.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def _written_out(time: object) -> object:
    if isinstance(time, datetime) or (isinstance(time, str) and _TIME.fullmatch(time)):
        return time
    raise ValueError("not a time with its offset")


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

Instant = Annotated[AwareDatetime, Strict(False), BeforeValidator(_written_out), AfterValidator(_in_utc)]
"""A time with its offset from UTC (RFC 3339), as UTC. One without an offset is refused: it would be a guess."""


_MOST = 20
_QUOTING = frozenset({
    "value_error", "assertion_error", "union_tag_invalid", "iteration_error", "mapping_type", "get_attribute_error",
})  # fmt: skip
_EMAIL = "value is not a valid email address"
PLACES = frozenset({"body", "query", "path", "header", "cookie"})
"""What the location of an error begins with."""
_NOT_OURS = "?"
"""In place of a name that the client made up: an unknown field, a key of a mapping."""


def field_names(adapter: TypeAdapter[Any] | None) -> frozenset[str]:
    """Every field name in a model: the names that an answer may repeat, since they are ours."""
    if adapter is None:
        return frozenset()
    schema = adapter.json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", ()))


def invalid(error: ValidationError, place: str | Mapping[str | int, str], names: Collection[str]) -> Problem:
    """The problem for what pydantic refused. `place` is where in the request that was: all of it, or by name."""
    # Neither the address of pydantic's documentation nor what was sent: with many errors that is most of the work.
    details = error.errors(include_url=False, include_context=False, include_input=False)
    located: list[Any] = [
        {**detail, "loc": (place if isinstance(place, str) else place[detail["loc"][0]], *detail["loc"])}
        for detail in details[:_MOST]
    ]
    return problem(located, names)


def problem(details: Sequence[Any], names: Collection[str]) -> Problem:
    """The problem for errors as pydantic and FastAPI list them. `names` are the steps of locations that are ours."""
    errors = [
        {
            "location": [step if isinstance(step, int) or step in names else _NOT_OURS for step in detail["loc"]],
            "code": detail["type"],
            "message": _message(detail["type"], detail["msg"]),
        }
        for detail in details[:_MOST]
    ]
    return Problem(422, "invalid_request", "Some fields are missing or wrong: see 'errors'.", errors=errors)


def _message(code: str, message: str) -> str:
    """pydantic's own words quote no input, but for the few codes that repeat what an exception or a tag said."""
    if code not in _QUOTING:
        return message
    return _EMAIL if message.startswith(_EMAIL) else "This value is not accepted"
