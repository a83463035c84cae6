"""An answer before it is written: what handlers, problems and replays have in common."""

import re
from collections.abc import Iterable
from typing import NamedTuple

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
