"""Make .venv and install what this repository pins: `make demo`, `make check` and `make test` run it first.

    python3 tools/bootstrap.py          # what renders a service
    python3 tools/bootstrap.py --dev    # and what tests and checks the template

It needs Python 3.11 and nothing else, says in one line what is missing, and does nothing when nothing has changed.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"

OFFLINE = ("NewConnectionError", "from versions: none", "dns error", "Connection refused", "Network is unreachable")


class Failed(Exception):
    """Its message is for the person who typed the command."""


def bootstrap(*, dev: bool) -> None:
    files = [ROOT / "requirements.txt", *([ROOT / "requirements-dev.txt"] if dev else [])]
    stamp = VENV / f"installed-{files[-1].stem}"
    wanted = hashlib.sha256(sys.version.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and version_of(PYTHON) == sys.version:
        return
    if not os.access(ROOT, os.W_OK):
        raise Failed(f"the folder {ROOT} is read-only: clone the repository to one that you can write to")
    if version_of(PYTHON) != sys.version:
        print("Making a virtual environment in .venv ...", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.DEVNULL, check=False)
        if made.returncode != 0:
            raise Failed("this Python makes no virtual environments: on Debian and Ubuntu, apt install python3-venv")
    install([str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"], files[0])
    for file in files[1:]:
        # With uv, whose cache the rendered services share: nothing is downloaded twice.
        install([str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON)], file)
    stamp.write_text(wanted)


def install(command: list[str], file: Path) -> None:
    """Install what a file pins, and keep what the installer says in a log."""
    print(f"Installing what {file.name} pins ...", flush=True)
    with LOG.open("w", encoding="utf-8") as log:
        done = subprocess.run([*command, "--require-hashes", "-r", file], stdout=log, stderr=log, check=False)
    if done.returncode != 0:
        offline = any(sign in LOG.read_text(encoding="utf-8") for sign in OFFLINE)
        reason = "there is no network: the package index is out of reach" if offline else "the installation failed"
        raise Failed(f"{reason}; the installer's own words are in {LOG}")


def version_of(python: Path) -> str | None:
    """What an interpreter says of itself; nothing when it is not there, or does not run any more."""
    if not python.exists():
        return None
    asked = subprocess.run([python, "-c", "import sys; print(end=sys.version)"], stdout=subprocess.PIPE, check=False)
    return asked.stdout.decode() or None


if __name__ == "__main__":
    try:
        bootstrap(dev="--dev" in sys.argv[1:])
    except (Failed, OSError) as problem:
        sys.exit(f"chassis: {problem}")
