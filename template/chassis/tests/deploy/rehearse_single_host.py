"""deploy.sh, from the first deployment on: real replicas behind the real gateway, under load.

`make rehearse` runs it; it takes too long for `make test`.
"""

import fcntl
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
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from random import randrange

import pytest
from edges import served
from gateway import DEPLOY, Answer, answer, get

from chassis.dev.postgres import Postgres
from chassis.dev.processes import free_port
from chassis.testing import WIDE_LIMITS, new_database

ROLLS = int(os.environ.get("ROLLS", "2"))
"""How often the replicas are replaced under load."""
RATE, CLIENTS = 200, 10
BAD = {
    "does-not-boot": "service.configure = None",
    "fails-smoke": """
configure = service.configure
service.configure = lambda settings: configure(settings.model_copy(update={"revision": "another"}))
""",
    "answers-500": """
from chassis.observe.health import PROBES

class Failing(type(service)):
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

service.__class__ = Failing
""",
}
"""Releases that must not get a request."""


class Host:
    """A host with nothing but its own values, on which `docker` and `ssh` are stood in for; its home is `folder`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        name = re.findall(r"(?m)^readonly NAME=(\S+)$", (DEPLOY / "deploy.sh").read_text())
        self.state = folder.joinpath(*name, "deploy", "host")
        self.state.mkdir(parents=True)
        network = f"127.{randrange(1, 255)}.{randrange(1, 255)}"  # no other test's, on the same ports
        (self.state / "host.env").write_text(
            f"GATEWAY_NETWORK={network}\nGATEWAY_PORT={self.port}\nGATEWAY_PLAIN_PORT={free_port()}\n"
        )
        commands = folder / "bin"
        commands.mkdir()
        stand_in = Path(__file__).with_name("compose.py")
        self._command(commands / "docker", f'exec {sys.executable} {stand_in} "$@"')
        self._command(commands / "ssh", f'shift; cd {folder} && exec sh -c "$*"')
        keep = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
        self._environment = keep | {
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "READY_SECONDS": "30",
        }
        self._variables = environment
        (service,) = entry_points(group="chassis")
        self._service = service.value

    def release(self, name: str, code: str = "") -> str:
        """An image of that name: the service, with something else done to it at the end."""
        folder = self.state / "releases" / name
        folder.mkdir(parents=True)
        module, _, attribute = self._service.partition(":")
        (folder / "release.py").write_text(f"from {module} import {attribute} as service\n{code}\n")
        variables = self._variables | served(folder, "release:service") | {"APP_REVISION": name}
        (folder / "environment.json").write_text(json.dumps(variables))
        return name

    def deploy(self, what: str, code: int = 0) -> str:
        """Run deploy.sh as if from elsewhere; returns what it said."""
        ended = subprocess.run(
            [DEPLOY / "deploy.sh", "--on", "deploy@host.example", what],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state / "tls.crt"))

    def serving(self) -> Counter[str]:
        """Which releases answer through the gateway, and how often."""
        return Counter(json.loads(self.get("/version").body)["revision"] for _ in range(20))

    def get(self, path: str) -> Answer:
        with connection(self.port, self.trust) as client:
            return answer(client, get(path))

    def replicas(self) -> list[int]:
        """The processes that serve, gateway or not."""
        ids = [int(path.read_text()) for path in sorted((self.state / "processes").glob("*.pid"))]
        return [
            pid for pid in ids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def stop(self) -> None:
        for pid in self.replicas():
            os.kill(pid, signal.SIGKILL)
        if (self.state / "nginx.pid").exists():
            os.kill(int((self.state / "nginx.pid").read_text()), signal.SIGTERM)

    @staticmethod
    def _command(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def host(postgres: Postgres, database_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host on which a first release serves."""
    with new_database(postgres, database_template) as database:
        environment = {
            **WIDE_LIMITS,
            "APP_ENVIRONMENT": "test",
            "APP_PUBLIC_URL": "http://localhost",
            "APP_DRAIN_SECONDS": "4",
            "DATABASE_URL": database.app,
            "MIGRATOR_DATABASE_URL": database.superuser,
        }
        host = Host(tmp_path_factory.mktemp("host"), environment)
        try:
            assert "there is no release before this one" in host.deploy("back", code=1)
            host.deploy(host.release("first"))
            yield host
        finally:
            host.stop()


def connection(port: int, trust: ssl.SSLContext) -> ssl.SSLSocket:
    return trust.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="localhost")


class Load(threading.Thread):
    """A client that keeps its connection, asks at its rate, repeats nothing, and counts what it gets."""

    def __init__(self, host: Host, until: threading.Event) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()
        self._host, self._until = host, until

    def run(self) -> None:
        trust = self._host.trust
        client = connection(self._host.port, trust)
        due = time.monotonic()
        requests = (get("/version"), b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        while not self._until.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += CLIENTS / RATE
            got = answer(client, requests[self.answers.total() % 2])
            expected = (200, 404)[self.answers.total() % 2]
            self.answers["good" if got.status == expected else f"failed with {got.status}"] += 1
            if got.status == 0 or "close" in got.all("connection"):
                client.close()
                client = connection(self._host.port, trust)
        client.close()


@contextmanager
def load(host: Host) -> Generator[Counter[str]]:
    """200 requests a second for the length of the block; the counter has what became of them at its end."""
    until, total = threading.Event(), Counter[str]()
    clients = [Load(host, until) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield total
    finally:
        until.set()
        for client in clients:
            client.join()
            total.update(client.answers)


def test_replicas_are_replaced_under_load_and_no_request_fails(host: Host) -> None:
    begun = time.monotonic()
    with load(host) as answers:
        for number in range(ROLLS):
            assert f"release-{number} serves alone" in host.deploy(host.release(f"release-{number}"))
    seconds = time.monotonic() - begun
    print(f"\n{ROLLS} deployments under {answers.total() / seconds:.0f} requests a second: {dict(answers)}")
    assert answers.keys() == {"good"}
    assert answers.total() > RATE * seconds / 2, "this machine cannot ask so often"
    assert host.serving() == {f"release-{ROLLS - 1}": 20}
    assert len(host.replicas()) == 2


@pytest.mark.parametrize("name", BAD)
def test_a_bad_release_never_gets_a_request(host: Host, name: str) -> None:
    good, replicas = host.serving(), host.replicas()
    with load(host) as answers:
        said = host.deploy(host.release(name, BAD[name]), code=1)
    assert f"{name} failed in place" in said
    found = re.search(r"(\S+) serves alone again, after (\d+\.\d) s", said)
    assert found
    print(f"\n{name}: {found[1]} serves alone again after {found[2]} s; meanwhile {dict(answers)}")
    assert answers.keys() == {"good"}
    assert host.replicas() == replicas, "those that served were not touched"
    assert host.serving() == good


def test_back_is_the_release_before(host: Host) -> None:
    before = host.serving()
    host.deploy(host.release("regretted"))
    assert host.serving() == {"regretted": 20}
    host.deploy("back")
    assert host.serving() == before


def test_two_deployments_at_once_are_one(host: Host) -> None:
    with (host.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another deployment is under way" in host.deploy("first", code=1)
