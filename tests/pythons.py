"""The interpreters that the tests run, found by name: the oldest and the newest that a service supports."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

OLDEST, NEWEST = TESTED = ("3.11", "3.13")


def python(version: str) -> Path:
    """The interpreter of this version on PATH or among pyenv's; without one the test is skipped."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith(f"Python {version}."):  # a shim of pyenv's may be there for a version that is not
            return Path(candidate)
    pytest.skip(f"there is no Python {version} on PATH or in {pyenv}")
