"""One process: the public port, the private port, and a clean end.

SIGTERM or SIGINT: `/readyz` turns 503 and the drain time passes, so that load balancers look away; then the sockets
close, requests that are under way finish, the pool closes, and the process exits 0. A second signal cuts it short.
"""

import asyncio
import contextlib
import signal
from collections.abc import Generator
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from chassis.app import Service
from chassis.http.protocol import Protocol
from chassis.observe import logs, metrics
from chassis.observe.logs import get_logger
from chassis.settings import Settings

_log = get_logger("chassis.server")
_LAG_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's own, or it sends into a closing socket


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us: there are two of them in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def run(service: Service, settings: Settings) -> int:
    """Serve until told to stop; returns the exit code. Raises SystemExit with a clear line when a port is taken."""
    logs.configure(settings)
    service.configure(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(service, settings))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


async def _serve(service: Service, settings: Settings) -> int:
    public = _Server(_config(service, settings, settings.port, lifespan="on"))
    private = _Server(_config(_metrics_app, settings, settings.metrics_port, lifespan="off"))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            public.force_exit = private.force_exit = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    lag = asyncio.create_task(_watch_lag())
    servers = [asyncio.create_task(server.serve()) for server in (private, public)]
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([*servers, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not any(server.done() for server in servers):
        service.readiness.draining = True
        metrics.draining.set(1)
        _log.info("draining", seconds=settings.drain_seconds)
        await asyncio.sleep(settings.drain_seconds)
    public.should_exit = private.should_exit = True
    results = await asyncio.gather(*servers, return_exceptions=True)
    lag.cancel()
    failed = any(isinstance(result, BaseException) for result in results) or not stop.is_set()
    _log.info("stopped")
    return 1 if failed else 0


def _config(app: Any, settings: Settings, port: int, lifespan: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=port,
        http=Protocol,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
    )


async def _metrics_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The private port: `GET /metrics` and nothing else."""
    del receive
    found = scope["path"] == "/metrics" and scope["method"] == "GET"
    body = generate_latest() if found else b""
    headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _watch_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        metrics.loop_lag.set(max(0.0, loop.time() - due))
