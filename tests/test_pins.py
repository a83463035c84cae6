"""What is installed here is what was tried: pinned with hashes, within the bounds that a service asks for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.requirements import service_requirements

SHARED = ("requirements.txt", "requirements-dev.txt")
FILES = (*SHARED, "requirements-terraform.txt")


def pins(name: str) -> dict[str, set[str]]:
    """The versions that a file pins each package to: more than one if Pythons differ."""
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_version_or_its_hash(name: str):
    """No address of an index either: whoever installs decides where from."""
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line)


def test_both_files_pin_the_same():
    small, large = (pins(name) for name in SHARED)
    assert {package: large.get(package) for package in small} == small


@pytest.mark.parametrize("requirement", service_requirements())
def test_what_a_service_asks_for_is_what_its_types_are_checked_against_here(requirement: str):
    """From the version that is pinned to one that may break: both bounds are there, and the lower one is tested."""
    wanted = Requirement(requirement)
    (version,) = pins("requirements-dev.txt")[canonicalize_name(wanted.name)]
    assert sorted(bound.operator for bound in wanted.specifier) == ["<", ">="]
    assert wanted.specifier.contains(version), "run make requirements"


@pytest.mark.parametrize(("variables", "outcome"), [({}, "1 skipped"), ({"CHASSIS_CI": "1"}, "1 failed")])
def test_a_skip_is_a_failure_in_the_pipeline(variables: dict[str, str], outcome: str, tmp_path: Path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_skip.py").write_text("import pytest\n\ndef test_skip():\n    pytest.skip('no such Python')\n")
    environment = {name: value for name, value in os.environ.items() if name != "CHASSIS_CI"} | variables
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome in done.stdout.splitlines()[-1]
    assert "no such Python" in done.stdout or not variables
