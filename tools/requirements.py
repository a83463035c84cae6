"""Pin what this repository installs, with hashes and for every platform: `make requirements`."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEMBER = ROOT / "template" / "chassis" / "pyproject.toml.jinja"


def service_requirements() -> list[str]:
    """What the chassis of a rendered service depends on, whatever was answered, its development tools included."""
    rendered = re.sub(r"\{%-.*%\}", "", MEMBER.read_text(encoding="utf-8"))
    project = tomllib.loads(rendered.replace("{{ name }}", "name").replace("{{ package_name }}", "name"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def pin(sources: Iterable[str], target: str, stdin: str | None = None) -> None:
    """Resolve these requirement files into `target`, keeping the versions that it has where they still fit."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    command += ["--no-annotate", "--no-header", f"--output-file={target}", *sources, *sys.argv[1:]]
    subprocess.run(command, input=stdin, text=True, cwd=ROOT, check=True)


if __name__ == "__main__":
    pin(["requirements.in"], "requirements.txt")
    pin(["requirements-dev.in", "-"], "requirements-dev.txt", "\n".join(service_requirements()))
    pin(["requirements-terraform.in"], "requirements-terraform.txt")
