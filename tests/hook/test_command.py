"""The hook as Copier runs it: its exit codes, its one clear line when it cannot run, and what is left of the copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from copier import run_copy
from copier.errors import TaskError

from .conftest import ROOT, Service

ANSWERS = ".copier-answers.yml"


def validate(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command, and return its exit code, its output and its error output."""
    command = [sys.executable, str(ROOT / "hooks/validate.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_good_render_ends_with_0_and_a_verdict(service: Service):
    files = sum(path.is_file() for path in service.root.rglob("*"))
    assert validate(service.root, "copy") == (0, f"Checked {files} files: no problem found.\n", "")


def test_problems_are_all_told_in_order_and_end_with_1(service: Service):
    second = service.append("chassis/pyproject.toml", "x\n")
    first = service.append("chassis/pyproject.toml", "# {{ x }}\n")
    (service.root / "LICENSE").write_text("{% x %}\n")
    code, out, err = validate(service.root, "copy")
    assert (code, err) == (1, "")
    assert [line.split(": ")[0] for line in out.splitlines()[:-1]] == [
        "LICENSE:1",
        f"chassis/pyproject.toml:{second}",
        f"chassis/pyproject.toml:{first}",
    ]
    assert out.endswith(" files: 3 problems found.\n")


def test_it_changes_nothing(service: Service):
    def state() -> dict[Path, tuple[int, int, bytes]]:
        files = [path for path in service.root.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes()) for path in files}

    service.commit()
    before = state()
    assert validate(service.root, "copy")[0] == validate(service.root, "update")[0] == 0
    assert state() == before


@pytest.mark.parametrize("arguments", [[], ["check"], ["--help"], ["copy", ANSWERS, "more"]])
def test_wrong_usage(service: Service, arguments: list[str]):
    usage = "usage: validate.py copy|update [ANSWERS_FILE], in the folder of a rendered service\n"
    assert validate(service.root, *arguments) == (2, "", usage)


def test_a_folder_that_is_no_render(tmp_path: Path):
    message = f"Cannot check: this folder has no {ANSWERS}, so it is not a rendered service\n"
    assert validate(tmp_path, "copy") == validate(tmp_path, "update") == (2, "", message)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff", "is not YAML"),
        (b"a: !!python/object:os.system x", "is not YAML"),
        (b"", "does not have the answers of this template"),
        (b"- package_name", "does not have the answers of this template"),
        (b"project_name: My Service", "does not have the answers of this template"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, content: bytes, problem: str):
    (tmp_path / ANSWERS).write_bytes(content)
    assert validate(tmp_path, "copy") == (2, "", f"Cannot check: {ANSWERS} {problem}\n")


def test_what_cannot_be_read(tmp_path: Path):
    (tmp_path / ANSWERS).mkdir()
    assert validate(tmp_path, "copy") == (2, "", f"Cannot check: {tmp_path / ANSWERS}: Is a directory\n")


def test_another_answers_file(service: Service):
    (service.root / ANSWERS).rename(service.root / ".copier-answers.chassis.yml")
    assert validate(service.root, "copy", ".copier-answers.chassis.yml")[0] == 0


def test_a_copy_that_fails_leaves_nothing(template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    broken = tmp_path / "template"
    shutil.copytree(template, broken)
    settings = broken / "template/chassis/ruff.toml"
    settings.write_text("[[\n" + settings.read_text())
    with pytest.raises(TaskError):
        run_copy(str(broken), tmp_path / "service", defaults=True, unsafe=True, quiet=True)
    assert "chassis/ruff.toml:1: is not TOML" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == [broken]


def test_a_copy_that_fails_leaves_what_was_there(template: Path, tmp_path: Path):
    broken = tmp_path / "template"
    shutil.copytree(template, broken)
    (broken / "template/chassis/ruff.toml").write_text("[[\n")
    (tmp_path / "service").mkdir()
    (tmp_path / "service/mine").write_text("mine")
    with pytest.raises(TaskError):
        run_copy(str(broken), tmp_path / "service", defaults=True, unsafe=True, quiet=True)
    assert (tmp_path / "service/mine").read_text() == "mine"


def test_a_variable_that_an_update_brings_is_worth_a_note(service: Service):
    """Their list of variables is theirs: that it lacks one is no problem, but good to know."""
    service.replace("deploy/variables.env", "# APP_DOCS=false\n", "")
    service.commit()
    assert validate(service.root, "update")[1].startswith("Checked ")  # they took it out themselves
    service.append("chassis/src/chassis/settings.py", "\n\nclass MoreSettings:\n    region: str = 'eu'\n")
    code, out, _ = validate(service.root, "update")
    assert code == 0
    assert out.splitlines()[:-1] == [
        f"note: deploy/variables.env does not list {name}, which chassis/src/chassis/settings.py reads"
        for name in ("APP_DOCS", "APP_REGION")
    ]
