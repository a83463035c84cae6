"""The pages say what is so: every command in them runs, every link leads somewhere, the list of questions is current.

The blocks of `sh` are run, page by page and from the top, by a bash that stops at the first command that fails. Only
`make` is not obeyed but asked whether it knows how (`--dry-run`): its targets run for real in test_service.py and
test_demo.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from copier import run_copy
from test_rendering import seeded_entries

from tools.questions import TARGET, page

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]

# The first real `make` writes uv.lock.
MAKE = """#!/bin/sh
test ! -d chassis || touch uv.lock
exec {make} --dry-run "$@" >/dev/null
"""


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def releases(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository as it lies, with two releases: v0.2.0 says more in one file of the template's."""
    clone = tmp_path_factory.mktemp("releases") / "chassis"
    shutil.copytree(template, clone)
    shutil.copy2(ROOT / "Makefile", clone)
    (clone / ".gitignore").write_text(".venv\n")
    (clone / ".venv").symlink_to(Path(sys.prefix))
    git(clone, "init", "--quiet")
    release(clone, "v0.1.0")
    with (clone / "template" / "chassis" / "ruff.toml").open("a") as file:
        file.write("# New in v0.2.0.\n")
    release(clone, "v0.2.0")
    return clone


@pytest.fixture
def service(releases: Path, tmp_path: Path) -> Path:
    """A service of v0.1.0, everything committed."""
    folder = tmp_path / "my-service"
    run_copy(str(releases), folder, vcs_ref="v0.1.0", defaults=True, unsafe=True, quiet=True)
    git(folder, "init", "--quiet")
    release(folder, "rendered")
    return folder


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "sh")], ids=lambda path: path.name)
def test_every_command_of_a_page_runs(path: Path, request: pytest.FixtureRequest, releases: Path, tmp_path: Path):
    start: Path = request.getfixturevalue("service") if path.name == "updating.md" else releases
    if path.name == "getting-started.md":
        start = tmp_path
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE.format(make=shutil.which("make")))
    (tmp_path / "bin" / "make").chmod(0o755)
    variables = {"CHASSIS": str(releases), "DESTINATION": str(tmp_path / "there"), "RELEASE": "v0.2.0"}
    variables["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(blocks(path, "sh"))]
    done = subprocess.run(
        command,
        cwd=start,
        env={**os.environ, **variables},
        input="\n" * 20,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{path.name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_an_update_by_the_page_arrives_at_the_new_release(service: Path):
    """The pages' own command for it, so that a page which runs is also one that does something."""
    (command,) = {line for line in blocks(ROOT / "docs" / "updating.md", "sh")[0].splitlines() if line}
    subprocess.run(["bash", "-euc", command], cwd=service, check=True, capture_output=True)
    assert (service / "chassis" / "ruff.toml").read_text().endswith("# New in v0.2.0.\n")


def test_what_a_page_leaves_running_is_run_elsewhere():
    commands = {line for path in PAGES for block in blocks(path, "console") for line in block.splitlines()}
    assert commands == {"make dev"}, "test_demo.py runs this one; a new one needs a test"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path):
    every_link_leads_somewhere(path)


def every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^a-z0-9 _-]", "", text.lower()).replace(" ", "-") for text in headings], target


def test_the_list_of_questions_is_the_one_of_copier_yml():
    assert TARGET.read_text(encoding="utf-8") == page(), "run make docs"


def test_ownership_names_what_copier_yml_seeds():
    ownership = (ROOT / "docs" / "ownership.md").read_text(encoding="utf-8")
    yours = {name for line in ownership.splitlines() if line.endswith("| yours | nothing |") for name in named(line)}
    assert yours == {entry.removeprefix("/") for entry in seeded_entries()}


def named(line: str) -> list[str]:
    return [name.rstrip("/") for name in re.findall(r"`([^`]+)`", line)]


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def release(folder: Path, tag: str) -> None:
    """Commit everything, and tag it."""
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", f"--message={tag}")
    git(folder, "tag", tag)
