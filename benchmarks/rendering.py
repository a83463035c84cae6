"""What rendering costs: copies, updates, the hook, and the first `make dev`."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from load import Failed, free_ports, wait_for
from service import ROOT, environment

_COPIER = (sys.executable, "-m", "copier")
_DEV_SECONDS = 180


class Templates:
    """Two templates in git repositories of their own, in `folder`: this one as it lies here, and one with one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ours = folder / "template"
        self.empty = folder / "empty-template"
        _copy_of_working_tree(self.ours)
        _commit(self.ours, "v1.0.0")
        changed = self.ours / "template" / "chassis" / "ruff.toml"
        changed.write_text(changed.read_text() + "\n# One line more.\n")
        _commit(self.ours, "v1.0.1")
        self.empty.mkdir()
        (self.empty / "README.md").write_text("# Empty\n")
        _commit(self.empty, "v1.0.0")

    def copy(self, template: Path, name: str, version: str = "v1.0.1") -> tuple[Path, float]:
        """Render with default answers into the new folder `name`; returns it and the seconds of processor time."""
        destination = self._folder / name
        seconds = _run([*_COPIER, "copy", "--defaults", "--trust", "--quiet", "-r", version, template, destination])
        return destination, seconds

    def update(self, rendered: Path, name: str) -> float:
        """Update a copy of `rendered` to the newest version; returns the seconds of processor time."""
        destination = self._folder / name
        shutil.copytree(rendered, destination, symlinks=True)
        return _run([*_COPIER, "update", "--defaults", "--trust", "--quiet"], destination)


def start_history(rendered: Path) -> None:
    """Commit everything, as a user does before an update."""
    _commit(rendered, None)


def hook_seconds(rendered: Path) -> float:
    """How long the hook takes by the clock."""
    started = time.perf_counter()
    _run([sys.executable, ROOT / "hooks" / "validate.py", "copy"], rendered)
    return time.perf_counter() - started


def files_in(rendered: Path) -> int:
    return sum(1 for file in rendered.rglob("*") if file.is_file() and ".git" not in file.parts)


def dev_seconds(rendered: Path, log: Path) -> float:
    """How long `make dev` takes to the first 200 in a folder that was just rendered. It is stopped then."""
    port, metrics_port = free_ports(2)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "--no-print-directory", "dev"],
            cwd=rendered,
            env=environment() | {"PORT": str(port), "METRICS_PORT": str(metrics_port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        return wait_for(f"http://127.0.0.1:{port}/readyz", process, _DEV_SECONDS, log)
    finally:
        _stop_group(process)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue
        return


def _copy_of_working_tree(destination: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, destination / name
        if source.is_file():  # and not deleted since
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _commit(folder: Path, tag: str | None) -> None:
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com", "-c", "commit.gpgsign=false"]
    _run([*git, "init", "--quiet", "--initial-branch=main"], folder)
    _run([*git, "add", "--all"], folder)
    _run([*git, "commit", "--quiet", "--no-verify", "--message=State"], folder)
    if tag:
        _run([*git, "tag", tag], folder)


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> float:
    """Run to the end; returns the seconds of processor time, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise Failed(f"{' '.join(map(str, command))}: {last[0]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
