"""`chassis dev`: everything that development needs, started in order and stopped together.

Nothing that it starts survives it. What does, because `chassis dev` itself was killed, `chassis stop` and the next
`chassis dev` find through the files in `.dev/`.
"""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import FrameType

import psycopg
from psycopg.sql import SQL, Identifier

from chassis.app import Service
from chassis.dev.database import development_server, make_demo, state_folder, with_database
from chassis.dev.postgres import POSTGRES_MAJOR, Postgres
from chassis.dev.processes import is_busy, runs
from chassis.dev.reload import serve_and_reload, start_child, stop_child
from chassis.failure import Failure
from chassis.features import FEATURES, PACKAGE
from chassis.settings import Settings

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
