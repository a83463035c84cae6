"""What an orchestrator, a load balancer and Prometheus are told, how soon, and on which port."""

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Any

import httpx
import psycopg
import pytest
from edges import NOWHERE, messages
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from things import Client, client_of

from chassis import Settings, create_app
from chassis.app import Service
from chassis.observe import health
from chassis.settings import load
from chassis.testing import WIDE_LIMITS, RunningServer, TestDatabase, started

Sql = Callable[[str], None]
Serve = Callable[..., RunningServer]


def service_on(url: str) -> Service:
    service = create_app(Settings, [])
    service.configure(load(Settings, {"APP_ENVIRONMENT": "test", "DATABASE_URL": url}))
    return service


def at_root(service: Service) -> httpx.AsyncClient:
    client = client_of(service, {})
    client.base_url = "http://localhost"
    return client


@pytest.fixture
def superuser_sql(database: TestDatabase) -> Sql:
    def run(statement: str) -> None:
        with psycopg.connect(database.superuser) as connection:
            connection.execute(statement.encode())

    return run


@pytest.fixture(autouse=True)
def ask_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)


async def test_being_alive_asks_nobody() -> None:
    async with at_root(service_on(NOWHERE)) as client:  # not started: there is no pool that it could ask
        answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_whoever_found_a_hole_is_told_whom_to_tell() -> None:
    """RFC 9116: a contact, and a day less than a year from now until which this holds."""
    service = create_app(Settings, [])
    contact = {"APP_SECURITY_CONTACT": "mailto:security@shop.com", "DATABASE_URL": NOWHERE}
    service.configure(load(Settings, {"APP_ENVIRONMENT": "test", "APP_LIMIT_PER_ADDRESS": "1", **contact}))
    async with at_root(service) as client:
        answer = await client.get("/.well-known/security.txt")
        limited = await client.get("/.well-known/security.txt")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert fields.keys() == {"Contact", "Expires"}
    assert fields["Contact"] == "mailto:security@shop.com"
    assert timedelta(days=90) < datetime.fromisoformat(fields["Expires"]) - datetime.now(UTC) < timedelta(days=365)
    assert limited.status_code == 429


async def test_without_a_database_it_is_not_ready_and_says_so_in_time() -> None:
    service = service_on(NOWHERE)
    async with started(service), at_root(service) as client:
        before = monotonic()
        answer = await client.get("/readyz")
        seconds = monotonic() - before
        assert (await client.get("/livez")).status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert seconds < 2


async def test_a_database_that_accepts_and_never_answers_is_given_up_in_time() -> None:
    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    service = service_on(f"postgresql://somebody:nothing@127.0.0.1:{port}/nowhere")
    async with started(service), at_root(service) as client:
        before = monotonic()
        answer = await client.get("/readyz")
        seconds = monotonic() - before
    silent.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert seconds < 2


async def test_it_is_ready_once_the_migrations_are_there_and_again_when_the_database_is_back(
    database: TestDatabase, superuser_sql: Sql
) -> None:
    service = service_on(database.app)
    async with started(service), at_root(service) as client:
        assert (await client.get("/readyz")).json() == {"status": "ok"}
        superuser_sql("create table kept as select version_num from chassis.alembic_version")
        superuser_sql("delete from chassis.alembic_version")
        behind = await client.get("/readyz")
        superuser_sql("insert into chassis.alembic_version select version_num from kept")
        recovered = await client.get("/readyz")
        superuser_sql("insert into chassis.alembic_version values ('of_a_newer_release')")
        ahead = await client.get("/readyz")
    assert (behind.status_code, behind.json()["code"]) == (503, "migrations_pending")
    assert recovered.status_code == 200
    assert ahead.status_code == 200  # an older replica beside a newer schema goes on serving


async def test_a_replica_that_drains_is_alive_and_not_ready(database: TestDatabase) -> None:
    service = service_on(database.app)
    async with started(service), at_root(service) as client:
        service.readiness.draining = True
        answer = await client.get("/readyz")
        assert (await client.get("/livez")).status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")


