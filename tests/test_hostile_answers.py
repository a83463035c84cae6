"""Whatever is typed into a question for free text is refused in one line, or arrives as it was typed."""

import ast
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Render, tree
from copier import run_recopy

ACCEPTED = {
    "double quotes": 'say "hello"',
    "single quotes": "it's one",
    "both quotes": """'a' "b" 'c'""",
    "more double quotes": """a "b" and 'c""",
    "triple quotes": '"""',
    "semicolon": "a; rm -rf /",
    "command substitution": "$(touch pwned)",
    "backticks": "`touch pwned`",
    "variable": "$HOME ${PATH}",
    "jinja expression": "{{7*7}}",
    "jinja attribute": "{{ self.__init__.__globals__ }}",
    "jinja statement": "{% raw %}{# not a comment",
    "workflow expression": "${{ secrets.X }}",
    "backslashes": r"C:\new\table \u0041 \\",
    "percent": "100% %s %(name)s",
    "path": "../../etc",
    "absolute path": "/etc/passwd",
    "list item": "- x",
    "mapping": "key: value",
    "colon": ": ",
    "tag": "!!python/object:os.system x",
    "yaml true": "yes",
    "yaml null": "null",
    "number": "007",
    "float": "1e3",
    "date": "2020-01-01",
    "anchor": "&a *a",
    "comment": "a # b",
    "toml table": "[project]",
    "html": "<script>alert(1)</script> &amp;",
    "markdown link": "[x](javascript:alert(1))",
    "emoji": "rocket 🚀",
    "right-to-left letters": "שירות",
    "combining": "é",
    "han": "服务",
}

REFUSED = {
    "line break": "a\nb",
    "trailing line break": "a\n",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "NUL": "a\0b",
    "escape": "a\x1b[31mb",
    "DEL": "a\x7fb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "right-to-left override": "a\u202eb",
    "right-to-left mark": "a\u200fb",
    "isolate": "a\u2066b",
    "zero-width space": "a\u200bb",
    "byte order mark": "\ufeffa",
    "no-break space": "a\u00a0b",
    "lone surrogate": "a\udc80b",
    "not a character": "a\uffffb",
    "private use": "a\ue000b",
    "5,000 characters": "a" * 5000,
    "spaces around": " a ",
    "empty": "",
    "blank": "   ",
}

FREE = ("project_name", "description")


def parsed(folder: Path) -> dict[str, Any]:
    """What every file of a tree that has a parser parses to, by its name."""
    found: dict[str, Any] = {}
    for name, content in tree(folder).items():
        text = content.decode()
        if name.endswith(".py"):
            found[name] = ast.parse(text)
        elif name.endswith(".toml"):
            found[name] = tomllib.loads(text)
        elif name.endswith((".yml", ".yaml")):
            found[name] = list(yaml.safe_load_all(text))
        elif name.endswith(".json"):
            found[name] = json.loads(text)
    return found


def constants(module: ast.Module) -> dict[str, object]:
    """The constants that a Python file annotates and assigns."""
    return {
        statement.target.id: ast.literal_eval(statement.value)
        for statement in module.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(statement.value, ast.Constant)
    }


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_free_text_arrives_exactly_as_it_was_typed(text: str, render: Render, default_tree: dict[str, bytes]):
    text = text.strip()
    folder = render(project_name=text, description=text, package_name="my_service")
    files = parsed(folder)
    assert files["pyproject.toml"]["project"]["description"] == text
    assert constants(files["chassis/src/chassis/features.py"])["PROJECT"] == text
    assert files[".copier-answers.yml"][0]["description"] == text
    assert files[".copier-answers.yml"][0]["project_name"] == text
    readme = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    assert readme[0] == f"# {text}"
    assert text in readme
    assert set(tree(folder)) == set(default_tree), "no answer names a file"


@pytest.mark.parametrize("name", ["jinja expression", "both quotes", "yaml true", "backslashes", "emoji"])
def test_answers_that_are_read_back_from_the_answers_file_render_the_same(name: str, render: Render):
    folder = render(project_name=ACCEPTED[name], description=ACCEPTED[name], package_name="my_service")
    before = tree(folder)
    run_recopy(folder, defaults=True, overwrite=True, unsafe=True, quiet=True, skip_tasks=True)
    assert tree(folder) == before


@pytest.mark.parametrize("question", FREE)
@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_text_that_a_parser_and_a_person_would_read_differently_is_refused(question: str, text: str, render: Render):
    refuses(question, text, render)


# These have the form of a name where one is asked for, and are written where nothing takes them for more.
NAMES = {
    "owner": {"yes", "null", "007", "1e3", "2020-01-01"},
    "package_name": {"yes", "null"},
    "contact_email": set[str](),
}


@pytest.mark.parametrize("question", NAMES)
@pytest.mark.parametrize("text", (ACCEPTED | REFUSED).values(), ids=(ACCEPTED | REFUSED))
def test_an_answer_that_has_a_form_of_its_own(question: str, text: str, render: Render):
    if text not in NAMES[question]:
        refuses(question, text, render)
        return
    files = parsed(render(**{question: text}))
    assert files[".copier-answers.yml"][0][question] == text
    project = files["pyproject.toml"]["project"]
    assert text in (project["name"], project["authors"][0]["name"])


def refuses(question: str, text: str, render: Render) -> None:
    with pytest.raises(ValueError, match=f"^Validation error for question '{question}': Type ") as refused:
        render(**{question: text})
    message = str(refused.value)
    assert message.isprintable(), "one line"
    assert len(message) < 200
