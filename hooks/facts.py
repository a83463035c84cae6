"""Facts that stand in more than one file, and must be the same in each.

Each function reads a fact where it is made (the settings, the health routes, `.python-version`, the development
server) and looks for every other place that states it.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple

from tree import Problem, Tree

SETTINGS: Final = "chassis/src/chassis/settings.py"
FEATURES: Final = "chassis/src/chassis/features.py"
HEALTH: Final = "chassis/src/chassis/observe/health.py"
POSTGRES: Final = "chassis/src/chassis/dev/postgres.py"
VARIABLE_LISTS: Final = ("deploy/variables.env", ".env.example")
DEPLOY: Final = ("deploy/", ".env.example")
WORKFLOWS: Final = ".github/workflows/"
DOCKERFILE: Final = "deploy/Dockerfile"

# A health path, and the port before it if there is one: http://127.0.0.1:8000/livez, localhost:8000/readyz, /livez.
_PROBE: Final = (
    r"(?<![\w/.-])(?:(?:https?://)?[\w.\[\]:]+:(?P<ports>[^\s/]*))?"
    r"(?P<path>/(?:[a-z]+z|health\w*|ready|live))(?![\w/.-])"
)


class Variable(NamedTuple):
    """A variable that the settings read: its default if that is written as a constant, and whether it is secret."""

    default: object
    secret: bool


class Mark(NamedTuple):
    """A text, or with no text the path itself, that may only be there for one value of one answer."""

    answer: str
    value: object
    path: str
    text: str = ""


# A question that chooses files or words adds its lines here. A path that ends in / stands for all below it.
MARKS: Final = (
    Mark("license", "mit", "LICENSE", "MIT License"),
    Mark("license", "apache-2.0", "LICENSE", "Apache License"),
    Mark("license", "proprietary", "LICENSE", "All rights reserved"),
    Mark("license", "mit", "pyproject.toml", 'license = "MIT"'),
    Mark("license", "apache-2.0", "pyproject.toml", 'license = "Apache-2.0"'),
    Mark("license", "proprietary", "pyproject.toml", 'license = "LicenseRef-Proprietary"'),
    Mark("shared_store", "valkey", "chassis/src/chassis/limits/valkey.py"),
    Mark("shared_store", "valkey", "chassis/src/chassis/limits/valkey_connection.py"),
    Mark("shared_store", "valkey", "chassis/src/chassis/dev/valkey.py"),
    Mark("shared_store", "valkey", "chassis/tests/limits/test_valkey.py"),
    Mark("shared_store", "valkey", "chassis/src/chassis/features.py", '"valkey"'),
    Mark("shared_store", "valkey", "chassis/pyproject.toml", "valkey"),
    Mark("shared_store", "valkey", ".env.example", "VALKEY"),
    Mark("shared_store", "valkey", "deploy/variables.env", "VALKEY"),
)


def answers_given(tree: Tree, marks: tuple[Mark, ...] = MARKS) -> Iterator[Problem]:
    """Nothing is rendered for an answer that was not given."""
    for mark in marks:
        if tree.answers.get(mark.answer) == mark.value:
            continue
        for path in tree.contents:
            if path != mark.path and not (mark.path.endswith("/") and path.startswith(mark.path)):
                continue
            line = next((n for n, line in enumerate(tree.texts.get(path, "").splitlines(), 1) if mark.text in line), 0)
            if line or not mark.text:
                what = f"says {mark.text!r}" if mark.text else "is there"
                given = tree.answers.get(mark.answer)
                yield Problem(path, line or 1, f"{what}, which is for {mark.answer} {mark.value}, but it is {given}")


def template_found(tree: Tree) -> Iterator[Problem]:
    """An update, which runs in the rendered folder, finds the template where the answers say that it is."""
    source = tree.answers.get("_src_path")
    if not isinstance(source, str) or ":" in source or source.startswith(("/", "~")) or (tree.root / source).is_dir():
        return
    for path, line, _ in tree.find(r"^_src_path:", ""):
        yield Problem(path, line, f"says {source!r}, which no update finds: copy from a URL or an absolute path")


def ports(tree: Tree) -> Iterator[Problem]:
    """The ports of the settings, wherever a deploy file sets, exposes or asks one."""
    settings = _variables(tree, SETTINGS)
    port = settings["PORT"].default if "PORT" in settings else None
    if not isinstance(port, int):
        return
    metrics = settings["METRICS_PORT"].default if "METRICS_PORT" in settings else None
    defaults = {"PORT": port, "METRICS_PORT": metrics if isinstance(metrics, int) and metrics else port + 1}
    both = " and ".join(map(str, defaults.values()))
    for path, line, match in tree.find(r"\b(METRICS_PORT|PORT)\b[\\\"']*\s*(?:[=:,]|:-)\s*[\"']?(\d+)", *DEPLOY):
        if int(match[2]) != defaults[match[1]]:
            yield Problem(
                path, line, f"has {match[1]} {match[2]}, and its default in {SETTINGS} is {defaults[match[1]]}"
            )
    exposed = tree.find(r"^\s*EXPOSE\s(?P<ports>.*)", DOCKERFILE)
    probed = tree.find(_PROBE, *DEPLOY)
    for path, line, match in chain(exposed, probed):
        for number in re.findall(r"\b\d+\b", match["ports"] or ""):
            if int(number) not in defaults.values():
                yield Problem(path, line, f"has port {number}, and the ports in {SETTINGS} are {both}")


def health_paths(tree: Tree) -> Iterator[Problem]:
    """The paths that probes ask exist."""
    routes = {
        argument.value
        for node in _parse(tree, HEALTH)
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    }
    if not routes:
        return
    for path, line, match in tree.find(_PROBE, *DEPLOY):
        if match["path"] not in routes:
            yield Problem(path, line, f"asks {match['path']}, and {HEALTH} has no such path")


def python_version(tree: Tree) -> Iterator[Problem]:
    """The Python of `.python-version`, in the image, in the pipeline (where the oldest is tested too), in metadata."""
    pinned = (tree.read(".python-version") or b"").decode(errors="replace").strip()
    if not (version := re.match(r"(\d+)\.(\d+)", pinned)):
        return
    metadata = tree.find(r"^requires-python\s*=\s*[\"']([^\"']+)", "pyproject.toml", "chassis/pyproject.toml")
    needed = [(path, line, match[1]) for path, line, match in metadata]
    oldest = {bound for _, _, needs in needed for bound in re.findall(r">=\s*(\d+\.\d+)", needs)}
    for path, line, needs in needed:
        if not _covers(needs, version[0]):
            yield Problem(path, line, f"requires Python {needs}, which leaves out the {version[0]} of .python-version")
    mention = r"(?i)\bpython(?:[-_ ]?version)?[\"']?\s*[:=]?\s*[\"']?(\d\.\d+)"
    for path, line, match in tree.find(mention, "deploy/", WORKFLOWS):
        if match[1] != version[0] and not (path.startswith(WORKFLOWS) and match[1] in oldest):
            yield Problem(path, line, f"has Python {match[1]}, and .python-version has {version[0]}")


def _covers(specifier: str, version: str) -> bool:
    """Whether a specifier takes some patch release of a version such as 3.13."""
    number = _number(version)
    for sign, bound in re.findall(r"(>=|<)\s*(\d+(?:\.\d+)*)", specifier):
        if (sign == ">=" and number < _number(bound)) or (sign == "<" and number >= _number(bound)):
            return False
    return True


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))[:2]


def postgresql_major(tree: Tree) -> Iterator[Problem]:
    """The PostgreSQL of development, in the pipeline's services and in production."""
    majors = [
        node.value.value
        for node in _parse(tree, POSTGRES)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        if "POSTGRES_MAJOR" in ast.unparse(node).partition("=")[0]
    ]
    mention = r"(?i)\bpostgres(?:ql)?(?:[-_ ](?:client|version|major))?[\"']?\s*[-:=@]?\s*[\"']?(\d+)\b"
    for path, line, match in tree.find(mention, "deploy/", WORKFLOWS):
        if majors and int(match[1]) != majors[0]:
            yield Problem(path, line, f"has PostgreSQL {match[1]}, and {POSTGRES} has {majors[0]}")


