"""422: which fields of a request are wrong, and how, without repeating any of it."""

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from chassis.http.problems import Problem

_MOST = 20
_NOT_OURS = "?"
"""In place of a name that the client made up: an unknown field, a key of a mapping."""


def field_names(adapter: TypeAdapter[Any] | None) -> frozenset[str]:
    """Every field name in a model: the names that an answer may repeat, since they are ours."""
    if adapter is None:
        return frozenset()
    schema = adapter.json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", ()))


def invalid(error: ValidationError | RequestValidationError, place: str, names: frozenset[str] | None) -> Problem:
    """The problem for a failed validation. `names` are the names of ours; None means that all are."""
    errors = [
        {
            "location": [place, *(_shown(step, names) for step in detail["loc"])],
            "code": detail["type"],
            "message": detail["msg"],
        }
        for detail in error.errors()[:_MOST]
    ]
    return Problem(422, "invalid_request", "Some fields are missing or wrong: see 'errors'.", errors=errors)


def _shown(step: int | str, names: frozenset[str] | None) -> int | str:
    return step if isinstance(step, int) or names is None or step in names else _NOT_OURS
