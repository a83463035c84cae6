"""`chassis dev`: everything that development needs, started in order and stopped together.

Nothing that it starts survives it. What does, because `chassis dev` itself was killed, `chassis stop` and the next
`chassis dev` find through the files in `.dev/`.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

import psycopg
from psycopg.sql import SQL, Identifier
from watchfiles import watch

from chassis.app import Service
from chassis.data import heads
from chassis.dev.database import DEMO_EMAIL, DEMO_PASSWORD, development_server, make_demo, state_folder, with_database
from chassis.dev.postgres import POSTGRES_MAJOR, Postgres
from chassis.dev.processes import get, is_busy, runs
from chassis.failure import Failure
from chassis.features import FEATURES, PACKAGE, PROJECT
from chassis.settings import Settings

Child = subprocess.Popen[bytes]

_CHASSIS = (sys.executable, "-m", "chassis.cli")
_READY_SECONDS = 60.0
_STOP_CHILD_SECONDS = 5.0


def start_child() -> Child:
    """Start the service, in a process group of its own: Ctrl-C is for us to pass on."""
    child = subprocess.Popen([*_CHASSIS, "serve"], stdin=subprocess.DEVNULL, process_group=0)
    _pid_file().write_text(f"{child.pid}\n")
    return child


def serve_and_reload(child: Child, settings: Settings) -> None:
    """Wait for the service, and start it again when code or a migration changes, until an exception ends it."""
    print("Starting the service ...", flush=True)
    _wait(child, settings)
    if child.poll() is not None:
        raise Failure("the service did not start; its reason is above")
    _welcome(settings)
    root = heads.service_revisions().parent.parent
    told = False
    # fmt: off
    watched = watch(
        root / "src", root / "chassis" / "src", root / "migrations",
        watch_filter=lambda _, path: path.endswith(".py"), rust_timeout=500, yield_on_timeout=True,
    )
    # fmt: on
    for changes in watched:
        if changes:
            files = sorted(Path(path).relative_to(root) for _, path in changes)
            print(f"{files[0]}{' and others' if files[1:] else ''} changed: starting again ...", flush=True)
            stop_child()
            if any("migrations" in file.parts for file in files):
                subprocess.run([*_CHASSIS, "migrate"], check=False)
            child, told = start_child(), False
            _wait(child, settings)
        elif child.poll() is not None and not told:
            print(f"The service ended with exit code {child.returncode}; it waits for a change.", flush=True)
            told = True


def stop_child() -> bool:
    """Stop the service that this or a killed `chassis dev` started; returns whether there was one."""
    pid = _running_child()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_CHILD_SECONDS
    while _running_child() is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True


def _running_child() -> int | None:
    return runs(_pid_file(), "chassis.cli serve")


def _pid_file() -> Path:
    return state_folder() / "serve.pid"


def _wait(child: Child, settings: Settings) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while child.poll() is None and not _is_ready(settings):
        if time.monotonic() > deadline:
            print(f"{_url(settings)}/readyz still says that it is not ready.", flush=True)
            return
        time.sleep(0.05)


def _is_ready(settings: Settings) -> bool:
    return get(settings.host, settings.port, "/readyz")[0] == 200


def _welcome(settings: Settings) -> None:
    url = _url(settings)
    print(
        f"""
{PROJECT} runs on {url} and starts again when a file changes. Ctrl-C stops all of it. Try:

    TOKEN=$(curl -s {url}/v1/auth/signin -H 'Content-Type: application/json' \\
      --data '{{"email": "{DEMO_EMAIL}", "password": "{DEMO_PASSWORD}"}}' \\
      | sed 's/.*"access_token":"\\([^"]*\\).*/\\1/')
    curl -H "Authorization: Bearer $TOKEN" {url}{_first_list(settings)}

