"""A host as deploy.sh finds it, on this machine: real processes for containers, a real PostgreSQL, and load on them."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from random import randrange
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from edges import served
from gateway import DEPLOY, Answer, answer, get

from chassis.data import heads, roles
from chassis.dev.postgres import Postgres
from chassis.dev.processes import free_port
from chassis.features import PACKAGE
from chassis.testing import WIDE_LIMITS

RATE, CLIENTS = 200, 10
SMOKE = ("smoke-a@example.com", "smoke-b@example.com")
SMOKE_PASSWORD = "not very long, but of six words"


def image_of(name: str) -> str:
    """What a registry would call the image."""
    return f"registry.example.com:5000/{name}@sha256:{sha256(name.encode()).hexdigest()}"


class Host:
    """A host with nothing but its own values, on which `docker` and `ssh` are stood in for; its home is `folder`."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.port = free_port()
        self.checkout = DEPLOY
        """Where deploy.sh is called from elsewhere."""
        name = re.findall(r"(?m)^readonly NAME=(\S+)$", (DEPLOY / "deploy.sh").read_text())
        self.state = folder.joinpath(*name, "deploy", "host")
        self.state.mkdir(parents=True)
        self.network = f"127.{randrange(1, 255)}.{randrange(1, 255)}"  # no other test's, on the same ports
        gateway = {
            "GATEWAY_NETWORK": self.network,
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_PLAIN_PORT": str(free_port()),
        }
        lines = [f"{name}={value}\n" for name, value in (gateway | variables).items()]
        (self.state / "host.env").write_text("".join(lines))
        (self.state / "backup.env").touch()
        (self.state / "secrets").mkdir()
        (self.state / "secrets" / "app_smoke_password").write_text(SMOKE_PASSWORD)
        commands = folder / "bin"
        commands.mkdir()
        stand_in = Path(__file__).parent / "deploy" / "compose.py"
        self._command(commands / "docker", f'exec {sys.executable} {stand_in} "$@"')
        self._command(commands / "ssh", f'shift; cd {folder} && exec sh -c "$*"')
        keep = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
        self._environment = keep | {
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent),
            "READY_SECONDS": "30",
        }
        (service,) = entry_points(group="chassis")
        self._service = service.value

    def release(self, name: str, code: str = "", migration: str = "") -> str:
        """An image of that name: the service, something else done to it at the end, and a migration more."""
        image = image_of(name)
        folder = self.state / "releases" / image.partition("@")[2]
        versions = folder / "migrations" / "versions"
        versions.mkdir(parents=True)
        for file in heads.service_revisions().glob("*.py"):
            (versions / file.name).write_bytes(file.read_bytes())
        if migration:
            command = [sys.executable, "-m", "chassis.cli", "migration", "new", name]
            written = folder / subprocess.check_output(command, cwd=folder, text=True).strip()
            written.write_text(written.read_text().replace('"""\n    """', f'"""{migration}"""', 1))
        module, _, attribute = self._service.partition(":")
        (folder / "release.py").write_text(f"from {module} import {attribute} as service\n{code}\n")
        own = served(folder, "release:service") | {"APP_REVISION": name}
        (folder / "environment.json").write_text(json.dumps(own))
        return image

    def run(self, *arguments: str, code: int = 0, environment: str = "") -> "subprocess.CompletedProcess[str]":
        """Run deploy.sh as if from elsewhere; the pipeline says which environment it means."""
        command = [self.checkout / "deploy.sh", "--on", "deploy@host.example", *arguments]
        variables = self._environment | {"ENVIRONMENT": environment}
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended

    def deploy(self, what: str, code: int = 0) -> str:
        """Run deploy.sh; returns what it said."""
        ended = self.run(what, code=code)
        return ended.stdout + ended.stderr

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state / "tls.crt"))

    def connect(self) -> ssl.SSLSocket:
        """A connection to the gateway."""
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        return self.trust.wrap_socket(plain, server_hostname="localhost")

    def ask(self, request: bytes) -> Answer:
        """The gateway's answer."""
        with self.connect() as client:
            return answer(client, request)

    def serving(self) -> Counter[str]:
        """Which releases answer through the gateway, and how often."""
        return Counter(json.loads(self.ask(get("/version")).body)["revision"] for _ in range(20))

    def replicas(self) -> dict[str, int]:
        """The processes that serve, gateway or not, by their addresses."""
        ids = {path.stem: int(path.read_text()) for path in sorted((self.state / "processes").glob("*.pid"))}
        return {
            f"{self.network}.1{place}": pid
            for place, pid in ids.items()
            if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def stop(self) -> None:
        for pid in self.replicas().values():
            os.kill(pid, signal.SIGKILL)
        if (self.state / "nginx.pid").exists():
            os.kill(int((self.state / "nginx.pid").read_text()), signal.SIGTERM)

    @staticmethod
    def _command(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that keeps what it has committed, with a database that no migration has touched."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {PACKAGE}".encode())
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def variables(postgres: Postgres) -> dict[str, str]:
    """What a host says of itself."""
    return {
        **WIDE_LIMITS,
        "APP_ENVIRONMENT": "test",
        "APP_PUBLIC_URL": "http://localhost",
        "APP_DRAIN_SECONDS": "4",
        "APP_SMOKE_EMAILS": ",".join(SMOKE),
        "DATABASE_URL": postgres.dsn(PACKAGE, roles.APP),
        "MIGRATOR_DATABASE_URL": postgres.dsn(PACKAGE),
        "BACKUP_DATABASE_URL": postgres.dsn(PACKAGE, roles.BACKUP),
    }


@pytest.fixture(scope="module")
def host(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host on which a first release serves."""
    host = Host(tmp_path_factory.mktemp("host"), variables)
    try:
        assert "there is no release before this one" in host.deploy("back", code=1)
        host.deploy(host.release("first"))
        yield host
    finally:
        host.stop()


def sql(postgres: Postgres, statement: str) -> list[tuple[Any, ...]]:
    """What a superuser reads in the service's database."""
    with psycopg.connect(postgres.dsn(PACKAGE)) as connection:
        return connection.execute(statement.encode()).fetchall()


class Client(threading.Thread):
    """Keeps its connection, asks at its rate, and repeats nothing, until it is told to stop."""

    def __init__(self, host: Host, until: threading.Event, rate: float) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()
        self._host, self._until, self._rate = host, until, rate

    def run(self) -> None:
        self._client = self._host.connect()
        due = time.monotonic()
        while not self._until.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / self._rate
            self.turn()
        self._client.close()

    def turn(self) -> None:
        """Ask once, and count what that gives."""
        request, expected = (
            (get("/version"), 200),
            (b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", 404),
        )[self.answers.total() % 2]
        got = self.ask(request)
        self.answers["good" if got.status == expected else f"failed with {got.status}"] += 1

    def ask(self, request: bytes) -> Answer:
        got = answer(self._client, request)
        if got.status == 0 or "close" in got.all("connection"):
            self._client.close()
            self._client = self._host.connect()
        return got


class Customer(Client):
    """Places an order and reads it, again and again, as the owner of that token."""

    def __init__(self, host: Host, until: threading.Event, token: str) -> None:
        super().__init__(host, until, rate=5)
        self.orders: list[Placed] = []
        self.slowest = 0.0
        self._token = token

    def turn(self) -> None:
        reference = f"rehearsed-{uuid4()}"
        begun = time.monotonic()
        got = self.ask(order(reference, self._token))
        made = json.loads(got.body)["id"] if got.status == 201 else None
        self.orders.append(Placed(reference, made))
        self.answers[kind(got)] += 1
        between = time.monotonic()
        got = self.ask(get(f"/v1/orders/{made}" if made else "/v1/orders", f"Authorization: Bearer {self._token}"))
        self.answers[kind(got)] += 1
        self.slowest = max(self.slowest, between - begun, time.monotonic() - between)


class Placed(NamedTuple):
    reference: str
    id: str | None
    """None when it was not said that there is an order now."""


def post(path: str, body: object, *headers: str) -> bytes:
    content = json.dumps(body)
    lines = "\r\n".join((*headers, "Content-Type: application/json", f"Content-Length: {len(content)}"))
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n{content}".encode()


def order(reference: str, token: str) -> bytes:
    items = [{"sku": f"a-{number}", "quantity": 1, "unit_price_minor": number} for number in (1, 2, 3)]
    body = {"reference": reference, "customer_email": SMOKE[0], "currency": "EUR", "items": items}
    return post("/v1/orders", body, f"Idempotency-Key: {reference}", f"Authorization: Bearer {token}")


def kind(got: Answer) -> str:
    """What an answer is, in few words."""
    is_problem = got.all("content-type") == ["application/problem+json"]
    return f"{got.status} {json.loads(got.body)['code']}" if is_problem else str(got.status)


def sign_in(host: Host) -> str:
    answer = host.ask(post("/v1/auth/signin", {"email": SMOKE[0], "password": SMOKE_PASSWORD}))
    return json.loads(answer.body)["access_token"]


@contextmanager
def under(clients: Sequence[Client], until: threading.Event) -> Generator[None]:
    """Have them ask for the length of the block."""
    for client in clients:
        client.start()
    try:
        yield
    finally:
        until.set()
        for client in clients:
            client.join()


@contextmanager
def load(host: Host) -> Generator[Counter[str]]:
    """200 requests a second for the length of the block; the counter has what became of them at its end."""
    until, total = threading.Event(), Counter[str]()
    clients = [Client(host, until, RATE / CLIENTS) for _ in range(CLIENTS)]
    with under(clients, until):
        yield total
    for client in clients:
        total.update(client.answers)
