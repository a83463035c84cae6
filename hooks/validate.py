"""Check a service that was just rendered or updated, and print each problem as `path:line: message`, then a verdict.

    python validate.py copy|update [ANSWERS_FILE]

Copier runs it in the service's folder: after a copy from `_tasks`, after an update from `_migrations`. It changes
nothing, asks no network, and needs the standard library and PyYAML, which Copier brings. Exit code 0: nothing found.
1: problems. 2: it cannot be run here.

What is checked strictly: after a copy, the files that the template renders; after an update those of them that the
template goes on owning. Which these are is read from `template/` and `copier.yml` beside this file, so a file that the
service adds is never among them, in whatever folder it lies: its own Jinja pages, broken JSON for a test, vendored
code, an unpinned workflow. After an update all files that it changed, and all that the template ever renders, are
searched for conflicts: those are always the update's doing. Links, and files that were deleted, are left alone.

To measure it: `hyperfine 'python …/hooks/validate.py copy'` in a rendered folder.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, cast

import yaml
from facts import FACTS, SETTINGS, variables_to_list
from syntax import build_yaml, conflicts, jinja_in_name, jinja_left_over, parses, run_bit
from tree import Problem, Tree
from workflows import workflow

TEMPLATE: Final = Path(__file__).resolve().parent.parent
USAGE: Final = "usage: validate.py copy|update [ANSWERS_FILE], in the folder of a rendered service"


class CannotCheckError(Exception):
    """There is nothing here that could be checked. The message is one line."""


def main(arguments: list[str]) -> int:
    """Check the current folder and print what is wrong."""
    if len(arguments) not in (1, 2) or arguments[0] not in ("copy", "update"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        files, problems, notes = check(Path.cwd(), *arguments)
    except CannotCheckError as error:
        print(f"Cannot check: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Cannot check: {error.filename or 'the folder'}: {error.strerror}", file=sys.stderr)
        return 2
    for path, line, message in problems:
        print(f"{path}:{line}: {message}")
    for note in notes:
        print(f"note: {note}")
    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no problem"
    print(f"Checked {files} files: {count} found.")
    return 1 if problems else 0


class Report(NamedTuple):
    """How many files were checked strictly, all problems, and what is worth knowing but no problem."""

    files: int
    problems: list[Problem]
    notes: list[str]


def check(root: Path, operation: str, answers_file: str = ".copier-answers.yml") -> Report:
    """Check a folder after a `copy` or an `update`."""
    answers = _answers(root / answers_file)
    rendered = rendered_paths({**answers, "_copier_conf.answers_file": answers_file})
    if operation == "copy":
        tree = Tree(root, answers, rendered)
        merged, names = set(rendered), _beside(root, tree.contents)
        problems: list[Problem] = []
        notes: list[str] = []
    else:
        changed = _changed(root)
        theirs = seeded_paths()
        tree = Tree(root, answers, tuple(path for path in rendered if not theirs.match(path)))
        merged, names = {*rendered, *changed}, changed
        problems = list(_rejected(tree, merged))
        notes = list(variables_to_list(tree)) if SETTINGS in changed else []
    conflicted = {path: list(conflicts(tree.read(path) or b"", path, answers)) for path in merged}
    problems += chain.from_iterable(conflicted.values())
    problems += chain.from_iterable(map(jinja_in_name, names))
    for path in tree.contents:
        for look in (jinja_left_over, parses, run_bit, workflow):
            problems += look(tree, path)
    for fact in FACTS:
        problems += fact(tree)
    # A file with a conflict is no longer what it should be in many ways; all of them go with the conflict.
    told = [problem for problem in problems if not conflicted.get(problem.path) or problem in conflicted[problem.path]]
    return Report(len(tree.contents), sorted(told), notes)


def _answers(file: Path) -> Mapping[str, object]:
    try:
        answers = build_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotCheckError(f"this folder has no {file.name}, so it is not a rendered service") from None
    except (yaml.YAMLError, ValueError):
        raise CannotCheckError(f"{file.name} is not YAML") from None
    if not isinstance(answers, dict) or "package_name" not in answers:
        raise CannotCheckError(f"{file.name} does not have the answers of this template")
    return cast("Mapping[str, object]", answers)


def rendered_paths(answers: Mapping[str, object]) -> tuple[str, ...]:
    """The paths of the template's files, their names filled in as Copier does it. Some may not be rendered."""

    def answer(match: re.Match[str]) -> str:
        return str(answers.get(match[1], match[0]))

    def chosen(match: re.Match[str]) -> str:
        return match[3] if answers.get(match[1]) == match[2] else ""

    files = TEMPLATE / "template"
    paths = (file.relative_to(files).as_posix().removesuffix(".jinja") for file in files.rglob("*") if file.is_file())
    paths = (re.sub(r"\{% if (\w+) == '(.+?)' %\}(.+)\{% endif %\}", chosen, path) for path in paths)
    return tuple(sorted(re.sub(r"\{\{ ([\w.]+) \}\}", answer, path) for path in paths if not path.endswith("/")))


def seeded_paths() -> re.Pattern[str]:
    """What an update leaves to the service, as copier.yml says it: the seeded paths, and those it only adds to."""
    config = cast("dict[str, list[str]]", build_yaml((TEMPLATE / "copier.yml").read_text(encoding="utf-8")))
    seeds = next(entry for entry in config["_exclude"] if "_copier_operation == 'update'" in entry)
    paths = [line.removeprefix("/") for line in seeds.splitlines() if line.startswith("/")]
    paths += [path.removesuffix("/**") for path in config["_skip_if_exists"]]
    return re.compile(rf"({'|'.join(map(re.escape, paths))})(/|$)")


def _changed(root: Path) -> set[str]:
    """The files that differ from the last commit or are new: as Copier updates clean folders only, its doing."""
    command = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git or no repository
        return set()
    return set(os.fsdecode(listing).split("\0")) - {""}


def _beside(root: Path, paths: Iterable[str]) -> set[str]:
    """All that is in the folders that these files are in."""
    folders = {(root / path).parent for path in paths}
    return {path.relative_to(root).as_posix() for folder in folders for path in folder.iterdir()}


def _rejected(tree: Tree, merged: set[str]) -> Iterator[Problem]:
    """Find what `copier update --conflict rej` leaves beside a file that it could not merge, ignored by git or not."""
    for path in {path.removesuffix(".rej") for path in merged}:
        if tree.mode(rejected := f"{path}.rej"):
            yield Problem(rejected, 1, f"has changes that could not be merged into {path}: make them and remove it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
