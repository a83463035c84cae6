"""The service as a child process of `chassis dev`, started again whenever a file changes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from watchfiles import watch

from chassis.data import heads
from chassis.dev.database import DEMO_EMAIL, DEMO_PASSWORD, state_folder
from chassis.dev.processes import get, runs
from chassis.failure import Failure
from chassis.features import PROJECT
from chassis.settings import Settings

Child = subprocess.Popen[bytes]

_CHASSIS = (sys.executable, "-m", "chassis.cli")
_READY_SECONDS = 60.0
_STOP_SECONDS = 5.0


def start_child() -> Child:
    """Start the service, in a process group of its own: Ctrl-C is for us to pass on."""
    child = subprocess.Popen([*_CHASSIS, "serve"], stdin=subprocess.DEVNULL, process_group=0)
    _pid_file().write_text(f"{child.pid}\n")
    return child


def serve_and_reload(child: Child, settings: Settings) -> None:
    """Wait for the service, and start it again when code or a migration changes, until an exception ends it."""
    print("Starting the service ...", flush=True)
    _wait(child, settings)
    if child.poll() is not None:
        raise Failure("the service did not start; its reason is above")
    _welcome(settings)
    root = heads.service_revisions().parent.parent
    told = False
    # fmt: off
    watched = watch(
        root / "src", root / "chassis" / "src", root / "migrations",
        watch_filter=lambda _, path: path.endswith(".py"), rust_timeout=500, yield_on_timeout=True,
    )
    # fmt: on
    for changes in watched:
        if changes:
            files = sorted(Path(path).relative_to(root) for _, path in changes)
            print(f"{files[0]}{' and others' if files[1:] else ''} changed: starting again ...", flush=True)
            stop_child()
            if any("migrations" in file.parts for file in files):
                subprocess.run([*_CHASSIS, "migrate"], check=False)
            child, told = start_child(), False
            _wait(child, settings)
        elif child.poll() is not None and not told:
            print(f"The service ended with exit code {child.returncode}; it waits for a change.", flush=True)
            told = True


def stop_child() -> bool:
    """Stop the service that this or a killed `chassis dev` started; returns whether there was one."""
    pid = _running_child()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while _running_child() is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True


def _running_child() -> int | None:
    return runs(_pid_file(), "chassis.cli serve")


def _pid_file() -> Path:
    return state_folder() / "serve.pid"


def _wait(child: Child, settings: Settings) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while child.poll() is None and not _is_ready(settings):
        if time.monotonic() > deadline:
            print(f"{_url(settings)}/readyz still says that it is not ready.", flush=True)
            return
        time.sleep(0.05)


def _is_ready(settings: Settings) -> bool:
    return get(settings.host, settings.port, "/readyz")[0] == 200


def _welcome(settings: Settings) -> None:
    url = _url(settings)
    print(
        f"""
{PROJECT} runs on {url} and starts again when a file changes. Ctrl-C stops all of it. Try:

    TOKEN=$(curl -s {url}/v1/auth/signin -H 'Content-Type: application/json' \\
      --data '{{"email": "{DEMO_EMAIL}", "password": "{DEMO_PASSWORD}"}}' \\
      | sed 's/.*"access_token":"\\([^"]*\\).*/\\1/')
    curl -H "Authorization: Bearer $TOKEN" {url}{_first_list(settings)}

API {url}/docs   metrics http://{_host(settings)}:{settings.metrics_port}/metrics   guide README.md and docs/
""",
        flush=True,
    )


def _first_list(settings: Settings) -> str:
    """The path of the first list that the API has."""
    status, body = get(settings.host, settings.port, "/openapi.json")
    paths: dict[str, Iterable[str]] = json.loads(body)["paths"] if status == 200 else {}  # it may be closed
    return next((path for path, methods in paths.items() if "get" in methods and "{" not in path), "/version")


def _url(settings: Settings) -> str:
    return f"http://{_host(settings)}:{settings.port}"


def _host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host