async def test_many_who_ask_at_once_cost_one_connection(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FRESH_SECONDS", 30.0)
    service = service_on(database.app)
    connected = 0
    connect = service.database.connect

    async def counting() -> Any:
        nonlocal connected
        connected += 1
        return await connect()

    monkeypatch.setattr(service.database, "connect", counting)
    async with started(service), at_root(service) as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert connected == 1


async def test_it_says_what_runs(database: TestDatabase) -> None:
    service = create_app(Settings, [])
    service.configure(
        load(Settings, {"APP_ENVIRONMENT": "test", "DATABASE_URL": database.app, "APP_REVISION": "abc123"})
    )
    async with started(service), at_root(service) as client:
        answer = (await client.get("/version")).json()
    assert answer == {"service": service.title, "version": service.version, "revision": "abc123"}


WANTED = {
    "http_request_duration_seconds",
    "http_requests_in_flight",
    "db_query_duration_seconds",
    "db_pool_size",
    "db_pool_in_use",
    "db_pool_wait_seconds",
    "event_loop_lag_seconds",
    "service_draining",
    "service_info",
    "service_ready",
    "process_resident_memory_bytes",
}


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def series() -> int:
    return sum(len(list(family.samples)) for family in REGISTRY.collect())


def counted(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0.0


def test_they_are_served_on_the_private_port_and_on_no_other(server: RunningServer) -> None:
    status, media_type, text = get(f"{server.metrics_url}/metrics")
    assert (status, media_type.partition(";")[0]) == (200, "text/plain")
    assert {family.name for family in text_string_to_metric_families(text)} >= WANTED
    for url in (f"{server.url}/metrics", f"{server.metrics_url}/readyz", f"{server.metrics_url}/v1/orders"):
        status, media_type, _ = get(url)
        assert (url, status, media_type) == (url, 404, "application/problem+json")


def test_they_say_whether_the_replica_is_ready_at_that_moment(serve: Serve, superuser_sql: Sql) -> None:
    server = serve(APP_DRAIN_SECONDS="20")

    def shown(sample: str) -> bool:
        return f"\n{sample}\n" in get(f"{server.metrics_url}/metrics")[2]

    assert shown("service_ready 1.0")
    superuser_sql("alter table chassis.alembic_version rename to gone")
    wait_until(lambda: shown("service_ready 0.0"))
    superuser_sql("alter table chassis.gone rename to alembic_version")
    wait_until(lambda: shown("service_ready 1.0"))
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: shown("service_draining 1.0"))
    assert shown("service_ready 0.0")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = monotonic() + 10
    while not true():
        assert monotonic() < deadline
        sleep(0.05)


@pytest.fixture
def service() -> Service:
    """A service whose routes are the chassis's own."""
    service = create_app(Settings, [])
    service.configure(load(Settings, {"APP_ENVIRONMENT": "test", "DATABASE_URL": NOWHERE} | WIDE_LIMITS))
    return service


async def test_neither_paths_nor_methods_make_new_series(service: Service) -> None:
    for method in ("GET", "BREW"):
        await messages(service, method, "/nothing/here")
    before = series()
    for number in range(10_000):
        await messages(service, "GET" if number % 2 else f"M{number}", f"/nothing/{number}")
    assert series() == before


async def test_requests_are_counted_by_route_and_status(service: Service) -> None:
    wanted = [("GET", "/livez", 200), ("GET", "unmatched", 404), ("other", "unmatched", 404)]
    before = [counted(*labels) for labels in wanted]
    for method, path in (("GET", "/livez"), ("GET", "/no/such/path"), ("BREW", "/no/such/path")):
        await messages(service, method, path)
    assert [counted(*labels) for labels in wanted] == [count + 1 for count in before]


async def test_a_path_is_counted_under_its_template(api: Client, sql: Callable[..., object]) -> None:
    del sql
    template = "/v1/things/{thing_id}"
    before = counted("PATCH", template, 422)
    await api.patch("/things/no-uuid", json={"name": "x"}, headers={"If-Match": '"1"'})
    assert counted("PATCH", template, 422) == before + 1