def variables(tree: Tree) -> Iterator[Problem]:
    """Every variable that a deploy file sets is one of the settings, and both lists of variables have all of them."""
    settings = _variables(tree, SETTINGS)
    if not settings:
        return
    for path in tree.glob("src/*/settings.py"):
        settings |= _variables(tree, path)
    known = {*settings, *(f"{name}_FILE" for name, variable in settings.items() if variable.secret)}
    for path, line, match in tree.find(r"\bAPP_[A-Z0-9_]+\b", *DEPLOY):
        if path not in VARIABLE_LISTS and match[0] not in known:
            yield Problem(path, line, f"sets {match[0]}, which no settings class reads")
    for path in filter(tree.texts.__contains__, VARIABLE_LISTS):
        listed = _listed(tree.texts[path])
        for name in listed.keys() - known:
            yield Problem(path, listed[name], f"sets {name}, which no settings class reads")
        for name in _unlisted(settings, listed):
            yield Problem(path, 1, f"does not list {name}, which the settings read")


def variables_to_list(tree: Tree) -> Iterator[str]:
    """Say which variables of the chassis a service's own list lacks. It is theirs, so that is no problem."""
    path, *_ = VARIABLE_LISTS
    for name in _unlisted(_variables(tree, SETTINGS), _listed((tree.read(path) or b"").decode(errors="replace"))):
        yield f"{path} does not list {name}, which {SETTINGS} reads"


