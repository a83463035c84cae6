"""The budget table: what was measured, beside what was promised."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from load import Comparison, Round

_HEAD = ("what", "measured", "spread", "bar", "aim", "verdict", "CPU µs a request", "of bare")
_VERSIONS = """
import sys, sysconfig, importlib.metadata as metadata
names = "fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "asyncpg", "orjson", "structlog"
build = str(sysconfig.get_config_var("PY_CFLAGS")) + str(sysconfig.get_config_var("CONFIG_ARGS"))
pgo = "-fprofile-use" in build or "--enable-optimizations" in build
print(f"{sys.implementation.name} {sys.version.split()[0]}, built with{'' if pgo else 'out'} PGO;",
      ", ".join(f"{name} {metadata.version(name)}" for name in names))
"""


@dataclass(frozen=True)
class Budget:
    """What a row promises."""

    what: str
    bar: float
    aim: float
    unit: str = ""
    at_least: bool = False
    """Whether more is better."""

    def verdict(self, measured: float) -> str:
        """`aim met`, `bar met`, or by how much the bar is missed."""
        if self._holds(measured, self.aim):
            return "aim met"
        if self._holds(measured, self.bar):
            return "bar met"
        return f"MISSED by {abs(measured / self.bar - 1):.0%}"

    def _holds(self, measured: float, limit: float) -> bool:
        return measured >= limit if self.at_least else measured <= limit

    def shown(self, limit: float) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.amount(limit)}"

    def amount(self, value: float) -> str:
        """With three digits that count, as far as they are after the point."""
        digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
        return f"{value:.{digits}f} {self.unit}".rstrip()


def row(budget: Budget, values: Sequence[float], *, processor: tuple[str, str] = ("", "")) -> tuple[str, ...]:
    """One line of the table: the median of `values`, and how far they spread."""
    middle = median(values)
    spread = f"{budget.amount(min(values))} to {budget.amount(max(values))}" if len(values) > 1 else ""
    limits = (budget.shown(budget.bar), budget.shown(budget.aim))
    return (budget.what, budget.amount(middle), spread, *limits, budget.verdict(middle), *processor)


def compared(budget: Budget, comparison: Comparison) -> tuple[str, ...]:
    """One line for ours against the fastest bare application."""
    return row(budget, comparison.ratios, processor=(_processor(comparison.ours), _processor(comparison.other)))


def details(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line for each application of a comparison."""
    return [
        (
            name + (" (the denominator)" if name == comparison.other_name else ""),
            f"{median(one.per_second for one in rounds):.0f}",
            f"{max(one.per_second for one in rounds):.0f}",
            _processor(rounds),
        )
        for name, rounds in comparison.all.items()
    ]


def _processor(rounds: Sequence[Round]) -> str:
    used = [one.microseconds for one in rounds]
    return f"{min(used):.0f} · {median(used):.0f}"


def budget_table(rows: Sequence[tuple[str, ...]]) -> str:
    return _markdown(_HEAD, rows)


def details_table(rows: Sequence[tuple[str, ...]]) -> str:
    return _markdown(("application", "requests a second, median", "best", "server CPU µs a request"), rows)


def checks_table(checks: Mapping[str, Sequence[float]]) -> str:
    """What parts of a request cost by themselves, in µs of processor time."""
    rows = [
        (what, f"{median(costs):.1f}", f"{min(costs):.1f} to {max(costs):.1f}" if len(costs) > 1 else "")
        for what, costs in checks.items()
    ]
    return _markdown(("one check of", "CPU µs, median", "spread"), rows)


def _markdown(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine(python: Path, postgres: str) -> str:
    """What these numbers were measured on."""
    try:
        model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    packages = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True).stdout.strip()
    wrk = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout.split("[")[0].strip()
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.2f} before"
    processors = f"{os.cpu_count()} of {model[1] if model else platform.machine()}"
    lines = (
        when,
        f"{processors}; {platform.system()} {platform.release()}",
        packages,
        f"PostgreSQL {postgres}, {wrk}, Copier {version('copier')}",
    )
    return "\n".join(f"- {line}" for line in lines)
