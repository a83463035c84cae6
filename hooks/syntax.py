"""What can be wrong with a file by itself: Jinja left over, text that does not parse, no run bit, a conflict."""

import json
import os
import re
import stat
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import yaml
from tree import Problem, Tree

# libyaml parses ten times as fast. PyYAML comes without it where there was no wheel for the machine.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# An opening and an expression. Not Jinja's: GitHub's `${{ x }}` and Go's `{{ .x }}`, `{{ f $x }}`, `{{ end }}`.
_JINJA: Final = re.compile(
    r"""(?<![${])\{\{[-+]?\s*(?![^}]*(?:\$|\s\.)|(?:end|else)\b)[\w"'(\[](?:[^}]*\}\})?
        | \{%[-+]?\s*\w(?:[^%]*%\})?
        | \{\#(?:.*?\#\}|[-+\s].*)""",
    re.VERBOSE,
)
# Where doubled braces have another meaning as well (f-strings, actions that take `{{version}}`): with spaces inside.
_JINJA_IN_CODE: Final = re.compile(
    r"(?<![${])\{\{[-+]?\s+\w[^{}]*\s[-+]?\}\} | \{%[-+]?\s.*?%\} | \{\#[-+]?\s.*?\#\}", re.VERBOSE
)
_MARKDOWN_CODE: Final = re.compile(r"^(`{3,}|~{3,}).*?^\1`*~*[ \t]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def jinja_left_over(tree: Tree, path: str) -> Iterator[Problem]:
    """Find what Copier should have rendered. What stands there because somebody typed it as an answer is not it."""
    text = tree.texts.get(path, "")
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return
    pattern = _JINJA_IN_CODE if path.endswith(".py") or path.startswith(".github/") else _JINJA
    if path.endswith(".md"):
        text = _MARKDOWN_CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), 1):
        if (match := pattern.search(line)) and not _answered(match[0], tree.answers):
            yield Problem(path, number, f"Jinja is left over: {match[0][:60]}")


def jinja_in_name(path: str) -> Iterator[Problem]:
    """Find a name that Copier should have rendered."""
    if re.search(r"\{[{%#]|[}%#]\}", path):
        yield Problem(path, 1, "Jinja is left over in the name")


def _answered(text: str, answers: Mapping[str, object]) -> bool:
    """Whether an answer has this text. Quotes and backslashes are written in many ways, so they do not count."""
    plain = str.maketrans("", "", "\\\"'")
    return any(text.translate(plain) in str(answer).translate(plain) for answer in answers.values())


def run_bit(tree: Tree, path: str) -> Iterator[Problem]:
    """Find a script that cannot be run. Windows has no run bit."""
    if os.name == "posix" and tree.contents[path].startswith(b"#!") and not tree.mode(path) & stat.S_IXUSR:
        yield Problem(path, 1, "is a script without its run bit")


def conflicts(content: bytes, path: str, answers: Mapping[str, object]) -> Iterator[Problem]:
    """Find what a merge left to a person. A row of `=` by itself underlines a heading in prose."""
    if b"<<<<<<<" not in content and b">>>>>>>" not in content and b"=======" not in content:
        return
    prose = path.endswith((".md", ".rst", ".txt"))
    inside = False
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        marker = line[:7]
        if marker not in ("<<<<<<<", "=======", ">>>>>>>") or line[7:8] not in ("", " "):
            continue
        if marker == "=======" and (prose or line != marker):
            continue
        if not inside and not _answered(line, answers):
            yield Problem(path, number, "has a conflict: keep what is needed of both sides and remove the markers")
        inside = marker != ">>>>>>>"


def parses(tree: Tree, path: str) -> Iterator[Problem]:
    """Find what the parser of the file's kind refuses."""
    check = _PARSERS.get(PurePosixPath(path).suffix)
    if check is None:
        return
    try:
        tree.contents[path].decode()
    except UnicodeDecodeError as error:
        line = tree.contents[path].count(b"\n", 0, error.start) + 1
        yield Problem(path, line, "is not UTF-8")
    else:
        yield from check(path, tree.texts[path])


def _python(path: str, text: str) -> Iterator[Problem]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape is a linter's business
        try:
            compile(text, path, "exec", dont_inherit=True)
        except SyntaxError as error:
            yield Problem(path, error.lineno or 1, f"does not compile: {error.msg}")
        except ValueError as error:
            yield Problem(path, 1, f"does not compile: {error}")


def _json(path: str, text: str) -> Iterator[Problem]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        yield Problem(path, error.lineno, f"is not JSON: {error.msg}")


def _toml(path: str, text: str) -> Iterator[Problem]:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        line = re.search(r"at line (\d+)", message)
        yield Problem(path, int(line[1]) if line else text.count("\n"), f"is not TOML: {message.partition(' (')[0]}")


def _yaml(path: str, text: str) -> Iterator[Problem]:
    try:
        for node in yaml_documents(text):
            yield from _duplicate_keys(path, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield Problem(path, mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date that is none
        yield Problem(path, 1, f"is not YAML: {' '.join(str(error).split())}")


def build_yaml(text: str) -> object:
    """What a YAML file of one document says."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  it is a SafeLoader


def yaml_documents(text: str) -> Iterator[yaml.Node]:
    """The documents of a YAML file as nodes, which know their lines. Each is built after it, to see if it can be."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield node
            loader.construct_document(node)
    finally:
        loader.dispose()


def _duplicate_keys(path: str, document: yaml.Node) -> Iterator[Problem]:
    """A mapping that has a key twice keeps the second, and whoever wrote the first never learns it."""
    nodes, seen = [document], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set[tuple[str, str]]()
            for key, value in node.value:
                nodes.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        yield Problem(path, key.start_mark.line + 1, f"has the key {key.value} twice")
                    keys.add((key.tag, key.value))


_PARSERS: Final[dict[str, Callable[[str, str], Iterator[Problem]]]] = {
    ".py": _python,
    ".yml": _yaml,
    ".yaml": _yaml,
    ".toml": _toml,
    ".json": _json,
}
