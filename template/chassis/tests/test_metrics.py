"""Metrics: on the private port alone, in a form that Prometheus reads, with as many series as there are routes."""

import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from edges import NOWHERE, messages
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from things import Client

from chassis import Settings, create_app
from chassis.app import Service
from chassis.settings import load
from chassis.testing import WIDE_LIMITS, RunningServer

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
