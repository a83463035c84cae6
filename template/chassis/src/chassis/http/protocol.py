"""HTTP/1.1 on the socket, before there is a request.

uvicorn alone holds half a header for ever, and as much of it as is sent; waits for ever for clients that do not read;
and takes as many connections as come. Here each of these ends, and what is no HTTP gets a problem as everything else.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chassis.http.reply import SECURITY_HEADERS, Header, Problem, bad_request, headers_too_large, unavailable
from chassis.observe.context import RequestContext, current, new_id
from chassis.observe.logs import get_logger
from chassis.observe.metrics import observe_request

_log = get_logger("chassis.http")

HEADER_SECONDS = 10.0
"""For a whole header; also for what is left of a body that was answered before its end."""
WRITE_SECONDS = 30.0
"""For a client to make room when it does not read what it is sent."""
MOST_CONNECTIONS = 900
"""Below the 1024 files that a process may usually have open."""
_MOST_HEADER_BYTES = 64 * 1024  # settings bound a whole header further, at the edge


class Protocol(HttpToolsProtocol):
    """One connection."""

    _header_bytes = 0
    _in_header = True
    _upgrading = False
    _header_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(unavailable("too_many_connections", "This replica has all the connections it can hold."))
        else:
            self._time_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(bad_request("malformed_request", "This is not HTTP/1.1."))
            return
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._refuse(headers_too_large(_MOST_HEADER_BYTES))
            else:
                self._time_header()
        elif self.cycle.response_complete:
            # Neither a header nor a body that anybody waits for: it may go on for a while, and not for ever.
            self._time_header()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser takes what follows for another protocol's, where a body was meant and a request may hide. We
            # speak no other (RFC 9110 section 7.8): so the request is read again, without that header.
            self._upgrading = False
            headers = [header for header in self.headers if header[0] != b"upgrade"]
            begin = b"%b %b HTTP/%b\r\n" % (
                self.parser.get_method(),
                self.url,
                self.parser.get_http_version().encode(),
            )
            self.parser = httptools.HttpRequestParser(self)
            self._feed(begin + _lines(headers) + b"\r\n" + data[upgrade.args[0] :])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = True
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._upgrading = True
            return
        self._in_header = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._upgrading:
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # close() would wait until the client has read everything
        super().timeout_keep_alive_handler()

    def _time_header(self) -> None:
        if self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._on_header_timeout)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self._in_header and self._header_bytes:
            self._refuse(Problem(408, "header_timeout", "The header did not arrive in time."))
        else:
            self.transport.close()  # nothing was asked

    def _refuse(self, problem: Problem) -> None:
        """End the connection, with `problem` as its last answer wherever that can be told from others."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]  # before the first request
            if not cycle.more_body:
                # What came before is whole, and is answered first. uvicorn then closes.
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if not (cycle.response_started or self.pipeline):
                self._write(problem)
        else:
            self._write(problem)
        self.transport.close()

    def _write(self, problem: Problem) -> None:
        request_id = new_id(16)
        reply = problem.reply(request_id)
        headers = (
            *SECURITY_HEADERS,
            *reply.headers,
            (b"content-type", reply.media_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        )
        self.transport.write(STATUS_LINE[reply.status] + _lines(headers) + b"\r\n" + reply.body)
        observe_request("other", "malformed", reply.status, 0)
        token = current.set(RequestContext(request_id))
        _log.info("connection refused", status=reply.status, code=problem.code)
        current.reset(token)


def _lines(headers: Iterable[Header]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
