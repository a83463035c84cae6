"""A rendered service that each test may break, and the hook to run on it."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from copier import run_copy

ROOT = Path(__file__).parents[2]

Hook = Callable[..., tuple[int, list[str]]]
HookModules = Callable[[str], ModuleType]
Add = Callable[[str, str | bytes], None]


@dataclass(frozen=True)
class Service:
    """A rendered service in a folder of the test's own."""

    root: Path

    def replace(self, path: str, old: str, new: str) -> int:
        """Replace the first `old` in a file, and return the line it was in."""
        file = self.root / path
        before, found, after = file.read_bytes().decode().partition(old)
        assert found, f"{path} has no {old!r}"
        file.write_bytes(f"{before}{new}{after}".encode())
        return before.count("\n") + 1

    def append(self, path: str, text: str) -> int:
        """Add text at the end of a file, and return its first line."""
        content = (self.root / path).read_bytes()
        (self.root / path).write_bytes(content + text.encode())
        return content.count(b"\n") + 1

    def commit(self) -> None:
        """Make it a repository without changes, as it is before an update."""
        for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "Start"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)


@pytest.fixture(scope="session")
def rendered(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hook") / "service"
    run_copy(str(template), target, defaults=True, unsafe=True, quiet=True, skip_tasks=True)
    return target


@pytest.fixture
def service(rendered: Path, tmp_path: Path) -> Service:
    """The default render, to break."""
    shutil.copytree(rendered, tmp_path / "service", symlinks=True)
    return Service(tmp_path / "service")


@pytest.fixture
def hook_modules(monkeypatch: pytest.MonkeyPatch) -> HookModules:
    """Import a module of the hook by its name, as the hook itself does."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "hooks"), *sys.path])
    return importlib.import_module


@pytest.fixture
def validate(hook_modules: HookModules) -> ModuleType:
    return hook_modules("validate")


@pytest.fixture
def hook(
    service: Service, validate: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Hook:
    """Run the hook in the service, and return its exit code and the lines that it printed but for the verdict."""

    def run(operation: str = "copy") -> tuple[int, list[str]]:
        monkeypatch.chdir(service.root)
        code = validate.main([operation])
        *problems, verdict = capsys.readouterr().out.splitlines()
        count = len(problems)
        expected = f"{count} problem{'s' * (count > 1)}" if count else "no problem"
        assert verdict.endswith(f"files: {expected} found.")
        return code, problems

    return run


@pytest.fixture
def add(service: Service, validate: ModuleType, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Add a file to the service that the template has too: without that, it would be the service's own."""
    extended = tmp_path / "template"
    shutil.copytree(template, extended)
    monkeypatch.setattr(validate, "TEMPLATE", extended)

    def add(path: str, content: str | bytes) -> None:
        content = content if isinstance(content, bytes) else content.encode()
        for root in (service.root, extended / "template"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)

    return add
