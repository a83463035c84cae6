"""422: which fields of a request are wrong, and how, without repeating any of it.

A validator that wants to be understood raises PydanticCustomError: what a ValueError says may be what was sent.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chassis.http.problems import Problem

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
