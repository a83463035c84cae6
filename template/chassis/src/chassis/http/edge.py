"""The edge: one ASGI application around everything, written as one because each layer costs every request.

What it promises of every request: a request id and security headers on every answer; limits on headers, body and
time; exact hosts and origins; every failure a problem, logged once, with the worker alive; one access line and one
measurement. Handlers see none of it.
"""

import asyncio
from hashlib import blake2b
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.http.cors import Cors
from chassis.http.endpoints import Endpoint
from chassis.http.errors import problem_of
from chassis.http.exchange import Exchange, is_json
from chassis.http.reply import (
    SECURITY_HEADERS,
    Header,
    Problem,
    Reply,
    allowed,
    bad_request,
    body_timeout,
    deadline_exceeded,
    headers_too_large,
    internal,
    method_not_allowed,
    not_found,
    unavailable,
    uri_too_long,
)
from chassis.http.routing import Routes
from chassis.identity.principal import Principal
from chassis.limits.limiter import Limiter, headers_of
from chassis.observe.context import current
from chassis.observe.health import PROBES
from chassis.observe.logs import get_logger
from chassis.observe.metrics import observe_request, requests_in_flight

if TYPE_CHECKING:
    from chassis.data.pool import Database
    from chassis.settings import Settings

_log = get_logger("chassis.http")

