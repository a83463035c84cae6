"""Processes that outlive the one that started them, or that must not be root's, and ports.

PostgreSQL refuses to run as root, so it is started as somebody else. A user namespace maps root to an ordinary id, and
the files stay root's. Where namespaces are off, as in most containers, the process drops to `nobody`, who must then be
able to reach the folders.
"""

import http.client
import os
import pwd
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chassis.failure import Failure


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


_PASSED_ON = ("HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


class NotPermitted(Failure):
    """Nothing but root can run here."""


@dataclass(frozen=True)
class Unprivileged:
    """How to run a command as somebody who is not root."""

    prefix: tuple[str, ...] = ()
    account: pwd.struct_passwd | None = None

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run to its end, with neither a terminal nor what the caller has in its environment, such as secrets."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            env=environment | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            user=self.account and self.account.pw_uid,
            group=self.account and self.account.pw_gid,
            extra_groups=self.account and [],
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us
            check=False,
        )

    def spawn(self, command: Sequence[str | Path], log: Path) -> int:
        """Start a process that outlives this one, in a session of its own, and return its id."""
        started = self.run(["sh", "-c", 'log=$1; shift; "$@" >"$log" 2>&1 & echo $!', "sh", log, *command])
        return int(started.stdout)

    def own(self, path: Path) -> None:
        """Let the account that commands run as have `path`."""
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)


def unprivileged(directory: Path, binaries: Path) -> Unprivileged:
    """Decide how to run the programs in `binaries` on files in `directory`. Raises NotPermitted."""
    if os.geteuid() != 0:
        return Unprivileged()
    if _namespaces_work():
        return Unprivileged(prefix=_NAMESPACE)
    nobody = Unprivileged(account=pwd.getpwnam("nobody"))
    nobody.own(directory)
    for folder in (directory, binaries):
        if nobody.run(["ls", folder]).returncode != 0:
            raise NotPermitted(f"PostgreSQL does not run as root, and no other user can enter {folder}")
    return nobody


@cache
def _namespaces_work() -> bool:
    try:
        return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
