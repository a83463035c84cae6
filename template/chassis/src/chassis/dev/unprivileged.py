"""Running as root: PostgreSQL refuses that, so it is started as somebody else.

A user namespace maps root to an ordinary id, and the files stay root's. Where namespaces are off, as in most
containers, the process drops to `nobody`, who must then be able to reach the folders.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chassis.failure import Failure

_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


class NotPermitted(Failure):
    """Nothing but root can run here."""


@dataclass(frozen=True)
class Unprivileged:
    """How to run a command as somebody who is not root."""

    prefix: tuple[str, ...] = ()
    account: pwd.struct_passwd | None = None

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run to its end, with neither a terminal nor the caller's locale."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
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
