"""An update brings what is the template's and touches nothing that is the service's."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tree
from copier import run_update
from copier.errors import TaskError, UnsafeTemplateError
from updating_support import NEW, OLD, commit, copy, git, make_releases, replace, update, write

OURS = ".copier-answers.yml", ".github/", ".python-version", "chassis/", "deploy/"
THEIRS = ("deploy/variables.env", "deploy/waivers.txt")
MERGED = "chassis/src/chassis/merged.py"


@pytest.fixture(scope="session")
def releases(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "template"
    make_releases(template, folder)
    return folder


@pytest.fixture(scope="session")
def old(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service rendered with the old release, in a repository."""
    folder = tmp_path_factory.mktemp("old") / "service"
    copy(releases, folder, OLD)
    commit(folder, "Start from the template")
    return folder


@pytest.fixture(scope="session")
def new(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a copy of the new release."""
    folder = tmp_path_factory.mktemp("new") / "service"
    copy(releases, folder, NEW)
    return tree(folder)


@pytest.fixture
def service(old: Path, tmp_path: Path) -> Path:
    shutil.copytree(old, tmp_path / "service", symlinks=True)
    return tmp_path / "service"


def is_ours(path: str) -> bool:
    return path.startswith(OURS) and path not in THEIRS


def test_an_update_of_the_old_equals_a_copy_of_the_new(service: Path, new: dict[str, bytes]):
    before = tree(service)
    update(service)
    after = tree(service)
    assert {path: text for path, text in after.items() if is_ours(path)} == {
        path: text for path, text in new.items() if is_ours(path)
    }
    assert {path: text for path, text in after.items() if not is_ours(path)} == {
        **{path: text for path, text in before.items() if not is_ours(path)},
        "docs/added.md": b"# New\n",
    }
    assert "chassis/src/chassis/dropped.py" in before.keys() - after.keys()
    assert after["deploy/added/added.yaml"] == b"package: my_service\n"
    assert (service / "deploy/start").stat().st_mode & 0o111, "the run bit comes too"
    assert not git(service, "ls-files", "--unmerged")


def test_the_hook_checks_strictly_what_an_update_writes(service: Path, monkeypatch: pytest.MonkeyPatch):
    before = tree(service)
    update(service)
    after = tree(service)
    written = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    monkeypatch.setattr(sys, "path", [str(ROOT / "hooks"), *sys.path])
    validate = importlib.import_module("validate")
    theirs = validate.seeded_paths()
    assert written == {path for path in before.keys() & after.keys() if not theirs.match(path)}


def test_no_line_of_theirs_is_lost(service: Path, new: dict[str, bytes], capfd: pytest.CaptureFixture[str]):
    rendered = tree(service)
    theirs = [path for path in rendered if not is_ours(path)]
    for path in theirs:
        (service / path).write_bytes(b"# mine\n" + (service / path).read_bytes() + b"# mine too\n")
    assert {path.split("/")[0] for path in theirs} >= {
        "README.md",
        "deploy",
        "docs",
        "migrations",
        "pyproject.toml",
        "src",
    }
    replace(service, "pyproject.toml", "dependencies = [\n", 'dependencies = [\n    "httpx2>=2.0",\n')
    write(service, "src/my_service/billing/__init__.py", "MINE = True\n")
    write(service, "src/my_service/billing/page.html", "{% block mine %}{{ mine }}{% endblock %}\n")
    write(service, "src/my_service/added.py", "MINE = True\n")
    write(service, "migrations/versions/billing.py", "MINE = True\n")
    write(service, "tests/fixtures/broken.json", "{")
    write(service, "docs/mine.md", "# Mine\n")
    write(service, "deploy/mine.yaml", "mine: [\n")
    write(service, ".github/workflows/mine.yml", "jobs: {}\n")
    shutil.rmtree(service / "src/my_service/webhooks")
    (service / "src/my_service/orders/events.py").unlink()
    commit(service, "Make it mine")
    before = tree(service)

    update(service)

    after = tree(service)
    mine = {path: text for path, text in before.items() if path not in rendered or not is_ours(path)}
    assert {path: after.get(path) for path in mine} == mine
    assert after.keys() - before.keys() == {path for path in new if is_ours(path)} - before.keys() | {"docs/added.md"}
    assert not git(service, "ls-files", "--unmerged")
    assert capfd.readouterr().out.endswith(" files: no problem found.\n")


def test_what_they_deleted_of_the_templates_stays_deleted(service: Path):
    (service / "chassis/ruff.toml").unlink()
    commit(service, "We lint with something else")
    update(service)
    assert not (service / "chassis/ruff.toml").exists()


@pytest.mark.parametrize("skip_tasks", [False, True])
def test_an_update_has_to_be_trusted(service: Path, skip_tasks: bool):
    """Copier asks for trust whatever is skipped, as the check of an update is a migration to it: README.md says so."""
    with pytest.raises(UnsafeTemplateError):
        run_update(service, vcs_ref=NEW, defaults=True, overwrite=True, quiet=True, skip_tasks=skip_tasks)
    assert not git(service, "status", "--porcelain")


def test_an_edit_of_the_templates_own_files_is_merged_where_that_can_be(service: Path):
    replace(service, MERGED, "LINE_15 = 15", "LINE_15 = 'mine'")
    commit(service, "Patch the chassis")
    update(service)
    text = (service / MERGED).read_text()
    assert "LINE_15 = 'mine'\n" in text
    assert "LINE_5 = 50\n" in text


def test_a_conflict_fails_the_update_and_is_named(service: Path, capfd: pytest.CaptureFixture[str]):
    replace(service, MERGED, "LINE_5 = 5", "LINE_5 = 'mine'")
    commit(service, "Patch the chassis")
    with pytest.raises(TaskError, match="non-zero exit status 1"):
        update(service)
    text = (service / MERGED).read_text()
    assert "LINE_5 = 'mine'\n" in text
    assert "LINE_5 = 50\n" in text
    assert capfd.readouterr().out.splitlines()[-2:] == [
        f"{MERGED}:6: has a conflict: keep what is needed of both sides and remove the markers",
        f"Checked {len([path for path in tree(service) if is_ours(path)])} files: 1 problem found.",
    ]


def test_a_rejected_change_fails_the_update_and_is_named(service: Path, capfd: pytest.CaptureFixture[str]):
    replace(service, MERGED, "LINE_5 = 5", "LINE_5 = 'mine'")
    write(service, ".gitignore", "*.rej\n")
    commit(service, "Patch the chassis")
    with pytest.raises(TaskError, match="non-zero exit status 1"):
        update(service, conflict="rej")
    assert "LINE_5 = 'mine'" in (service / f"{MERGED}.rej").read_text()
    message = f"has changes that could not be merged into {MERGED}: make them and remove it"
    assert capfd.readouterr().out.splitlines()[-2] == f"{MERGED}.rej:1: {message}"
