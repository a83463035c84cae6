"""The edge: one ASGI application around everything, written as one because each layer costs every request.

What it promises of every request: a request id and security headers on every answer; limits on headers, body and
time; exact hosts and origins; every failure a problem, logged once, with the worker alive; one access line and one
measurement. Handlers see none of it.
"""

import asyncio
from hashlib import blake2b
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.data.errors import problem_of
from chassis.http.cors import Cors
from chassis.http.endpoints import Endpoint
from chassis.http.exchange import Exchange
from chassis.http.problems import (
    Problem,
    bad_request,
    deadline_exceeded,
    headers_too_large,
    internal,
    method_not_allowed,
    not_found,
)
from chassis.http.reply import Header, Reply
from chassis.http.routing import Routes
from chassis.identity.principal import Principal
from chassis.observe.context import current
from chassis.observe.logs import get_logger
from chassis.observe.metrics import observe_request, requests_in_flight

if TYPE_CHECKING:
    from chassis.data.pool import Database
    from chassis.settings import Settings

_log = get_logger("chassis.http")

_SECURITY_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_HSTS: Header = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_ONLY_ONCE = frozenset({b"host", b"authorization", b"content-length", b"content-type", b"idempotency-key", b"if-match"})
_MOST_HEADERS = 100


class Authenticator(Protocol):
    """Turns a request's credentials into a principal; None when it has none that are valid."""

    async def __call__(self, exchange: Exchange, /) -> Principal | None: ...


class Edge:
    """The outermost ASGI application of one process."""

    def __init__(
        self,
        settings: "Settings",
        database: "Database",
        routes: Routes[Endpoint | str],
        fastapi: ASGIApp,
        authenticate: Authenticator,
    ) -> None:
        self.settings = settings
        self.database = database
        self.authenticate = authenticate
        self.cursor_secret = blake2b(settings.secret_key.get_secret_value().encode(), person=b"cursors").digest()
        self._routes = routes
        self._fastapi = fastapi
        self._hosts = frozenset(host.encode() for host in settings.allowed_hosts)
        self._cors = Cors(settings.cors_origins)
        self._headers = _SECURITY_HEADERS + ((_HSTS,) if settings.deployed else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(Exchange(self, scope, receive, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._fastapi(scope, receive, send)

    async def _answer(self, exchange: Exchange) -> None:
        started = perf_counter()
        token = current.set(exchange)
        requests_in_flight.inc()
        try:
            reply = await self._reply(exchange)
            if isinstance(reply, Reply) and not exchange.status:
                await exchange.write(reply)
        except Exception as error:
            # The answer has begun, or cannot be written: all that is left is to say so. The server closes the socket.
            _log.error("response failed", exc_info=error)
        finally:
            seconds = perf_counter() - started
            requests_in_flight.dec()
            observe_request(exchange.method, exchange.route, exchange.status, seconds)
            _log.info(
                "request",
                method=exchange.method,
                route=exchange.route,
                status=exchange.status,
                milliseconds=round(seconds * 1000, 2),
            )
            current.reset(token)
            # They name each other: without this every request would be left to the garbage collector, 4 µs of each.
            del exchange.scope["chassis.exchange"]

    async def _reply(self, exchange: Exchange) -> Reply | None:
        deadline = asyncio.timeout(self.settings.request_timeout_seconds)
        try:
            async with deadline:
                return await self._dispatch(exchange)
        except Problem as problem:
            return problem.reply(exchange.request_id)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                _log.warning("deadline exceeded")
                return deadline_exceeded().reply(exchange.request_id)
            problem = problem_of(error)
            if problem is None:
                _log.error("unhandled exception", exc_info=error)
                problem = internal()
            else:
                _log.warning("dependency failed", code=problem.code, error=error)
            return problem.reply(exchange.request_id)

    async def _dispatch(self, exchange: Exchange) -> Reply | None:
        self._check_headers(exchange)
        if (preflight := self._cors.preflight(exchange)) is not None:
            return preflight
        if "\x00" in exchange.path:
            raise bad_request("malformed_path", "The path has the character U+0000.")
        found = self._routes.find(exchange.path)
        if found is None:
            raise not_found()
        methods, values = found
        try:
            endpoint = methods[exchange.method]
        except KeyError:
            raise method_not_allowed(list(methods)) from None
        if isinstance(endpoint, str):
            exchange.route = endpoint
            return await self._by_fastapi(exchange)
        reply = await endpoint(exchange, values)
        if isinstance(reply, Response):
            await reply(exchange.scope, exchange.receive_again, exchange.forward)
            return None
        return reply

    async def _by_fastapi(self, exchange: Exchange) -> None:
        """A handler whose signature only FastAPI understands: the same promises, at FastAPI's pace."""
        if exchange.headers.get(b"content-type", b"").startswith(b"application/json"):
            await exchange.json()
        else:
            await exchange.body()
        try:
            await self._fastapi(exchange.scope, exchange.receive_again, exchange.forward)
        finally:
            if exchange.transaction is not None:
                await exchange.transaction.settle(commit=False)

    def _check_headers(self, exchange: Exchange) -> None:
        headers: list[Header] = exchange.scope["headers"]
        size = 0
        for name, value in headers:
            size += len(name) + len(value)
        if size > self.settings.max_header_bytes or len(headers) > _MOST_HEADERS:
            raise headers_too_large(self.settings.max_header_bytes)
        if len(headers) != len(exchange.headers):
            names = [name for name, _ in headers]
            if any(names.count(name) > 1 for name in _ONLY_ONCE):
                raise bad_request("duplicate_header", "A header that may be sent once was sent twice.")
        host = exchange.headers.get(b"host", b"")
        if host not in self._hosts and _without_port(host) not in self._hosts:
            raise bad_request("unknown_host", "This service is not known by the name in the 'Host' header.")

    def headers_of(self, exchange: Exchange) -> list[Header]:
        """What every answer carries."""
        headers: list[Header] = [(b"x-request-id", exchange.request_id.encode()), *self._headers]
        self._cors.add_to(headers, exchange)
        return headers


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