API {url}/docs   metrics http://{_host(settings)}:{settings.metrics_port}/metrics   guide README.md and docs/
""",
        flush=True,
    )


def _first_list(settings: Settings) -> str:
    """The path of the first list that the API has."""
    status, body = get(settings.host, settings.port, "/openapi.json")
    paths: dict[str, Iterable[str]] = json.loads(body)["paths"] if status == 200 else {}  # it may be closed
    return next((path for path, methods in paths.items() if "get" in methods and "{" not in path), "/version")


def _url(settings: Settings) -> str:
    return f"http://{_host(settings)}:{settings.port}"


def _host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 30.0


class _Stop(BaseException):
    """A signal asked for the end. Like KeyboardInterrupt, it is no Exception that anyone handles on the way."""


def develop(service: Service, settings: Settings) -> int:
    """Run the service for development until Ctrl-C. Raises Failure."""
    if settings.deployed:
        raise Failure(f"APP_ENVIRONMENT is {settings.environment}, and `chassis dev` is for development")
    with _stopping_on_signals(), _only_one(), ExitStack() as running:
        try:
            stop_child()  # of a run that was killed
            _refuse_busy_ports(settings)
            is_new = False
            if settings.database_url is None:
                settings, is_new = running.enter_context(_database(settings))
            if "valkey" in FEATURES and settings.valkey_url is None:
                running.enter_context(import_module("chassis.dev.valkey").developing())
            running.callback(stop_child)
            child = start_child()  # it needs as long to import as the database to be migrated
            _migrate(settings)
            if is_new:
                asyncio.run(make_demo(service, settings))
            serve_and_reload(child, settings)
        except (_Stop, KeyboardInterrupt):  # the second one comes from watchfiles, in place of the first
            print("\nStopping ...", flush=True)
    return 0


def stop_leftovers() -> int:
    """Stop the `chassis dev` of this checkout, or what a killed one left running, and the server of killed tests."""
    developing = state_folder() / "dev.pid"
    if pid := runs(developing, "chassis"):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while runs(developing, "chassis") and time.monotonic() < deadline:
            time.sleep(0.05)
    stopped = [pid is not None, stop_child()]
    tests = Postgres(state_folder() / "test", durable=False)
    ours, theirs = [development_server()], [tests]
    if "valkey" in FEATURES:
        valkey = import_module("chassis.dev.valkey")
        ours.append(valkey.development_server())
        theirs.append(valkey.test_server())
    for server in ours + theirs:
        if server.running() and not (server in theirs and _in_use(tests)):
            server.stop()
            stopped.append(True)
    print("Stopped." if any(stopped) else "Nothing was running.")
    return 0


@contextmanager
def _database(settings: Settings) -> Generator[tuple[Settings, bool]]:
    """The development database, running; whether it was made just now."""
    server = development_server()
    print(f"Starting PostgreSQL {POSTGRES_MAJOR} in {os.path.relpath(server.directory)} ...", flush=True)
    try:
        server.start()
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            is_new = admin.execute("select from pg_database where datname = %s", [PACKAGE]).fetchone() is None
            if is_new:
                admin.execute(SQL("create database {}").format(Identifier(PACKAGE)))
        yield with_database(settings), is_new
    finally:
        server.stop()


def _migrate(settings: Settings) -> None:
    print("Migrating the database ...", flush=True)
    from chassis.data.migrate import migrate_for  # only now that the service is on its way: it takes long to import

    if migrate_for(settings) == "ahead":
        print("It has migrations that are not in this checkout. To start with an empty one: rm -r .dev/postgres")


def _refuse_busy_ports(settings: Settings) -> None:
    for port in (settings.port, settings.metrics_port):
        if is_busy(settings.host, port):
            raise Failure(f"port {port} is in use: stop what listens there, or choose another: PORT=8080 make dev")


@contextmanager
def _only_one() -> Generator[None]:
    """Hold the lock of this checkout's development run, and note who holds it."""
    try:
        state_folder().mkdir(exist_ok=True)
        held = (state_folder() / "dev.pid").open("a+")
    except OSError as error:
        raise Failure(f"cannot write to {state_folder()}: {error.strerror}") from None
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Failure(f"it runs here already, as process {file.read().strip()}; `make stop` ends it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def _stopping_on_signals() -> Generator[None]:
    """Raise _Stop on the first signal that asks for the end, and ignore more of them: the end is under way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise _Stop

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_use(tests: Postgres) -> bool:
    """Whether a test run uses the server of tests now."""
    with (tests.directory / "in-use").open("a") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
