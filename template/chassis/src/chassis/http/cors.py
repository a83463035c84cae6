"""Cross-origin requests from an exact list of origins: https://fetch.spec.whatwg.org/#http-cors-protocol"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chassis.http.reply import Header, Problem, Reply

if TYPE_CHECKING:
    from chassis.http.exchange import Exchange

_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, if-match, traceparent, x-request-id",
    ),
    (b"access-control-max-age", b"600"),
)
_EXPOSED: Header = (
    b"access-control-expose-headers",
    b"etag, location, ratelimit, ratelimit-policy, retry-after, x-request-id",
)


class Cors:
    """Answers browsers' questions about `origins`; every other origin is told nothing."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def preflight(self, exchange: "Exchange") -> Reply | None:
        """The answer to a preflight request; None for any other request."""
        if exchange.method != "OPTIONS" or b"access-control-request-method" not in exchange.headers:
            return None
        if exchange.headers.get(b"origin") not in self._origins:
            raise Problem(403, "origin_refused", "This origin may not call this service.")
        exchange.route = "preflight"
        return Reply(204, headers=_PREFLIGHT)

    def add_to(self, headers: list[Header], exchange: "Exchange") -> None:
        """Let the page that asked read the answer, when its origin is listed."""
        if not self._origins:
            return
        headers.append((b"vary", b"origin"))
        origin = exchange.headers.get(b"origin")
        if origin in self._origins:
            headers += ((b"access-control-allow-origin", origin), _EXPOSED)
