"""HTTP/1.1 on the socket, before there is a request.

uvicorn alone holds half a header for ever, and as much of it as is sent. Here a header has 10 seconds and 64 KiB
(settings bound a whole one further, at the edge), and what is no HTTP gets a problem as everything else does.
"""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chassis.http.ids import new_id
from chassis.http.problems import Problem, bad_request, headers_too_large

_HEADER_SECONDS = 10.0
_MOST_HEADER_BYTES = 64 * 1024


class Protocol(HttpToolsProtocol):
    """One connection."""

    _header_bytes = 0
    _in_header = True
    _header_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._time_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_header and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._refuse(headers_too_large(_MOST_HEADER_BYTES))
            elif self._header_timer is None:
                self._time_header()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = True
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(bad_request("malformed_request", "This is not HTTP/1.1."))

    def _time_header(self) -> None:
        self._header_timer = self.loop.call_later(_HEADER_SECONDS, self._on_header_timeout)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(Problem(408, "header_timeout", "The header did not arrive in time."))

    def _refuse(self, problem: Problem) -> None:
        request_id = new_id(16)
        reply = problem.reply(request_id)
        lines = (
            b"content-type: " + reply.media_type,
            b"content-length: %d" % len(reply.body),
            b"x-request-id: " + request_id.encode(),
            b"connection: close",
        )
        self.transport.write(STATUS_LINE[reply.status] + b"\r\n".join(lines) + b"\r\n\r\n" + reply.body)
        self.transport.close()