_HSTS: Header = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_ONLY_ONCE = frozenset({b"host", b"authorization", b"content-length", b"content-type", b"idempotency-key", b"if-match"})
_MOST_HEADERS = 100
_MOST_URI_BYTES = 8 * 1024
_FAILURES = (Exception, BaseExceptionGroup, asyncio.CancelledError, SystemExit)
"""All but KeyboardInterrupt and GeneratorExit: whatever else a handler raises ends in an answer."""


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
        self.limiter = Limiter(settings)
        self.cursor_secret = blake2b(settings.secret_key.get_secret_value().encode(), person=b"cursors").digest()
        self._routes = routes
        self._fastapi = fastapi
        self._hosts = frozenset(host.encode() for host in settings.allowed_hosts)
        self._cors = Cors(settings.cors_origins)
        self._headers = SECURITY_HEADERS + ((_HSTS,) if settings.deployed else ())
        self._in_flight = 0
        requests_in_flight.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(Exchange(self, scope, receive, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._live(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and end. A failure is logged as any other: Starlette would log all that the exception says."""

        async def send_type(message: Message) -> None:
            await send({"type": message["type"]})

        try:
            await self._fastapi(scope, receive, send_type)
        except Exception as error:
            _log.critical("start or end failed", exc_info=error)
            raise

    async def _answer(self, exchange: Exchange) -> None:
        started = perf_counter()
        token = current.set(exchange)
        self._in_flight += 1
        deadline = asyncio.timeout(self.settings.request_timeout_seconds)
        try:
            async with deadline:
                reply = await self._dispatch(exchange)
                if reply is not None:
                    await exchange.write(reply)
        except _FAILURES as error:
            await self._fail(exchange, error, expired=deadline.expired())
        finally:
            seconds = perf_counter() - started
            self._in_flight -= 1
            observe_request(exchange.method, exchange.route, exchange.status, seconds)
            log = _log.debug if exchange.route in PROBES and exchange.status == 200 else _log.info
            log(
                "request",
                method=exchange.method,
                route=exchange.route,
                status=exchange.status,
                milliseconds=round(seconds * 1000, 2),
            )
            current.reset(token)
            # They name each other: without this every request would be left to the garbage collector, 4 µs of each.
            del exchange.scope["chassis.exchange"]

    async def _fail(self, exchange: Exchange, error: BaseException, *, expired: bool) -> None:
        try:
            reply = self._problem(exchange, error, expired=expired).reply(exchange.request_id)
        except Exception as failure:
            _log.error("problem cannot be written", exc_info=failure)
            reply = internal().reply(exchange.request_id)
        # An answer that has begun cannot be taken back: the server closes the connection.
        if not exchange.status:
            await exchange.write(reply)

    def _problem(self, exchange: Exchange, error: BaseException, *, expired: bool) -> Problem:
        """What to tell the client, once whoever operates this has been told."""
        if isinstance(error, TimeoutError) and expired:
            _log.warning("deadline exceeded")
            return body_timeout() if exchange.waits_for_body else deadline_exceeded()
        if isinstance(error, asyncio.CancelledError):
            _log.warning("cut off by the end of the process")
            return unavailable("shutting_down", "This replica is shutting down.")
        problem = problem_of(error)
        if problem is None:
            _log.error("unhandled exception", exc_info=error)
            return internal()
        if problem.status >= 500 and exchange.route not in PROBES:
            _log.warning("request failed", code=problem.code, error=error.__cause__ or error)
        return problem

    async def _dispatch(self, exchange: Exchange) -> Reply | None:
        if exchange.path in PROBES:
            self._check_headers(exchange)
        else:
            await self._limit(exchange)
        if (preflight := self._cors.preflight(exchange)) is not None:
            return preflight
        if b"%" in exchange.scope["raw_path"]:
            _check_path(exchange.path, exchange.scope["raw_path"])
        found = self._routes.find(exchange.path)
        if found is None:
            raise not_found()
        methods, values = found
        endpoint = methods.get(exchange.method)
        if endpoint is None:
            if exchange.method == "OPTIONS":
                return Reply(204, headers=((b"allow", allowed(methods).encode()),))
            if exchange.method != "HEAD" or "GET" not in methods:
                raise method_not_allowed(methods)
            # RFC 9110 section 9.3.2: what a GET would answer, without its body, which the writer leaves out.
            exchange.scope = {**exchange.scope, "method": "GET"}
            endpoint = methods["GET"]
        if isinstance(endpoint, str):
            exchange.route = endpoint
            return await self._by_fastapi(exchange)
        reply = await endpoint(exchange, values)
        if isinstance(reply, Response):
            await reply(exchange.scope, exchange.receive_again, exchange.forward)
            return None
        return reply

    async def _limit(self, exchange: Exchange) -> None:
        """Count the request by its address, then by its account and tenant: all before anything costly is done."""
        limiter = self.limiter
        peer: tuple[str, int] | None = exchange.scope.get("client")
        exchange.address = limiter.addresses.key(peer[0] if peer else "", exchange.scope["headers"])
        exchange.count((limiter.per_address, exchange.address))
        self._check_headers(exchange)
        exchange.principal = principal = await self.authenticate(exchange)
        if principal is None:
            await exchange.limit()
            return
        exchange.tenant_id = principal.tenant_id
        exchange.subject = principal.subject
        await exchange.limit(
            (limiter.per_account, principal.subject.int), (limiter.per_tenant, principal.tenant_id.int)
        )

    async def _by_fastapi(self, exchange: Exchange) -> None:
        """A handler whose signature only FastAPI understands: the same promises, at FastAPI's pace."""
        if await exchange.body() and is_json(exchange.headers.get(b"content-type", b"")):
            await exchange.json()
        try:
            await self._fastapi(exchange.scope, exchange.receive_again, exchange.forward)
        finally:
            if exchange.transaction is not None:
                await exchange.transaction.settle(commit=False)

    def _check_headers(self, exchange: Exchange) -> None:
        headers: list[Header] = exchange.scope["headers"]
        size = sum(map(len, chain.from_iterable(headers)))
        if size > self.settings.max_header_bytes or len(headers) > _MOST_HEADERS:
            raise headers_too_large(self.settings.max_header_bytes)
        if len(exchange.scope["raw_path"]) + len(exchange.scope["query_string"]) > _MOST_URI_BYTES:
            raise uri_too_long(_MOST_URI_BYTES)
        if len(headers) != len(exchange.headers):
            names = [name for name, _ in headers]
            if any(names.count(name) > 1 for name in _ONLY_ONCE):
                raise bad_request("duplicate_header", "A header that may be sent once was sent twice.")
        host = exchange.headers.get(b"host", b"")
        # Orchestrators and load balancers probe by address.
        if host not in self._hosts and _name(host) not in self._hosts and exchange.path not in PROBES:
            raise bad_request("unknown_host", "This service is not known by the name in the 'Host' header.")

    def headers_of(self, exchange: Exchange) -> list[Header]:
        """What every answer carries."""
        headers: list[Header] = [(b"x-request-id", exchange.request_id.encode()), *self._headers]
        self._cors.add_to(headers, exchange)
        if exchange.levels:
            headers += headers_of(exchange.levels)
        if b"expect" in exchange.headers and not exchange.has_body:
            # The client waits to be told to send its body. It never will be, and what it sends next must not be taken
            # for that body (RFC 9110 section 10.1.1). A body that does come, and that nobody reads, the parser skips.
            headers.append((b"connection", b"close"))
        return headers


def _name(host: bytes) -> bytes:
    """The value of a Host header without its port, in lower case."""
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() else host.lower()


def _check_path(path: str, raw_path: bytes) -> None:
    """Refuse escapes that others would read differently: a gateway's rules must hold for what is routed here."""
    if b"%2f" in raw_path.lower():
        raise bad_request("malformed_path", "The path has an escaped slash.")
    if "\x00" in path or "\ufffd" in path:
        raise bad_request("malformed_path", "The path has the character U+0000, or is not UTF-8.")
