"""One request and its answer, from the first header to the access line."""

import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from starlette.types import Message, Receive, Scope, Send

from chassis.http import strict_json
from chassis.http.reply import Problem, Reply, body_incomplete, check_headers, too_large, unsupported_media_type
from chassis.identity.principal import Principal, check
from chassis.limits.limiter import Level, Use, refusal
from chassis.observe.context import RequestContext, new_id, trace_of
from chassis.observe.logs import get_logger

if TYPE_CHECKING:
    from chassis.http.edge import Edge

_log = get_logger("chassis.identity")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_JSON = re.compile(rb"application/(?:json|[a-z0-9.+-]+\+json)(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)


def is_json(content_type: bytes) -> bool:
    """Whether FastAPI would take a body of this type for JSON."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type.startswith(b"application/") and media_type.endswith((b"/json", b"+json"))


class Exchange(RequestContext):
    """What the edge and the handler share about one request."""

    __slots__ = (
        "_body", "_chunks", "_receive", "_replayed", "_send", "_unshared", "address", "edge", "headers", "levels",
        "method", "path", "principal", "route", "scope", "status", "transaction",
    )  # fmt: skip

    def __init__(self, edge: "Edge", scope: Scope, receive: Receive, send: Send) -> None:
        self.edge = edge
        self.scope = scope
        self._receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # Of a header that was sent twice the last one counts; the edge has refused those where that would matter.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.route = "unmatched"
        self.status = 0
        self.principal: Principal | None = None
        self.transaction: Any = None
        self.address = ""
        """What the client's limits count by: see ClientAddresses."""
        self.levels: list[Level] = []
        """Of the limits that were used: what the answer tells."""
        self._unshared: list[Use] = []
        self._body: bytes | None = None
        self._chunks: list[bytes] | None = None
        self._replayed = False
        requested = self.headers.get(b"x-request-id")
        trace_id = trace_of(self.headers.get(b"traceparent"))
        usable = requested and _REQUEST_ID.fullmatch(requested)
        super().__init__(requested.decode() if requested and usable else trace_id, trace_id, new_id(8))
        scope["chassis.exchange"] = self

    async def authorised(self, permission: str) -> Principal:
        """The caller, if it has `permission`; the 401 or 403 problem otherwise."""
        try:
            return check(self.principal, permission)
        except Problem as problem:
            if problem.status == 403:
                _log.warning("authz_fail", subject=self.subject, permission=permission)
            raise

    def count(self, *uses: Use) -> None:
        """Count uses of limits in this process. Raises the 429 problem when one of them is not allowed."""
        limiter = self.edge.limiter
        counted = limiter.here.take(uses)
        self.levels += counted.levels
        if counted.free_in:
            raise refusal(counted)
        if limiter.shared is not None:
            self._unshared += uses

    async def limit(self, *uses: Use) -> None:
        """Count uses of limits, and all that were counted in this process alone so far, for all replicas together.

        Raises the 429 problem when one of them is not allowed. Await it before anything costly: it is one round trip to
        the shared store, and none without one or when there is nothing to count.
        """
        if uses:
            self.count(*uses)
        shared = self.edge.limiter.shared
        if shared is None or not self._unshared:
            return
        pending, self._unshared = self._unshared, []
        counted = await shared.take(pending)
        if counted is not None:
            self.levels[-len(pending) :] = counted.levels
            if counted.free_in:
                raise refusal(counted)

    async def body(self) -> bytes:
        """The whole body; a 413 problem as soon as it is known to pass the limit."""
        if self._body is None:
            limit = self.edge.settings.max_body_bytes
            if int(self.headers.get(b"content-length", b"0")) > limit:
                raise too_large(limit)
            # Kept while it grows: whoever reads may be cancelled, and another may go on.
            chunks = self._chunks = self._chunks or []
            size = sum(map(len, chunks))
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise body_incomplete()
                chunk: bytes = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                if not message.get("more_body"):
                    break
            self._body = b"".join(chunks)
        return self._body

    @property
    def has_body(self) -> bool:
        """Whether the whole body was read."""
        return self._body is not None

    @property
    def waits_for_body(self) -> bool:
        """Whether somebody asked for the body, and it is not there yet."""
        return self._chunks is not None and self._body is None

    async def json(self) -> bytes:
        """The body, which is one strict JSON text: 415 or 400 otherwise."""
        if not _JSON.fullmatch(self.headers.get(b"content-type", b"")):
            raise unsupported_media_type()
        body = await self.body()
        strict_json.check(body, self.edge.settings.max_json_depth)
        return body

    def cursor_key(self) -> bytes:
        """What signs the cursors of this list: one that another list or tenant was given does not fit."""
        tenant = self.principal.tenant_id.bytes if self.principal else b""
        return blake2b(self.route.encode() + tenant, key=self.edge.cursor_secret, digest_size=32).digest()

    async def receive_again(self) -> Message:
        """`receive` for FastAPI's own handlers: the body that the edge has read and measured."""
        if self._replayed:
            return await self._receive()
        body = await self.body()
        self._replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def write(self, reply: Reply) -> None:
        """Write a whole answer."""
        self.status = reply.status
        headers = [*self.edge.headers_of(self), *reply.headers]
        if reply.status not in (204, 304):
            headers.append((b"content-type", reply.media_type))
            headers.append((b"content-length", str(len(reply.body)).encode()))
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else reply.body})

    async def forward(self, message: Message) -> None:
        """`send` for handlers that write themselves: settles the transaction first, then adds our headers."""
        if message["type"] == "http.response.start":
            theirs = list(message.get("headers", ()))
            check_headers(theirs)
            if self.transaction is not None:
                await self.transaction.settle(commit=message["status"] < 400)
            self.status = message["status"]
            names = {name for name, _ in theirs}
            ours = [header for header in self.edge.headers_of(self) if header[0] not in names]
            message = {**message, "headers": [*ours, *theirs]}
        await self._send(message)
