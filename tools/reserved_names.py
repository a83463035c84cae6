"""Write includes/reserved_names.jinja: the names that a service's package cannot have, and why.

    python tools/reserved_names.py PYTHON... --environment DIR    # writes the file

Each PYTHON is an interpreter whose keywords and standard library are reserved; DIR is a rendered service whose
environment is synced: the packages that it can import, and their distributions, are reserved too.
"""

import argparse
import json
import re
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

TARGET = Path(__file__).parents[1] / "includes" / "reserved_names.jinja"

PYTHON_NAMES = "import json, keyword, sys; print(json.dumps([keyword.kwlist, sorted(sys.stdlib_module_names)]))"

MODULE_NAMES = "import importlib.metadata as m, json; print(json.dumps(sorted(m.packages_distributions())))"


def python_names(pythons: Iterable[str | Path]) -> tuple[set[str], set[str]]:
    """The keywords and the standard-library modules of any of these interpreters."""
    keywords: set[str] = set()
    modules: set[str] = set()
    for python in pythons:
        more_keywords, more_modules = json.loads(subprocess.check_output([python, "-c", PYTHON_NAMES]))
        keywords |= set(more_keywords)
        modules |= set(more_modules)
    return keywords, {name for name in modules if could_be_a_package(name)}


def environment_names(service: Path, package: str) -> set[str]:
    """The names of what this service can import, and of what its lock names for any platform, except its own."""
    modules = json.loads(subprocess.check_output([service / ".venv" / "bin" / "python", "-c", MODULE_NAMES]))
    locked = tomllib.loads((service / "uv.lock").read_text(encoding="utf-8"))["package"]
    names = {*modules, *(re.sub(r"[-_.]+", "_", entry["name"]) for entry in locked)}
    own = {package, f"{package}_chassis", "chassis"}
    return {name for name in names - own if could_be_a_package(name)}


def could_be_a_package(name: str) -> bool:
    """Whether the other rules for a package name would let this one through."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def listing(name: str, words: Iterable[str]) -> str:
    """One Jinja assignment of a list of words, wrapped at 110 columns."""
    lines = [f"{{% set {name} = ["]
    for word in sorted(words):
        item = f'"{word}", '
        if len(lines[-1]) + len(item) > 110 or len(lines) == 1:
            lines.append("")
        lines[-1] += item
    return "\n".join([*(line.rstrip() for line in lines), "] %}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--environment", type=Path, required=True, metavar="DIR")
    parser.add_argument("--package", default="my_service", help="the package of that service")
    arguments = parser.parse_args()
    keywords, modules = python_names(arguments.pythons)
    installed = environment_names(arguments.environment, arguments.package) - modules
    TARGET.write_text(
        "\n".join(
            [
                "{#- Written by tools/reserved_names.py; tests/test_questions.py proves that it is complete. -#}",
                listing("PYTHON_KEYWORDS", keywords),
                listing("STANDARD_LIBRARY", modules),
                listing("INSTALLED", installed),
                "",
            ]
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
