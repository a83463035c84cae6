"""The benchmarks run and print every row. How fast anything is, no test asks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN = [sys.executable, ROOT / "benchmarks" / "run.py", "--quick"]
WHAT = re.findall(r'^[A-Z]+ = Budget\("([^"]+)"', (ROOT / "benchmarks" / "run.py").read_text(), re.MULTILINE)


POSSIBLE = sys.platform == "linux" and (os.cpu_count() or 1) > 1 and shutil.which("wrk")


@pytest.mark.skipif(not POSSIBLE, reason="needs Linux, two processors and wrk")
def test_every_budget_gets_its_row():
    done = subprocess.run(RUN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.count("|") == 9
    ]
    assert [row[0] for row in rows[2:]] == WHAT
    for check in ("an access token, cached", "the three limits of a request, and their headers"):
        assert re.search(rf"^\| {check} +\| +[\d.]+ ", done.stdout, re.MULTILINE)
    assert len(WHAT) == 10
    for _, measured, _, bar, aim, verdict, *_ in rows[2:]:
        assert re.match(r"[\d.]+", measured)
        assert re.match(r"[≥≤] [\d.]+", bar)
        assert re.match(r"[≥≤] [\d.]+", aim)
        assert re.fullmatch(r"aim met|bar met|MISSED by \d+%", verdict)


def test_without_wrk_one_line_says_what_to_install():
    done = subprocess.run(RUN, capture_output=True, text=True, check=False, env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 1
    assert done.stderr == "chassis: wrk is missing: apt install wrk\n"
    assert done.stdout == ""
