"""The end of a process: it looks unready first, finishes what it has begun, and exits 0."""

import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
from edges import check_problem, served
from things import AsPrincipal, Sql

from chassis.dev.processes import free_port
from chassis.testing import RunningServer, TestDatabase

Serve = Callable[..., RunningServer]


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_it_drains_before_it_closes_and_exits_0(serve: Serve) -> None:
    server = serve(APP_DRAIN_SECONDS="2")
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: status_of(f"{server.url}/readyz") == 503)
    assert status_of(f"{server.url}/livez") == 200  # whoever still sends is still served
    assert server.process.wait(15) == 0
    events = [line["event"] for line in server.logs()]
    assert events.index("draining") < events.index("stopped")


def test_a_request_under_way_is_finished(
    serve: Serve, sql: Sql, table: TestDatabase, as_principal: AsPrincipal, tmp_path: Path
) -> None:
    server = serve(**served(tmp_path, "things:app"))
    answers: list[int] = []

    def add() -> None:
        headers = as_principal() | {"Idempotency-Key": "one"}
        answers.append(httpx.post(f"{server.url}/v1/things", json={"name": "a"}, headers=headers).status_code)

    with psycopg.connect(table.superuser) as locking:
        locking.execute("lock table things in access exclusive mode")  # which the request waits for
        adding = threading.Thread(target=add)
        adding.start()
        assert until(lambda: sql("select pid from pg_stat_activity where wait_event_type = 'Lock'") != [])
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: any(line["event"] == "draining" for line in server.logs()))
    adding.join(15)
    assert server.process.wait(15) == 0
    assert answers == [201]
    assert sql("select name from things") == [("a",)]


def test_a_request_that_outlasts_the_end_is_cut_off_and_told_so(serve: Serve, tmp_path: Path) -> None:
    server = serve(APP_SHUTDOWN_SECONDS="0.5", APP_REQUEST_TIMEOUT_SECONDS="60", **served(tmp_path))
    answers: list[httpx.Response] = []
    sleeping = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{server.url}/v1/sleep?seconds=50", timeout=30))
    )
    sleeping.start()
    assert until(lambda: "http_requests_in_flight 1.0" in httpx.get(f"{server.metrics_url}/metrics").text)
    server.process.send_signal(signal.SIGTERM)
    sleeping.join(30)
    assert check_problem(answers[0], 503)["code"] == "shutting_down"
    assert server.process.wait(15) == 0


def test_interrupting_ends_it_in_the_same_way(server: RunningServer) -> None:
    assert server.stop(signal.SIGINT) == 0
    assert server.logs()[-1]["event"] == "stopped"


def test_a_second_signal_does_not_wait(serve: Serve) -> None:
    server = serve(APP_DRAIN_SECONDS="60")
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: any(line["event"] == "draining" for line in server.logs()))
    before = time.monotonic()
    assert server.stop(signal.SIGTERM) == 1
    assert time.monotonic() - before < 30


def test_a_port_that_is_taken_is_one_clear_line(server: RunningServer, environment: dict[str, str]) -> None:
    taken = server.url.rpartition(":")[2]
    free = str(free_port())
    for port, metrics_port, variable in ((taken, free, "PORT"), (free, taken, "METRICS_PORT")):
        ended = subprocess.run(
            [sys.executable, "-m", "chassis.cli", "serve"],
            env=environment | {"PORT": port, "METRICS_PORT": metrics_port},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"chassis: cannot listen on port {taken} ")
        assert f"{variable} chooses the port" in line
