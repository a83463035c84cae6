"""Fixtures for pytest: every test that asks gets a migrated PostgreSQL database of its own, and the service on it.

pytest finds this by itself. Databases live in `.dev/test`, on a server that the first test process starts and the last
one stops; a database is a copy of a template, which is migrated anew when a migration changes. With TEST_POSTGRES_URL,
the URL of a superuser, they live on that server: the pipeline tests on the image that production runs.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

import pytest

from chassis.dev.processes import free_port, get
from chassis.features import FEATURES

if TYPE_CHECKING:
    import httpx

    from chassis.app import Service
    from chassis.dev.postgres import Postgres
    from chassis.identity.tokens import AccessTokens, KeyRing
    from chassis.settings import Settings

WIDE_LIMITS = dict.fromkeys(("APP_LIMIT_PER_ADDRESS", "APP_LIMIT_PER_ACCOUNT", "APP_LIMIT_PER_TENANT"), "1000000")
"""Every test asks from one address. Those of limits set their own."""

_SERVE_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class TestDatabase:
    """A database of one test, as URLs for each of those who connect to it."""

    __test__ = False

    name: str
    app: str
    backup: str
    migrator: str
    """As a superuser who has become the migrator: the owner of everything."""
    superuser: str


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests run on the event loop that serves in production, a new one for each test."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session", autouse=True)
def _logs_as_in_production() -> None:
    """Lines of JSON beside a test that failed: a traceback with every local variable takes seconds to draw."""
    from chassis.observe import logs
    from chassis.settings import Settings

    logs.configure(Settings(environment="test", log_format="json"))


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """The PostgreSQL server of this checkout's tests. No data in it is safe."""
    from chassis.dev.database import state_folder
    from chassis.dev.postgres import GivenPostgres, Postgres

    if given := os.environ.get("TEST_POSTGRES_URL"):
        server = GivenPostgres(state_folder() / "test-given", given)
    else:
        server = Postgres(state_folder() / "test", durable=False)
    server.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (server.directory / "in-use").open("w") as users:
        alone = _try_lock(users)
        if not alone:
            fcntl.flock(users, fcntl.LOCK_SH)
        server.start()
        if alone:
            _drop_leftovers(server)
            fcntl.flock(users, fcntl.LOCK_SH)
        yield server
        if _try_lock(users):
            server.stop()
            if "valkey" in FEATURES:
                import_module("chassis.dev.valkey").test_server().stop()


