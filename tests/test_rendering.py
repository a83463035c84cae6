"""Renders of many combinations of answers: each whole, each accepted by the hook, each answer seen in its place."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from conftest import ROOT, Render, tree
from pytest_copie.plugin import Copie
from test_hostile_answers import parsed
from test_questions import QUESTIONS

Answers = dict[str, str]

# For a question without choices, its default and one value that is as unlike it as it may be.
VALUES: dict[str, list[str]] = {
    "project_name": ["My Service", """The "2nd" Ærøskøbing's 🚀"""],
    "package_name": ["my_service", "x" * 40],
    "description": ["A service that is ready for its first users.", """100% "quoted", it's {{ braced }}: - 'yes'"""],
    "owner": ["example-org", "0"],
    "contact_email": ["team@example.com", "o_reilly.x+y%z@mail.example.co.uk"],
}
for name, question in QUESTIONS.items():
    if "choices" in question:
        choices = cast("list[str] | dict[str, str]", question["choices"])
        VALUES[name] = list(choices.values() if isinstance(choices, dict) else choices)


def covering_array(values: dict[str, list[str]]) -> list[Answers]:
    """Rows in which every pair of two questions' values occurs: greedy, and the same every time."""
    pairs = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(values, 2)
        for a, b in itertools.product(values[one], values[other])
    }
    rows: list[Answers] = []
    while pairs:
        row: Answers = dict(min(pairs))
        for question in values:
            if question not in row:
                row[question] = max(
                    values[question], key=lambda value: len(pairs & pairs_of({**row, question: value}, values))
                )
        pairs -= pairs_of(row, values)
        rows.append(row)
    return rows


def pairs_of(row: Answers, values: dict[str, list[str]]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    answered = [(question, row[question]) for question in values if question in row]
    return set(itertools.combinations(answered, 2))


ROWS = covering_array(VALUES)


def test_the_rows_answer_every_question_with_every_value_in_every_pair():
    assert set(VALUES) == set(QUESTIONS), "a new question needs its values here"
    seen = set[tuple[tuple[str, str], tuple[str, str]]]().union(*(pairs_of(row, VALUES) for row in ROWS))
    for one, other in itertools.combinations(VALUES, 2):
        for a, b in itertools.product(VALUES[one], VALUES[other]):
            assert ((one, a), (other, b)) in seen
    assert len(ROWS) <= 16, "the smallest possible is the product of the two largest questions"


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_combination_of_answers_renders_whole(row: Answers, copie: Copie, template: Path):
    # With the hook, which fails the copy. The type of `copy` is a bare `dict`.
    result = copie.copy(extra_answers=row, template_dir=template)  # pyright: ignore[reportUnknownMemberType]
    assert result.exception is None
    assert result.project_dir is not None
    assert cast("Answers", result.answers) == row  # pyright: ignore[reportUnknownMemberType]
    files = parsed(result.project_dir)
    project = files["pyproject.toml"]["project"]
    name = row["package_name"].replace("_", "-")
    assert project["name"] == name
    assert project["entry-points"]["chassis"] == {"app": f"{row['package_name']}.main:app"}
    assert project["authors"] == [{"name": row["owner"], "email": row["contact_email"]}]
    assert project["urls"] == {"Repository": f"https://github.com/{row['owner']}/{name}"}
    assert files["chassis/pyproject.toml"]["project"]["name"] == f"{name}-chassis"
    assert (result.project_dir / "src" / row["package_name"] / "main.py").is_file()
    assert (result.project_dir / ".python-version").read_text() == row["python_version"] + "\n"
    for path in result.project_dir.rglob("*"):
        assert ".jinja" not in path.name
        assert "{{" not in path.name


@pytest.mark.parametrize("question", VALUES)
def test_every_value_of_a_question_has_an_effect_of_its_own(question: str, render: Render):
    """Beyond the answers file: a question that changes nothing is not worth a person's time."""
    trees = [tree(render(**{question: value})) for value in VALUES[question]]
    for one, other in itertools.combinations(trees, 2):
        changed = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        assert changed - {".copier-answers.yml"}


@pytest.mark.parametrize(
    ("license", "first_line", "expression"),
    [
        ("proprietary", "Copyright (c) example-org. All rights reserved.", "LicenseRef-Proprietary"),
        ("mit", "MIT License", "MIT"),
        ("apache-2.0", "Apache License", "Apache-2.0"),
    ],
)
def test_the_licence_text_is_the_one_that_was_chosen(license: str, first_line: str, expression: str, render: Render):  # noqa: A002  (named like the question)
    folder = render(license=license)
    text = (folder / "LICENSE").read_text(encoding="utf-8")
    assert text.strip().splitlines()[0].strip() == first_line
    assert parsed(folder)["pyproject.toml"]["project"]["license"] == expression
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_what_is_seeded_is_left_alone_by_an_update_and_the_rest_is_not(default_tree: dict[str, bytes]):
    """copier.yml lists each seeded path, and no path that does not exist."""
    entries = list(seeded_entries())
    unmatched = [entry for entry in entries if not any(f"/{name}/".startswith(f"{entry}/") for name in default_tree)]
    assert unmatched == []
    ours = {name for name in default_tree if not any(f"/{name}/".startswith(f"{entry}/") for entry in entries)}
    roots = {name.split("/")[0] for name in ours}
    assert roots == {".copier-answers.yml", ".github", ".python-version", "chassis", "deploy", "docs"}


def seeded_entries() -> Iterator[str]:
    for line in (ROOT / "copier.yml").read_text(encoding="utf-8").splitlines():
        if line.startswith("    /"):
            yield line.strip()


def test_a_python_file_is_never_a_template():
    """So that template/ can be linted, typed and read as the service that it becomes; but for the list of features."""
    templates = {str(path.relative_to(ROOT / "template")) for path in (ROOT / "template").rglob("*.py.jinja")}
    assert templates == {"chassis/src/chassis/features.py.jinja"}
    assert not list((ROOT / "template" / ".github" / "workflows").rglob("*.jinja"))


def test_a_default_render_stays_small(default_tree: dict[str, bytes]):
    """Each costs 5 ms of a copy. A budget of 160 was set before all that delivers, backs up and brings back."""
    assert len(default_tree) <= 197
