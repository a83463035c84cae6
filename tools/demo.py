"""Render a service with default answers into a temporary folder and run it there: `make demo`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from copier import run_copy
from copier.errors import CopierError, DirtyLocalWarning

ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """Its message is for the person who typed the command."""


def demo() -> int:
    """Run the service until it ends or Ctrl-C; the folder and everything that was started are gone then."""
    for port in ports():
        refuse_busy(port)
    folder = Path(tempfile.mkdtemp(prefix="chassis-demo-"))
    try:
        service = folder / "my-service"
        print(f"Rendering a service with default answers into {service} ...", flush=True)
        warnings.simplefilter("ignore", DirtyLocalWarning)  # what is not committed is taken along, as it should
        run_copy(str(ROOT), service, vcs_ref="HEAD", defaults=True, unsafe=True, quiet=True)
        return run(service)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(service: Path) -> int:
    """`make dev`, in a process group of its own: Ctrl-C reaches it once, through us, and we wait for its end."""
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "UV_PYTHON": sys.executable,  # the Python that is here, even where the answers name a newer one
    }
    for inherited in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(inherited, None)
    process = subprocess.Popen(["make", "--no-print-directory", "dev"], cwd=service, env=environment, process_group=0)

    def pass_on(number: int, _frame: object) -> None:
        os.killpg(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return 0 if process.wait() in (0, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP, 130) else 1


def ports() -> list[int]:
    try:
        port = int(os.environ.get("PORT", "8000"))
    except ValueError:
        raise Failed(f"PORT={os.environ['PORT']} is no number") from None
    if not 1 <= port <= 65534:
        raise Failed(f"PORT={port} is none that a service can have: choose one from 1024 to 65534")
    return [port, int(os.environ.get("METRICS_PORT") or port + 1)]


def refuse_busy(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failed(
                f"port {port}: {(error.strerror or 'not free').lower()}; try another: PORT=8080 make demo"
            ) from None


if __name__ == "__main__":
    try:
        sys.exit(demo())
    except (Failed, CopierError, OSError) as problem:
        sys.exit(f"chassis: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
