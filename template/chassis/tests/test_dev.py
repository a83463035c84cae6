"""The development environment: what it starts, what it leaves behind, and what it says when it cannot."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from chassis.app import load_app
from chassis.data import heads
from chassis.dev import processes
from chassis.dev.dev import develop
from chassis.dev.postgres import GivenPostgres, Postgres, PostgresFailed
from chassis.dev.processes import free_port, is_busy
from chassis.failure import Failure
from chassis.settings import Settings, load

CHASSIS = (sys.executable, "-m", "chassis.cli")
SECONDS = 120.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    """A server that keeps its data, in a folder whose path is too long for a Unix socket and has odd letters."""
    server = Postgres(tmp_path / 'it\'s a "deep" folder' / ("x" * 100))
    yield server
    server.stop()


def postmaster(server: Postgres) -> int:
    return int((server.directory / "data" / "postmaster.pid").read_text().split("\n")[0])


def test_tests_run_on_a_server_that_somebody_else_runs(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
        admin.execute("create role given superuser login password 'it''s p@ss/word'")
    url = f"postgresql://given:it%27s%20p%40ss%2Fword@127.0.0.1:{server.port}/postgres"
    one = f"{Path(__file__).with_name('test_tenancy.py')}::test_the_owner_is_bound_too"
    command = [sys.executable, "-m", "pytest", "-qpno:cacheprovider", "--numprocesses=0", one]
    environment = os.environ | {"TEST_POSTGRES_URL": url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout
    with psycopg.connect(server.dsn("postgres")) as connection:
        made = connection.execute("select count(*) from pg_database where datname ~ '^template_.{16}$'").fetchone()
        assert made == (1,)
    monkeypatch.setattr("chassis.dev.postgres.POSTGRES_MAJOR", 17)
    with pytest.raises(PostgresFailed, match=r"^the given server is of PostgreSQL 18, and not 17$"):
        GivenPostgres(server.directory, url).start()


def test_data_outlives_a_restart_and_a_crash(server: Postgres) -> None:
    server.start()
    with psycopg.connect(server.dsn("postgres")) as connection:
        connection.execute("create table kept as select 1 as one")
    port = server.port
    server.stop()
    assert not server.running()
    server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    while server.running():
        time.sleep(0.01)
    server.start()
    assert server.port == port
    with psycopg.connect(server.dsn("postgres")) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_starting_and_stopping_twice_is_the_same_as_once(server: Postgres) -> None:
    server.stop()

    def start(_: int) -> None:
        Postgres(server.directory).start()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(start, range(3)))
    first = postmaster(server)
    server.start()
    assert postmaster(server) == first
    server.stop()
    server.stop()
    assert not server.running()


def test_it_is_for_this_machine_and_this_user_alone(server: Postgres) -> None:
    server.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn("postgres").replace(server.password, "guess"))
    with psycopg.connect(server.dsn("postgres")) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("show unix_socket_directories").fetchone() == ("",)
        assert connection.execute("show data_checksums").fetchone() == ("on",)
        assert connection.execute("select pg_encoding_to_char(encoding) from pg_database").fetchone() == ("UTF8",)
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.directory / "password").stat().st_mode) == 0o600


def test_a_process_id_that_another_process_has_now_does_not_keep_it_from_starting(server: Postgres) -> None:
    server.start()
    pid_file = server.directory / "data" / "postmaster.pid"
    note = pid_file.read_text()
    server.stop()
    pid_file.write_text(note.replace(note.split("\n")[0], str(os.getpid()), 1))
    assert not server.running()
    server.start()
    assert server.running()


def test_when_its_port_is_taken_it_moves(server: Postgres) -> None:
    server.start()
    server.stop()
    before = server.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", before))
        other.listen()
        server.start()
        assert server.port != before
        assert server.running()


def test_data_of_another_major_is_not_touched(server: Postgres) -> None:
    server.start()
    server.stop()
    (server.directory / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresFailed, match=r"is of PostgreSQL 17: [^\n]*$"):
        server.start()
    (server.directory / "data" / "PG_VERSION").write_text("18\n")


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PostgresFailed, match=r"^cannot write to [^\n]*$"):
        Postgres(tmp_path / "file").start()


def test_why_it_does_not_start_is_one_line_from_its_log(server: Postgres) -> None:
    server.start()
    server.stop()
    with (server.directory / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = nonsense\n")
    with pytest.raises(PostgresFailed, match=r"^PostgreSQL did not start: [^\n]*contains errors[^\n]*$"):
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_where_root_can_become_nobody_else_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_namespaces_work", lambda: False)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(processes.NotPermitted, match=r"^PostgreSQL does not run as root, [^\n]*$"):
        Postgres(closed / "server").start()


class Developing:
    """`chassis dev` in a folder, with a group of its own as in a terminal."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._log = folder / f"output-{free_port()}"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*CHASSIS, "dev"],
                cwd=folder,
                env={"PORT": str(port), "METRICS_PORT": str(free_port()), "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def leaves_nothing(self) -> bool:
        return not is_busy("127.0.0.1", self.port) and not Postgres(self.folder / ".dev" / "postgres").running()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of this service's folder, without its development state."""
    root = heads.service_revisions().parent.parent
    for name in ("src", "migrations", "chassis/src"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    yield tmp_path
    stop(tmp_path)


def stop(folder: Path) -> str:
    return subprocess.run([*CHASSIS, "stop"], cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_from_nothing_to_the_first_request_and_back(folder: Path) -> None:
    run = Developing(folder, free_port())
    run.wait_for("Ctrl-C stops all of it")
    command = re.search(r"    TOKEN=(?:.|\n)*?curl -H .*", run.output())
    assert command, run.output()
    shown = subprocess.run(["sh", "-c", command[0]], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert json.loads(shown)["items"], "what the demo account has"

    (folder / "src" / "new.py").write_text("")
    run.wait_for("src/new.py changed: starting again")
    (folder / "migrations" / "versions" / "new.py").write_text(
        "from alembic import op\nrevision = 'new'\ndown_revision = None\nbranch_labels = None\n"
        "depends_on = 'chassis_0001'\ndef upgrade():\n    op.execute('select 1')\n"
    )
    run.wait_for("-> new")

    second = Developing(folder, free_port())
    assert second.process.wait(SECONDS) == 1
    assert second.output() == f"chassis: it runs here already, as process {run.process.pid}; `make stop` ends it\n"

    assert run.end(signal.SIGINT) == 0
    assert run.leaves_nothing()
    assert "Traceback" not in run.output()


def test_what_a_killed_one_leaves_is_stopped(folder: Path) -> None:
    run = Developing(folder, free_port())
    run.wait_for("Ctrl-C stops all of it")
    run.end(signal.SIGKILL)
    assert is_busy("127.0.0.1", run.port)
    assert stop(folder) == "Stopped.\n"
    assert run.leaves_nothing()
    assert stop(folder) == "Nothing was running.\n"


def test_the_next_one_takes_over_what_a_killed_one_left(folder: Path) -> None:
    killed = Developing(folder, free_port())
    killed.wait_for("Ctrl-C stops all of it")
    killed.end(signal.SIGKILL)
    run = Developing(folder, killed.port)
    run.wait_for("Ctrl-C stops all of it")
    assert run.end(signal.SIGTERM) == 0
    assert run.leaves_nothing()


def test_a_signal_while_it_starts_leaves_nothing(folder: Path) -> None:
    run = Developing(folder, free_port())
    while not (folder / ".dev" / "postgres" / "data" / "postmaster.pid").exists():
        time.sleep(0.005)
    assert run.end(signal.SIGTERM) == 0
    assert run.leaves_nothing()


def test_a_busy_port_is_one_line(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        run = Developing(folder, other.getsockname()[1])
        assert run.process.wait(SECONDS) == 1
    assert run.output().startswith(f"chassis: port {run.port} is in use: ")
    assert run.output().count("\n") == 1
    assert not (folder / ".dev" / "postgres").exists()


def test_a_folder_it_cannot_write_to_is_one_line(folder: Path) -> None:
    (folder / ".dev").write_text("")
    run = Developing(folder, free_port())
    assert run.process.wait(SECONDS) == 1
    assert re.fullmatch(r"chassis: cannot write to [^\n]*\n", run.output())
    (folder / ".dev").unlink()


def test_it_is_not_for_production(folder: Path) -> None:
    (folder / ".dev").mkdir()
    settings = load(Settings, {"APP_ENVIRONMENT": "test"}).model_copy(update={"environment": "production"})
    with pytest.raises(Failure, match="for development"):
        develop(load_app(), settings)
