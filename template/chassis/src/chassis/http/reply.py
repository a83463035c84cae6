"""Answers before they are written: what handlers, problems and replays have in common, and problems themselves.

A problem (RFC 9457) is the one shape of every error that a client can see. It says what the client did and what to do
about it. It never carries what the client sent, nor anything of the inside: no stack trace, no SQL, no path.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

Header = tuple[bytes, bytes]

JSON = b"application/json"

SECURITY_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""On every answer, unless a handler set its own."""


class Reply(NamedTuple):
    """A whole answer: status, body, media type of the body, and further headers in lower case."""

    status: int
    body: bytes = b""
    media_type: bytes = JSON
    headers: tuple[Header, ...] = ()


_HEADER_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")


def check_headers(headers: Iterable[Header]) -> None:
    """Raise ValueError for a header that would end early and begin another one (RFC 9110 section 5.5)."""
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError("a header of the answer has characters that HTTP does not allow")


MEDIA_TYPE = b"application/problem+json"


class Problem(Exception):
    """An answer other than success. Raise it anywhere below the edge; the edge writes it.

    `code` is the stable name that a client's program may branch on; `detail` is for the person reading.
    Raises ValueError for a status or a header that HTTP does not allow here.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[dict[str, Any]] = (),
        headers: Sequence[Header] = (),
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"{status} is not the status of an error")
        check_headers(headers)
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def reply(self, request_id: str) -> Reply:
        """The problem as an answer that carries `request_id`, so that a person can quote it to support."""
        members: dict[str, Any] = {
            "type": "about:blank",
            "title": title_of(self.status),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            members["errors"] = self.errors
        return Reply(self.status, orjson.dumps(members), MEDIA_TYPE, tuple(self.headers))


def title_of(status: int) -> str:
    """The phrase for a status; for one that has no name, that of its class."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return HTTPStatus(status // 100 * 100).phrase


def bad_request(code: str, detail: str) -> Problem:
    return Problem(400, code, detail)


def unauthenticated() -> Problem:
    """RFC 6750: what a request without a usable token gets."""
    return Problem(
        401,
        "unauthenticated",
        "This needs a valid access token: send it as 'Authorization: Bearer …'.",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def forbidden(permission: str) -> Problem:
    return Problem(
        403,
        "forbidden",
        f"This needs the permission '{permission}', which your role, or the scopes of the key, do not include.",
    )


def not_found() -> Problem:
    return Problem(404, "not_found", "There is nothing here, or nothing that you may see.")


def allowed(methods: Iterable[str]) -> str:
    """The value of an Allow header: what is declared, and what that brings along."""
    declared = set(methods)
    return ", ".join(sorted(declared | {"OPTIONS"} | ({"HEAD"} if "GET" in declared else set())))


def method_not_allowed(methods: Iterable[str]) -> Problem:
    allow = allowed(methods)
    return Problem(
        405,
        "method_not_allowed",
        f"This address takes {allow}.",
        headers=((b"allow", allow.encode()),),
    )


def too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"The body may have at most {limit} bytes.")


def unsupported_media_type() -> Problem:
    return Problem(415, "unsupported_media_type", "Send 'Content-Type: application/json', encoded as UTF-8.")


def uri_too_long(limit: int) -> Problem:
    return Problem(414, "uri_too_long", f"The address may have at most {limit} bytes.")


def headers_too_large(limit: int) -> Problem:
    return Problem(431, "headers_too_large", f"The headers may have at most {limit} bytes together.")


def internal() -> Problem:
    return Problem(500, "internal_error", "Something failed on our side. Quote the request id to support.")


def unavailable(code: str, detail: str, retry_after_seconds: int = 1) -> Problem:
    return Problem(503, code, detail, headers=((b"retry-after", str(retry_after_seconds).encode()),))


def body_timeout() -> Problem:
    return Problem(408, "body_timeout", "The body did not arrive in time.")


def body_incomplete() -> Problem:
    return bad_request("body_incomplete", "The connection ended before the body did.")


def deadline_exceeded() -> Problem:
    return Problem(504, "deadline_exceeded", "The request took longer than is allowed, and was stopped.")