def _unlisted(settings: Mapping[str, Variable], listed: Mapping[str, int]) -> list[str]:
    return [name for name in settings if name not in listed and f"{name}_FILE" not in listed]


def _listed(text: str) -> dict[str, int]:
    """The variables that a file of NAME=value lines lists, commented out or not, and their lines."""
    lines = enumerate(text.splitlines(), 1)
    return {match[1]: number for number, line in lines if (match := re.match(r"#?\s?([A-Z][A-Z0-9_]*)=", line))}


def _variables(tree: Tree, path: str) -> dict[str, Variable]:
    """The variables of the settings classes of a file: APP_ and the field's name, or the field's alias."""
    found: dict[str, Variable] = {}
    for node in _parse(tree, path):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
            for field in _given(tree, node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    name, default = _field(field.target.id, field.value)
                    found[name] = Variable(default, "SecretStr" in ast.unparse(field.annotation))
    return found


def _given(tree: Tree, body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a class, and those below `if "…" in FEATURES` where that was asked for."""
    features = (tree.read(FEATURES) or b"").decode(errors="replace").partition("FEATURES")[2]
    for statement in body:
        match statement:
            case ast.If(test=ast.Compare(left=ast.Constant(value=str(feature)), comparators=[ast.Name(id="FEATURES")])):
                if f'"{feature}"' in features:
                    yield from statement.body
            case _:
                yield statement


def _field(name: str, value: ast.expr | None) -> tuple[str, object]:
    """The variable and the default of a field, which may be called with Field(default, …) or Field(default=…, …)."""
    variable = f"APP_{name.upper()}"
    if isinstance(value, ast.Call):
        words = {word.arg: word.value for word in value.keywords}
        alias = words.get("validation_alias")
        if isinstance(alias, ast.Constant):
            variable = str(alias.value)
        value = value.args[0] if value.args else words.get("default")
    return variable, value.value if isinstance(value, ast.Constant) else None


def _parse(tree: Tree, path: str) -> list[ast.stmt]:
    """The statements of a Python file; none if it is not there or does not parse, which another check says."""
    try:
        return ast.parse(tree.read(path) or b"").body
    except (SyntaxError, ValueError):
        return []


FACTS: Final = (answers_given, template_found, ports, health_paths, python_version, postgresql_major, variables)
