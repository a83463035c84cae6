"""One process: the public port, the private port, and a clean end.

SIGTERM or SIGINT: `/readyz` turns 503 and the drain time passes, so that load balancers look away; then the sockets
close, requests that are under way finish, the pool closes, and the process exits 0. A second signal cuts all of that
short, and the process exits 1.
"""

import asyncio
import contextlib
import math
import os
import signal
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.app import Service
from chassis.failure import Failure
from chassis.http.protocol import Protocol
from chassis.http.reply import SECURITY_HEADERS, Reply, not_found
from chassis.observe import logs, metrics
from chassis.observe.context import new_id
from chassis.observe.health import Readiness
from chassis.observe.logs import get_logger
from chassis.settings import Settings

_log = get_logger("chassis.server")
_LAG_SECONDS = 0.5
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's own, or it sends into a closing socket


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us: there are two of them in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def run_on(self, listening: socket.socket) -> None:
        """Serve. Raises Failure when the start fails, where uvicorn would end the process from within its loop."""
        try:
            await self.serve([listening])
        except SystemExit:
            raise Failure("the service could not start: the log says why") from None


def run(service: Service, settings: Settings) -> int:
    """Serve until told to stop; returns the exit code. Raises Failure when a port is taken or the start fails."""
    logs.configure(settings)
    service.configure(settings)
    with (
        _listen(settings.host, settings.port, "PORT") as public,
        _listen(settings.host, settings.metrics_port, "METRICS_PORT") as private,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        return runner.run(_serve(service, settings, public, private))


def _listen(host: str, port: int, variable: str) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no such address"
        raise Failure(f"cannot listen on port {port} of {host}: {reason}. {variable} chooses the port") from None


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


async def _serve(
    service: Service, settings: Settings, public_socket: socket.socket, private_socket: socket.socket
) -> int:
    public = _Server(_config(service, settings, lifespan="on"))
    private = _Server(_config(_metrics_app(service.readiness), settings, lifespan="off"))
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
            public.force_exit = private.force_exit = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    lag = asyncio.create_task(_watch_lag())
    servers = [asyncio.create_task(private.run_on(private_socket)), asyncio.create_task(public.run_on(public_socket))]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*servers, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        service.readiness.draining = True
        metrics.draining.set(1)
        _log.info("draining", seconds=settings.drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), settings.drain_seconds)
    public.should_exit = private.should_exit = True
    await asyncio.wait(servers)
    for task in (lag, stopping):
        task.cancel()
    _log.info("stopped", at_once=hurry.is_set())
    for server in servers:
        server.result()
    return 0 if stop.is_set() and not hurry.is_set() else 1


def _config(app: Any, settings: Settings, *, lifespan: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
    )


def _metrics_app(readiness: Readiness) -> ASGIApp:
    """The private port: `GET /metrics` and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if scope["path"] == "/metrics" and scope["method"] == "GET":
            metrics.ready.set(await readiness.problem() is None)
            reply = Reply(200, generate_latest(), CONTENT_TYPE_LATEST.encode())
        else:
            reply = not_found().reply(new_id(16))
        headers = [(b"content-type", reply.media_type), (b"content-length", b"%d" % len(reply.body)), *SECURITY_HEADERS]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    return app


async def _watch_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        metrics.loop_lag.set(max(0.0, loop.time() - due))
