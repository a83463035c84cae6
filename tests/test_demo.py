"""`make demo` as a stranger types it: to the first answer, or to one line that says why there is none."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import ROOT

from tools.bootstrap import OFFLINE


def free_port() -> int:
    """A port that is free, as is the one after it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            try:
                other.bind(("127.0.0.1", one.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return one.getsockname()[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """What a fresh clone has beside the template: nothing is installed."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    folder.chmod(0o755)


def test_the_demo_answers_the_request_that_it_prints_and_leaves_nothing_behind(tmp_path: Path):
    port = free_port()
    log = tmp_path / "log"
    environment = {**os.environ, "PORT": str(port), "TMPDIR": str(tmp_path), "PYTHON": sys.executable}
    environment.pop("METRICS_PORT", None)
    with log.open("w") as output:
        demo = subprocess.Popen(
            ["make", "demo"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # which a terminal's Ctrl-C reaches as a whole
        )
    try:
        said = wait_for(r"(TOKEN=(?:.|\n)*?curl -H .*)", log, demo)
        assert f"http://127.0.0.1:{port}/docs" in log.read_text()
        answer = subprocess.run(
            ["bash", "-c", f"{said[1]} --fail-with-body --silent"], capture_output=True, check=False
        )
        assert answer.returncode == 0, answer.stdout
        assert b'"items"' in answer.stdout
        refused = subprocess.run(
            ["make", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert one_line(refused) == f"chassis: port {port}: address already in use; try another: PORT=8080 make demo"
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(timeout=60)
    assert list(tmp_path.glob("chassis-demo-*")) == []
    assert processes_of(tmp_path) == []


def test_a_port_that_is_none_is_refused(checkout: Path):
    environment = {**os.environ, "PORT": "http"}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "demo.py"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "chassis: PORT=http is no number\n"


def test_no_network_is_said_in_one_line(checkout: Path):
    done = make_demo(
        checkout,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
        PIP_FIND_LINKS="",
    )
    assert one_line(done) == (
        "chassis: there is no network: the package index is out of reach; "
        f"the installer's own words are in {checkout / '.venv' / 'install.log'}"
    )
    assert any(sign in (checkout / ".venv" / "install.log").read_text() for sign in OFFLINE)


def test_a_read_only_folder_is_said_in_one_line(checkout: Path):
    checkout.chmod(0o555)
    # Nothing is read-only for root, so that root does it as somebody else.
    nobody = [] if os.geteuid() else ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    done = make_demo(checkout, prefix=nobody)
    assert one_line(done) == (
        f"chassis: the folder {checkout} is read-only: clone the repository to one that you can write to"
    )


def test_an_old_python_is_said_in_one_line(checkout: Path):
    old = checkout / "old-python"
    old.write_text('#!/bin/sh\ntest "$1" = -V && echo Python 3.9.2 || exit 1\n')
    old.chmod(0o755)
    done = make_demo(checkout, PYTHON=str(old))
    assert one_line(done) == (
        "chassis: Python 3.11 or later is needed, this is Python 3.9.2; try make PYTHON=/path/to/python3.13"
    )


def test_no_python_is_said_in_one_line(checkout: Path):
    done = make_demo(checkout, PYTHON="no-such-python")
    assert one_line(done) == "chassis: there is no no-such-python: install Python 3.11 or later"


def make_demo(folder: Path, prefix: Sequence[str] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*prefix, "make", "demo"]
    environment = {"PYTHON": sys.executable, **os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, "make's exit code for a recipe that exits 1"
    return done


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What was said on stderr, but for make's own line about its recipe."""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    return line


def wait_for(pattern: str, log: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> re.Match[str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.search(pattern, log.read_text()):
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(f"not seen after {seconds} s: {pattern}\n{log.read_text()}")


def processes_of(folder: Path) -> list[str]:
    """The command lines that name this folder."""
    listed = subprocess.check_output(["ps", "-ww", "-A", "-o", "args="], text=True)
    return [line for line in listed.splitlines() if str(folder) in line]
