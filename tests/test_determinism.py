"""The same answers give the same bytes, whoever renders, wherever, whenever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tree

SURROUNDINGS: dict[str, tuple[int, dict[str, str]]] = {
    "again": (0o022, {}),
    "private umask": (0o077, {}),
    "open umask": (0o000, {}),
    "far east": (0o022, {"TZ": "Pacific/Kiritimati"}),
    "C locale": (0o022, {"LC_ALL": "C", "LANG": "C"}),
    "Latin-1": (0o022, {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "other hash seed": (0o022, {"PYTHONHASHSEED": "4711"}),
    "other home": (0o022, {"HOME": "/nonexistent", "USER": "nobody"}),
}
ANSWERS = {"project_name": "Ærøskøbing 🚀", "description": "Größe, naïve, 服务"}


@pytest.fixture(scope="session")
def reference(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bool]]:
    return rendered(template, tmp_path_factory.mktemp("reference"), 0o022, {})


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_render_is_byte_equal_in_other_surroundings(
    surroundings: str, reference: dict[str, tuple[bytes, bool]], template: Path, tmp_path: Path
):
    elsewhere = tmp_path / "a folder with spaces"
    elsewhere.mkdir()
    assert rendered(template, elsewhere, *SURROUNDINGS[surroundings]) == reference


def rendered(template: Path, cwd: Path, umask: int, variables: dict[str, str]) -> dict[str, tuple[bytes, bool]]:
    """Every file of a render by a process of its own: its bytes, and whether its owner may run it."""
    (cwd / "answers.yml").write_text(json.dumps(ANSWERS, ensure_ascii=False), encoding="utf-8")
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", "--trust", "--skip-tasks"]
    command += ["--data-file=answers.yml", str(template), "service"]
    environment = {**os.environ, **variables}
    subprocess.run(command, cwd=cwd, umask=umask, env=environment, check=True, capture_output=True)
    return {
        name: (content, os.access(cwd / "service" / name, os.X_OK)) for name, content in tree(cwd / "service").items()
    }
