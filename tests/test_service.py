"""The rendered service, as whoever rendered it finds it: its own checks and tests, on the oldest and newest Python.

The newest one has every optional part as well. A class is run by one process (`--dist=loadscope`), in one render:
making its environment is what takes the time.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from copier import run_copy
from pythons import NEWEST, OLDEST, python
from test_questions import macros

from tools.reserved_names import environment_names


@pytest.fixture(scope="class")
def service(version: str, answers: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A render with the answers of the class, committed, its environment made with the Python of the class."""
    folder = tmp_path_factory.mktemp(f"python-{version}") / "my-service"
    interpreter = python(version)
    run_copy(str(template), folder, data=answers, defaults=True, unsafe=True, quiet=True)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=Start from the template"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    run(folder, "uv", "sync", "--quiet", "--python", str(interpreter))
    assert run(folder, ".venv/bin/python", "-V").startswith(f"Python {version}.")
    return folder


class TestOnTheOldestPython:
    @pytest.fixture(scope="class")
    @classmethod
    def version(cls) -> str:
        return OLDEST

    @pytest.fixture(scope="class")
    @classmethod
    def answers(cls) -> dict[str, str]:
        return {}

    def test_only_the_lock_is_new_to_git(self, service: Path):
        assert run(service, "git", "status", "--porcelain") == "?? uv.lock\n"

    def test_no_package_can_be_called_what_its_environment_already_has(self, service: Path):
        reserved = macros("reserved_names.jinja")
        missing = environment_names(service, "my_service") - {*reserved.INSTALLED, *reserved.STANDARD_LIBRARY}
        assert missing == set(), "run tools/reserved_names.py"

    def test_make_check_is_green(self, service: Path):
        run(service, "make", "check")

    def test_make_test_is_green_and_leaves_nothing_behind(self, service: Path):
        run(service, "make", "test")
        assert run(service, "git", "status", "--porcelain") == "?? uv.lock\n"


class TestOnTheNewestPython(TestOnTheOldestPython):
    @pytest.fixture(scope="class")
    @classmethod
    def version(cls) -> str:
        return NEWEST

    @pytest.fixture(scope="class")
    @classmethod
    def answers(cls) -> dict[str, str]:
        return {"shared_store": "valkey"}

    def test_make_rehearse_is_green(self, service: Path):
        run(service, "make", "rehearse")


def run(folder: Path, *command: str, seconds: float = 1200) -> str:
    """Run a command as a person would in a terminal of their own; what it prints is the failure's message."""
    ours = {"VIRTUAL_ENV", "PYTHONPATH", "UV_PYTHON", "CHASSIS_CI"}
    environment = {
        name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PYTEST")
    }
    environment["PYTEST_XDIST_AUTO_NUM_WORKERS"] = "1"  # beside us runs another worker with a service of its own
    interpreter = folder / ".venv" / "bin" / "python"
    environment |= {"UV_PYTHON": str(interpreter)} if interpreter.exists() else {}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate()
    if process.returncode != 0:
        pytest.fail(f"{' '.join(command)} exited {process.returncode}:\n{output[-10_000:]}", pytrace=False)
    return output
