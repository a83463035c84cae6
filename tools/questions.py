"""Write docs/questions.md from copier.yml: `make docs`."""

import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "questions.md"

HEAD = """\
# The questions

Written by `make docs` from `copier.yml`. A service keeps its answers in `.copier-answers.yml`; `copier update --data
NAME=VALUE` changes one, within what [Ownership](ownership.md) says.
"""


def page() -> str:
    """The whole page, from the questions in the order in which they are asked."""
    source = (ROOT / "copier.yml").read_text(encoding="utf-8")
    configuration: dict[str, dict[str, Any]] = yaml.safe_load(source)
    parts = [HEAD]
    for name, question in configuration.items():
        if name.startswith("_"):
            continue
        default = str(question["default"])
        shown = "made from the answers before it" if "{%" in default else f"`{default}`"
        parts += [f"## `{name}`\n", textwrap.fill(question["help"], 128) + "\n", f"Default: {shown}\n"]
        choices: list[str] | dict[str, str] = question.get("choices", [])
        labels = (
            {value: label for label, value in choices.items()} if isinstance(choices, dict) else dict.fromkeys(choices)
        )
        lines = [f"- `{value}`" + (f": {label}" if label else "") for value, label in labels.items()]
        if lines:
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
