"""Who a line of log, a metric or a query belongs to: one value for the request or job that is running, and its ids."""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from random import getrandbits
from uuid import UUID


@dataclass(slots=True)
class RequestContext:
    """Made by the edge once per request, and by the worker once per job; inherited by every task they start."""

    request_id: str
    """What the client sent in X-Request-ID, or ours: 1 to 128 characters of ``[A-Za-z0-9._-]``."""
    trace_id: str | None = None
    """32 hexadecimal digits (W3C Trace Context)."""
    span_id: str | None = None
    """16 hexadecimal digits: our own span, not the caller's."""
    tenant_id: UUID | None = None
    subject: UUID | None = None


current: ContextVar[RequestContext | None] = ContextVar("current", default=None)


_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16


def new_id(size: int) -> str:
    """`size` random bytes in hexadecimal: unique, not secret."""
    return f"{getrandbits(8 * size):0{2 * size}x}"


def trace_of(traceparent: bytes | None) -> str:
    """The trace id of a W3C `traceparent`, or a new one where there is none or it is malformed.

    https://www.w3.org/TR/trace-context/: a receiver that cannot parse the header starts a new trace, and a version
    that it does not know is read as far as version 00 goes.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match[2] == _NO_TRACE or match[3] == _NO_SPAN or (match[1] == b"00" and match[4]):
        return new_id(16)
    return match[2].decode()