@pytest.fixture(scope="session")
def database_template(postgres: "Postgres") -> str:
    """The name of a database with all migrations, made once for all processes."""
    from chassis.data import roles
    from chassis.data.migrate import migrate

    name = f"template_{_fingerprint()}"
    with (postgres.directory / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _superuser(postgres) as admin:
            if admin.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                admin.execute("drop database if exists unfinished with (force)")
                admin.execute("create database unfinished")
                migrate(postgres.dsn("unfinished"), postgres.dsn("unfinished", roles.APP))
                roles.set_password(admin, roles.BACKUP, postgres.password)
                admin.execute(f'alter database unfinished rename to "{name}"'.encode())
    return name


@pytest.fixture
def database(postgres: "Postgres", database_template: str) -> Iterator[TestDatabase]:
    """An empty, migrated database."""
    with new_database(postgres, database_template) as database:
        yield database


@pytest.fixture
def empty_database(postgres: "Postgres") -> Iterator[TestDatabase]:
    """A database that no migration has touched."""
    with new_database(postgres) as database:
        yield database


@contextmanager
def new_database(postgres: "Postgres", template: str | None = None) -> Generator[TestDatabase]:
    """A database for the length of the block: a copy of `template`, or one that no migration has touched."""
    from chassis.data import roles

    name = f"test_{uuid4().hex[:12]}"
    # Copying files is quicker than copying through the log when nothing is flushed to disk.
    options = f'template "{template}" strategy file_copy' if template else ""
    with _superuser(postgres) as admin:
        admin.execute(f"create database {name} {options}".encode())
        if template:
            roles.close_database(admin, name)
        try:
            yield TestDatabase(
                name,
                app=postgres.dsn(name, roles.APP),
                backup=postgres.dsn(name, roles.BACKUP),
                migrator=f"{postgres.dsn(name)}?options=-crole%3D{roles.MIGRATOR}",
                superuser=postgres.dsn(name),
            )
        finally:
            admin.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def valkey_url(postgres: "Postgres") -> str:
    """The URL of an empty Valkey database, on the server of this checkout's tests, which ends with that PostgreSQL."""
    del postgres
    server = import_module("chassis.dev.valkey").test_server()
    server.start()
    return server.empty_database()


@pytest.fixture
def environment(database: TestDatabase, request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables that this test's service is configured with. A fixture may change them before `app` is made."""
    shared = {"APP_VALKEY_URL": request.getfixturevalue("valkey_url")} if "valkey" in FEATURES else {}
    return {
        **shared,
        **WIDE_LIMITS,
        "APP_ENVIRONMENT": "test",
        "APP_PUBLIC_URL": "http://localhost",
        "DATABASE_URL": database.app,
        "MIGRATOR_DATABASE_URL": database.superuser,
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> "Settings":
    """The service's settings on the test's database."""
    from chassis.app import load_app
    from chassis.settings import load

    return load(load_app().settings_class, environment)


@pytest.fixture
def app(settings: "Settings") -> "Service":
    """The service, configured but not started. Its passwords are hashed as fast as argon2id can."""
    from chassis.app import load_app

    service = load_app()
    configure(service, settings)
    return service


def configure(service: "Service", settings: "Settings") -> None:
    """Configure a service for a test."""
    from chassis.identity.passwords import Cost, Passwords

    service.configure(settings)
    service.identity.passwords = Passwords(Cost(memory_kib=8, passes=1))


@pytest.fixture
async def client(app: "Service") -> AsyncGenerator["httpx.AsyncClient"]:
    """An HTTP client of the service, in this process. It is nobody: see `as_principal`."""
    import httpx

    async with (
        started(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        yield client


@asynccontextmanager
async def started(app: "Service") -> AsyncGenerator[None]:
    """Run the start-up and the end of an application around the block, as a server does."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, answers.put))

    async def tell(event: str) -> None:
        told.put_nowait({"type": f"lifespan.{event}"})
        answer = asyncio.create_task(answers.get())
        await asyncio.wait({answer, running}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            running.result()
        assert answer.result()["type"] == f"lifespan.{event}.complete", answer.result()

    await tell("startup")
    try:
        yield
    finally:
        await tell("shutdown")
        await running


@pytest.fixture
def tenant_id() -> UUID:
    """The tenant of this test."""
    return uuid4()


@pytest.fixture
def as_principal(settings: "Settings", database: TestDatabase, tenant_id: UUID) -> Callable[..., dict[str, str]]:
    """`client.get(…, headers=as_principal("viewer"))`: act in that role, in the test's tenant or another.

    The access token is a real one, signed with the service's own key; only that no one has signed in for it.
    """
    from chassis.app import load_app
    from chassis.identity.module import permissions_by_role
    from chassis.identity.tokens import access_tokens

    keys = _key_ring(settings, database)
    tokens = access_tokens(keys, settings.public_url, permissions_by_role(load_app().modules))

    def headers(role: str = "owner", tenant: UUID = tenant_id) -> dict[str, str]:
        return headers_of(tokens, tenant, role)

    return headers


def headers_of(tokens: "AccessTokens", tenant: UUID, role: str = "owner") -> dict[str, str]:
    """What somebody in a role sends, such as to a started service with its `identity.access_tokens`."""
    subject = uuid5(tenant, role)
    token = tokens.issue(subject=subject, tenant_id=tenant, role=role, session_id=uuid5(subject, "session"))
    return {"Authorization": f"Bearer {token}"}


def _key_ring(settings: "Settings", database: TestDatabase) -> "KeyRing":
    """The keys of the services on this database; the first one, where no service has started and made it."""
    import psycopg

    from chassis.identity.tokens import OVERLAP, KeyRing, SealedKey

    ring = KeyRing(settings.secret_key.get_secret_value())
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        rows = connection.execute("select kid, sealed, signs_from from chassis.signing_keys").fetchall()
        if not ring.read(SealedKey(*row) for row in rows):
            key = ring.new(datetime.now(UTC) - OVERLAP)
            connection.execute(
                "insert into chassis.signing_keys (kid, sealed, signs_from) values (%s, %s, %s)",
                [key.kid, key.sealed, key.signs_from],
            )
            ring.read([key])
    return ring


class RunningServer:
    """`chassis serve` in a process of its own, ready for requests."""

    def __init__(self, environment: dict[str, str], output: Path) -> None:
        port, metrics_port = free_port(), free_port()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        self._output = output
        keep = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
        with output.open("wb") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chassis.cli", "serve"],
                env=keep | {"PORT": str(port), "METRICS_PORT": str(metrics_port)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def logs(self) -> list[dict[str, Any]]:
        """Every line it has written. Raises ValueError on one that is not JSON."""
        return [json.loads(line) for line in self._output.read_bytes().splitlines()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code once it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _SERVE_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if get("127.0.0.1", self.port, "/readyz")[0] == 200:
                return
            time.sleep(0.02)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"chassis serve did not become ready:\n{self._output.read_text(errors='replace')}")


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """`serve(APP_DRAIN_SECONDS="1")` starts the service as it runs in production, and waits until it is ready."""
    with ExitStack() as servers:

        def start(**more: str) -> RunningServer:
            server = RunningServer(environment | more, tmp_path / f"serve-{uuid4().hex[:8]}.log")
            servers.callback(server.stop)
            return server

        yield start


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The service in a process of its own."""
    return serve()


@contextmanager
def _superuser(postgres: "Postgres") -> Generator[Any]:
    import psycopg

    connection = psycopg.connect(postgres.dsn("postgres"), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()


def _drop_leftovers(postgres: "Postgres") -> None:
    """Drop what killed runs left, and the templates of other migrations than today's."""
    with _superuser(postgres) as admin:
        for (name,) in admin.execute("select datname from pg_database where datname ~ '^(test|template)_'").fetchall():
            if name != f"template_{_fingerprint()}":
                admin.execute(f'drop database "{name}" with (force)'.encode())


def _fingerprint() -> str:
    """Of everything that shapes a migrated database."""
    from chassis.data import heads, roles

    folders = (heads.CHASSIS_REVISIONS, heads.service_revisions())
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    files += [Path(roles.__file__), *(Path(roles.__file__).with_name(name) for name in ("tenancy.py", "migrate.py"))]
    digest = hashlib.sha256(roles.APP.encode())
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
