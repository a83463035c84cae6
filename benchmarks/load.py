"""Servers on one processor, wrk on another, rounds that take turns."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

SERVER_CPU, WRK_CPU = 0, 1
CONNECTIONS = 32
_WARM_UP_SECONDS = 1
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Its message is for the person who typed the command."""


def check_machine() -> None:
    """Raise Failed, before anything is made, where nothing could be measured."""
    if shutil.which("wrk") is None:
        raise Failed("wrk is missing: apt install wrk")
    if not hasattr(os, "sched_setaffinity"):
        raise Failed("the benchmarks pin processes to processors, which needs Linux")
    if not {SERVER_CPU, WRK_CPU} <= os.sched_getaffinity(0):
        raise Failed("the benchmarks need two processors: one for the server, one for wrk")


def free_ports(number: int) -> list[int]:
    """Ports nobody listens on now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float, log: Path) -> float:
    """Ask until the answer is 200; returns the seconds that this took."""
    started = time.perf_counter()
    while (waited := time.perf_counter() - started) < seconds:
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310  our own server
                if answer.status == 200:
                    return time.perf_counter() - started
        except (URLError, OSError):
            pass
        if process.poll() is not None:
            break
        time.sleep(0.005)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise Failed(f"no 200 from {url} after {waited:.1f} s: {last[0]}")


class Server:
    """One process on the servers' processor, ready when `ready` answers 200. Close it."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], ready: str, cwd: Path, errors: Path
    ) -> None:
        started = time.perf_counter()
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdout=subprocess.DEVNULL,  # where the access log goes
                stderr=stderr,
                preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
            )
        try:
            wait_for(ready, self._process, 30, errors)
        except BaseException:
            self.close()
            raise
        self.seconds_to_ready = time.perf_counter() - started
        self.cpu_seconds_to_ready = self.cpu_seconds()

    def cpu_seconds(self) -> float:
        """User and system time of the process since it started."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def megabytes(self) -> float:
        """Resident memory, pages that are shared with others included."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def close(self) -> None:
        """End the process, and wait for its end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Load:
    """What wrk sends to one server."""

    name: str
    server: Server
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    script: Path | None = None

    def run(self, seconds: int, label: str) -> "Round":
        """Send for `seconds`. `label` tells this run from all others. Raises Failed when an answer is an error."""
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
        for name, value in self.headers.items():
            command += ["-H", f"{name}: {value}"]
        command += ["-s", str(self.script), self.url, "--", label] if self.script else [self.url]
        before = self.server.cpu_seconds()
        output = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {WRK_CPU}),
        ).stdout
        used = self.server.cpu_seconds() - before
        if wrong := re.search(r"(Socket errors|Non-2xx or 3xx responses): .*", output):
            raise Failed(f"{self.name}: {wrong[0]}")
        count, taken = re.search(r"(\d+) requests in ([\d.]+)s", output).groups()  # pyright: ignore[reportOptionalMemberAccess]  # wrk always says
        return Round(int(count) / float(taken), used / int(count) * 1e6)

    def answer(self) -> bytes:
        """The body of one answer, outside of the measurement."""
        with urlopen(Request(self.url, headers=dict(self.headers)), timeout=5) as answer:  # noqa: S310  our own server
            return answer.read()


@dataclass(frozen=True)
class Round:
    per_second: float
    microseconds: float
    """Of the server's processor time, a request."""


@dataclass(frozen=True)
class Comparison:
    """What is ours against the fastest of the others."""

    ours: list[Round]
    other: list[Round]
    other_name: str
    all: Mapping[str, list[Round]]

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, round by round."""
        return [a.per_second / b.per_second for a, b in zip(self.ours, self.other, strict=True)]


def compare(ours: Load, others: Sequence[Load], rounds: int, seconds: int) -> Comparison:
    """Rounds that take turns, so that what disturbs the machine disturbs all of them alike."""
    loads = [ours, *others]
    results: dict[str, list[Round]] = {load.name: [] for load in loads}
    for number in range(rounds + 1):
        for place, load in enumerate(loads):
            result = load.run(seconds if number else _WARM_UP_SECONDS, f"{place}-{number}")
            if number:
                results[load.name].append(result)
    # By the steadiest figure: on a busy machine requests a second would draw lots between two that are close.
    fastest = min(others, key=lambda load: min(one.microseconds for one in results[load.name])).name
    return Comparison(results[ours.name], results[fastest], fastest, results)
