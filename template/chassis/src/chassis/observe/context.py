"""Who a line of log, a metric or a query belongs to: one value for the request or job that is running."""

from contextvars import ContextVar
from dataclasses import dataclass
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
