"""What `chassis config` prints: every variable, where its value is from, the value, and the verdict that boot gives."""

import sys
from collections.abc import Mapping
from typing import NamedTuple, cast

from pydantic_settings import BaseSettings

from chassis.settings import EX_CONFIG
from chassis.settings_reading import S, examine, is_secret, variables


class Row(NamedTuple):
    """One variable. `source` is default, environment or file; `value` is fit to be shown."""

    variable: str
    source: str
    value: str


def report(
    cls: type[S], environ: Mapping[str, str] | None = None, *, environment: str | None = None
) -> tuple[list[Row], list[str]]:
    """Every variable of `cls` as boot would find it, and every problem. See `load` for the arguments."""
    found = examine(cls, environ, environment=environment)
    rows: list[Row] = []
    for variable, name in variables(cls).items():
        given = variable in found.values
        source = "file" if variable in found.files else "environment" if given else "default"
        if variable in found.problems:
            value = "[refused]"
        elif is_secret(cls.model_fields[name]):
            value = "[redacted]" if given else "-"
        elif found.settings is not None:
            value = _shown(getattr(found.settings, name))
        else:
            value = found.values.get(variable, "-")
        rows.append(Row(variable, source, value))
    return rows, [f"{variable} {problem}" for variable, problem in found.problems.items()]


def main(cls: type[BaseSettings], environ: Mapping[str, str] | None = None, *, environment: str | None = None) -> int:
    """Print the report on stdout, the problems on stderr. Returns the exit code: 0, or 78 if boot would refuse."""
    rows, problems = report(cls, environ, environment=environment)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
    sys.stdout.flush()  # before the problems, where both go to the same place
    if problems:
        sys.stderr.write("\n".join([*problems, "This configuration is refused.\n"]))
        return EX_CONFIG
    sys.stdout.write("This configuration is accepted.\n")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value))) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
