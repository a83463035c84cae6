"""Processes that outlive the one that started them, and ports."""

import http.client
import os
import socket
import subprocess
from pathlib import Path


def command_line(pid: int) -> str:
    """How the running process `pid` was started; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        pass
    if Path("/proc/self").exists():
        return ""
    ps = ["ps", "-ww", "-o", "args=", "-p", str(pid)]  # macOS has no /proc
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout


def runs(pid_file: Path, mark: str) -> int | None:
    """The process in the first line of `pid_file`, if it still runs and `mark` is in its command line.

    An id alone says little: after a restart of the machine another process may have it.
    """
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid if mark in command_line(pid) else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_busy(host: str, port: int) -> bool:
    """Whether somebody listens on `port` already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """The status and body that an HTTP server answers with; status 0 when it does not within 2 seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
