"""The API to read and to try: its OpenAPI document, and the page at `/docs`, which may load just what it names.

FastAPI documents what a handler takes and what it returns. The other answers follow from the signature too, and are
added here, for all routes at once. What only the handler knows is said beside it, as in `responses={404: {}}`.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from hashlib import sha256
from inspect import isclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import RouteContext

from chassis.http.idempotency import documented as idempotent
from chassis.http.preconditions import ETAG, Versioned, expected_version
from chassis.http.reply import MEDIA_TYPE
from chassis.identity.principal import Require, public

DOCUMENT, PAGE = "/openapi.json", "/docs"

router = APIRouter(dependencies=[public], include_in_schema=False)


@router.get(PAGE)
async def docs(request: Request) -> Response:
    """Swagger UI, which FastAPI's page loads from another host."""
    return _page(request.app.title)


@cache
def _page(title: str) -> Response:
    page = get_swagger_ui_html(openapi_url=DOCUMENT, title=title)
    html = bytes(page.body).decode()
    named = " ".join(sorted(set(re.findall(r'(?:src|href)="(https://[^"]+)"', html))))
    own = " ".join(f"'sha256-{_digest(script)}'" for script in re.findall(r"(?s)<script>(.*?)</script>", html))
    page.headers["content-security-policy"] = (
        f"default-src 'none'; script-src {named} {own}; style-src {named} 'unsafe-inline'; img-src {named} data:;"
        " connect-src 'self'; frame-ancestors 'none'"
    )
    return page


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()


_Json = dict[str, Any]

_PROBLEMS = {
    400: "The request cannot be read, or has something that this service never gave: a cursor, a token of a mail.",
    401: "There are no credentials, or none that are good any more.",
    403: "The caller is known, and may not do this.",
    404: "There is nothing here, or nothing that the caller may see.",
    408: "The body did not arrive in time.",
    409: "It does not go with what is there, or with what somebody else does at the same time.",
    412: "This was changed since it was read.",
    413: "The body is too large.",
    414: "The address is too long.",
    415: "The body is not JSON, encoded as UTF-8.",
    422: "Some fields are missing or wrong.",
    428: "If-Match is missing.",
    429: "There were too many requests.",
    431: "The headers are too large.",
    500: "Something failed on the side of the service.",
    503: "The service cannot answer at the moment.",
    504: "The request took longer than is allowed, and was stopped.",
}
_OF_ALL = (400, 414, 429, 431, 500, 503, 504)
_OF_BODIES = (408, 413, 415, 422)
_UNCOUNTED = (400, 408, 431, 503)
"""Also what the socket answers: before there is a request, no limit counts it."""

_PROBLEM: _Json = {
    "title": "Problem",
    "description": "What went wrong and what to do about it, by RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "description": "A stable name that a program may branch on."},
        "detail": {"type": "string", "description": "For the person who reads it."},
        "request_id": {"type": "string", "description": "What to quote to support."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["location", "code", "message"],
                "additionalProperties": False,
                "properties": {
                    "location": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}

_LIMITS = '^"[a-z-]+"(;[a-z]+=[0-9]+)+(, "[a-z-]+"(;[a-z]+=[0-9]+)+)*$'
_HEADERS: dict[str, _Json] = {
    name: {"description": description, "required": required, "schema": {"type": "string", **schema}}
    for name, required, description, schema in (
        ("X-Request-Id", True, "What this request is called in the log.", {"pattern": "^[A-Za-z0-9._-]{1,128}$"}),
        ("RateLimit", True, "What is left of each limit, and the seconds until there is more.", {"pattern": _LIMITS}),
        ("RateLimit-Policy", True, "The quota of each limit, and its seconds.", {"pattern": _LIMITS}),
        ("Retry-After", True, "In how many seconds to try again.", {"type": "integer", "minimum": 1}),
        ("WWW-Authenticate", True, "How to authenticate.", {"const": "Bearer"}),
        ("ETag", True, "The version, for If-Match.", {"pattern": f"^{ETAG}$"}),
        ("Idempotency-Replayed", False, "There when this is the first answer again.", {"const": "true"}),
    )
}


def complete(document: _Json, routes: Iterable[tuple[RouteContext, Collection[object]]]) -> _Json:
    """FastAPI's document with all that it leaves out. Each route comes with everything that it depends on."""
    given: set[int] = set()
    for context, dependencies in routes:
        for method in context.methods or ():
            operation: _Json | None = document["paths"].get(context.path, {}).get(method.lower())
            if operation is not None:
                given |= _complete(operation, context, dependencies)
    components: _Json = document.setdefault("components", {})
    schemas: _Json = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM
    components["headers"] = _HEADERS
    components["responses"] = {f"Problem{status}": _response(status) for status in sorted(given)}
    return document


def _complete(operation: _Json, context: RouteContext, dependencies: Collection[object]) -> set[int]:
    """Add what one operation lacks. Returns the statuses of the problems that it may give."""
    responses: _Json = operation["responses"]
    names = ["X-Request-Id", "RateLimit", "RateLimit-Policy"]
    if isclass(context.response_model) and issubclass(context.response_model, Versioned):
        names.append("ETag")
    if idempotent in dependencies:
        names.append("Idempotency-Replayed")
    for response in responses.values():
        response["headers"] = response.get("headers", {}) | _headers(*names)
    declared = {int(status) for status in responses if status.isdigit() and int(status) >= 400}
    given = {*declared, *_problems_of(operation, context, dependencies)}
    for status in given:
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    operation["responses"] = dict(sorted(responses.items()))
    if expected_version in dependencies:
        for parameter in operation["parameters"]:
            if parameter["name"] == "if-match":
                parameter |= {"required": True, "schema": {"type": "string", "pattern": f"^{ETAG}$"}}
    return given


def _problems_of(operation: _Json, context: RouteContext, dependencies: Collection[object]) -> Iterator[int]:
    yield from _OF_ALL
    permission = any(isinstance(dependency, Require) for dependency in dependencies)
    if permission:
        yield from (401, 403)
    if permission or context.methods != {"GET"}:
        yield 409
    if "{" in (context.path or ""):
        yield 404
    if "requestBody" in operation:
        yield from _OF_BODIES
    if expected_version in dependencies:
        yield from (412, 428)


def _response(status: int) -> _Json:
    always, sometimes = ["X-Request-Id"], ["RateLimit", "RateLimit-Policy"]
    if status not in _UNCOUNTED:
        always, sometimes = [*always, *sometimes], []
    if status == 401:
        always.append("WWW-Authenticate")
    if status in (429, 503):
        always.append("Retry-After")
    if status == 409:
        sometimes.append("Retry-After")
    return {
        "description": _PROBLEMS.get(status, "The request was refused."),
        "headers": _headers(*always) | {name: {**_HEADERS[name], "required": False} for name in sometimes},
        "content": {MEDIA_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _headers(*names: str) -> _Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
