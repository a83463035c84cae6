"""What every test of the template shares: a copy of the template as it lies, and ways to render it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import pytest
from copier import run_copy

ROOT = Path(__file__).parents[1]

# What a command needs is found beside the Python that runs the tests.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# Nothing that a person has set for themselves reaches a test, nor the processes that it starts.
os.environ["COPIER_SETTINGS_PATH"] = str(Path(__file__).with_name("copier-settings.yml"))
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
os.environ["GIT_CONFIG_SYSTEM"] = os.devnull
for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"):  # of the make that runs the tests
    os.environ.pop(name, None)
for role in ("AUTHOR", "COMMITTER"):
    os.environ[f"GIT_{role}_NAME"] = "Somebody"
    os.environ[f"GIT_{role}_EMAIL"] = "somebody@example.com"


# What takes minutes begins first, so that neither of the two processes is left alone with it at the end.
LONGEST_FIRST = (
    *("test_modules.py", "test_service.py", "test_terraform.py", "test_runbooks.py", "test_deploy_aws.py"),
    *("test_image.py", "test_monitoring.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


class Render(Protocol):
    """Render the template with default answers but for those given, without the hook. Raises what Copier raises."""

    def __call__(self, **answers: str) -> Path: ...


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it lies, uncommitted changes included, in a folder without git: Copier reads it in place."""
    target = tmp_path_factory.mktemp("template")
    listed = subprocess.check_output(
        [
            "git",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "copier.yml",
            "hooks",
            "includes",
            "template",
        ],
        cwd=ROOT,
    )
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).exists():  # not deleted since
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def copy_template(template: Path, target: Path, **answers: str) -> Path:
    """Render into `target` with default answers but for those given, without the hook; returns `target`."""
    run_copy(str(template), target, data=answers, defaults=True, unsafe=True, quiet=True, skip_tasks=True)
    return target


@pytest.fixture
def render(template: Path, tmp_path: Path) -> Render:
    made: list[Path] = []

    def render(**answers: str) -> Path:
        target = tmp_path / f"render-{len(made)}"
        made.append(target)
        return copy_template(template, target, **answers)

    return render


@pytest.fixture(scope="session")
def default_tree(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tree of a render with default answers."""
    return tree(copy_template(template, tmp_path_factory.mktemp("default") / "service"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path within."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that a developer's machine may skip, the pipeline has to run: there, a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get("CHASSIS_CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CHASSIS_CI is set: {report.longrepr}"
    return report
