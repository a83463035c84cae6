"""Two releases of the template, and a service that was rendered with the first."""

import shutil
import subprocess
from pathlib import Path

from copier import run_copy, run_update

OLD, NEW = "v0.0.1", "v0.0.2"
NEW_QUESTIONS = ("shared_store", "deploy_target")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, message: str) -> None:
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", message)


def make_releases(template: Path, folder: Path) -> None:
    """Make a repository of the template as it lies, tagged OLD, and of one in which every file differs, tagged NEW.

    The new one asks what the old one did not.
    """
    shutil.copytree(template, folder)
    for question in NEW_QUESTIONS:
        rename_question(folder, question, f"no_{question}")
        replace(folder, "copier.yml", f"no_{question}:\n", f"no_{question}:\n  when: false\n")
    write(folder, "template/chassis/src/chassis/dropped.py", "OLD = True\n")
    write(folder, "template/src/{{ package_name }}/dropped.py", "OLD = True\n")
    write(folder, "template/chassis/src/chassis/merged.py", "".join(f"LINE_{n} = {n}\n" for n in range(20)))
    write(folder, "template/docs/kept.md", "# Old\n")
    write(folder, "template/deploy/start", "exit 0\n")
    commit(folder, "The first release")
    git(folder, "tag", OLD)
    for file in (folder / "template").rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.write_bytes(file.read_bytes() + b"\n")
    (folder / "template/chassis/src/chassis/dropped.py").unlink()
    (folder / "template/src/{{ package_name }}/dropped.py").unlink()
    write(folder, "template/chassis/src/chassis/added.py", "NEW = True\n")
    write(folder, "template/deploy/added/added.yaml.jinja", "package: {{ package_name }}\n")
    write(folder, "template/src/{{ package_name }}/added.py", "NEW = True\n")
    write(folder, "template/docs/added.md", "# New\n")
    (folder / "template/deploy/start").chmod(0o755)
    replace(folder, "template/chassis/src/chassis/merged.py", "LINE_5 = 5", "LINE_5 = 50")
    for question in NEW_QUESTIONS:
        replace(folder, "copier.yml", f"no_{question}:\n  when: false\n", f"no_{question}:\n")
        rename_question(folder, f"no_{question}", question)
    commit(folder, "The second release")
    git(folder, "tag", NEW)


def write(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)


def replace(folder: Path, path: str, old: str, new: str) -> None:
    text = (folder / path).read_text()
    assert old in text, f"{path} has no {old!r}"
    (folder / path).write_text(text.replace(old, new, 1))


def rename_question(folder: Path, before: str, after: str) -> None:
    for file in (folder / "copier.yml", *folder.glob("template/**/*.jinja")):
        file.write_text(file.read_text().replace(before, after))
    for file in folder.glob(f"template/**/*{before}*"):
        file.rename(file.with_name(file.name.replace(before, after)))


def copy(releases: Path, folder: Path, release: str) -> None:
    run_copy(str(releases), folder, vcs_ref=release, defaults=True, unsafe=True, quiet=True)


def update(folder: Path, conflict: str = "inline") -> None:
    """Update to NEW. Raises `TaskError` if the hook finds a problem."""
    run_update(
        folder,
        vcs_ref=NEW,
        defaults=True,
        overwrite=True,
        unsafe=True,
        quiet=True,
        conflict="rej" if conflict == "rej" else "inline",
    )
