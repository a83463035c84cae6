"""Limits on the requests of a whole service: who is limited, what an answer tells, what a refusal costs."""

from collections.abc import Callable
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Request
from prometheus_client import REGISTRY
from things import AsPrincipal, Client, Sql
from things import router as things_router

from chassis import public
from chassis.app import Service
from chassis.testing import RunningServer, started

router = APIRouter()
router.include_router(things_router)


@router.get("/open", dependencies=[public])
async def open_to_all() -> str:
    return "open"


@router.get("/as-fastapi-does", dependencies=[public])
def only_fastapi_understands(request: Request) -> str:
    return "open"


@pytest.fixture
def asking(service_of: Callable[..., Service]) -> Callable[..., "Asking"]:
    def make(**limits: str) -> Asking:
        return Asking(service_of(router, **limits))

    return make


class Asking:
    """`async with asking(APP_LIMIT_PER_ADDRESS="3") as ask: await ask("GET", "/v1/things", "192.0.2.1")`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._running = started(service)

    async def __aenter__(self) -> "Asking":
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._running.__aexit__(None, None, None)

    async def __call__(self, method: str, path: str, peer: str = "192.0.2.1", **more: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.service, client=(peer, 40_000))
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        async with Client(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)


def samples(name: str) -> float:
    """The sum over all labels of one series."""
    found = (sample for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name)
    return sum(sample.value for sample in found)


def limits_of(answer: httpx.Response) -> list[str]:
    return [item.split('"')[1] for item in answer.headers.get("ratelimit", "").split(", ") if item]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/open", 200),
        ("HEAD", "/v1/open", 200),
        ("GET", "/v1/as-fastapi-does", 200),
        ("GET", "/v1/nowhere", 404),
        ("DELETE", "/v1/open", 405),
        ("OPTIONS", "/v1/open", 204),
        ("GET", "/v1/things", 401),
        ("GET", "/v1/open%2f", 400),
        ("GET", "/version", 200),
        ("GET", "/openapi.json", 200),
    ],
)
async def test_every_request_counts_against_its_address(
    method: str, path: str, status: int, asking: Callable[..., Asking]
):
    async with asking(APP_LIMIT_PER_ADDRESS="3") as ask:
        answers = [await ask(method, path) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [status] * 3 + [429]
        assert [limits_of(answer) for answer in answers] == [["address"]] * 4
        assert answers[0].headers["ratelimit-policy"] == '"address";q=3;w=60'
        assert [answer.headers["ratelimit"] for answer in answers] == [f'"address";r={r};t=20' for r in (2, 1, 0, 0)]
        assert (await ask(method, path, peer="192.0.2.2")).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://app.example.com", "access_control_request_method": "GET"}, 204),
        ({"origin": "https://evil.example.com", "access_control_request_method": "GET"}, 403),
    ],
)
async def test_a_preflight_counts_as_well(headers: dict[str, str], status: int, asking: Callable[..., Asking]):
    async with asking(APP_LIMIT_PER_ADDRESS="2", APP_CORS_ORIGINS="https://app.example.com") as ask:
        answers = [await ask("OPTIONS", "/v1/things", **headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [status, status, 429]


async def test_a_page_of_another_origin_may_read_the_limits(asking: Callable[..., Asking]):
    async with asking(APP_CORS_ORIGINS="https://app.example.com") as ask:
        answer = await ask("GET", "/v1/open", origin="https://app.example.com")
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"ratelimit", "ratelimit-policy", "retry-after"} <= exposed


@pytest.mark.parametrize("headers", [{"host": "elsewhere.example.com"}, {"x_large": "x" * 20_000}])
async def test_what_is_refused_by_its_headers_counts_as_well(headers: dict[str, str], asking: Callable[..., Asking]):
    async with asking(APP_LIMIT_PER_ADDRESS="2") as ask:
        answers = [await ask("GET", "/v1/open", **headers) for _ in range(3)]
        assert answers[0].status_code in (400, 431)
        assert answers[2].status_code == 429


async def test_a_refusal_is_a_problem_that_says_when_to_come_back(asking: Callable[..., Asking]):
    async with asking(APP_LIMIT_PER_ADDRESS="2") as ask:
        before = samples("rate_limited_requests_total")
        answers = [await ask("GET", "/v1/open") for _ in range(3)]
    refused = answers[2]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert (refused.json()["status"], refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert "retry-after" not in answers[1].headers
    assert samples("rate_limited_requests_total") == before + 1


@pytest.mark.parametrize("probe", ["/livez", "/readyz"])
async def test_a_probe_is_never_limited(probe: str, asking: Callable[..., Asking]):
    async with asking(APP_LIMIT_PER_ADDRESS="1") as ask:
        assert (await ask("GET", "/v1/open")).status_code == 200
        assert (await ask("GET", "/v1/open")).status_code == 429
        answers = [await ask("GET", probe) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert "ratelimit" not in answers[4].headers


async def test_an_account_is_limited_whatever_its_addresses(asking: Callable[..., Asking], as_principal: AsPrincipal):
    async with asking(APP_LIMIT_PER_ACCOUNT="3") as ask:
        one, other = as_principal("owner")["Authorization"], as_principal("member")["Authorization"]
        answers = [await ask("GET", "/v1/things", f"192.0.2.{n}", authorization=one) for n in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429]
        assert limits_of(answers[0]) == limits_of(answers[3]) == ["address", "account", "tenant"]
        assert answers[3].headers["retry-after"] == "20"
        assert (await ask("GET", "/v1/things", authorization=other)).status_code == 200
        assert (await ask("GET", "/v1/nowhere", authorization=one)).status_code == 429, "not found or found"


async def test_a_tenant_is_limited_whoever_of_it_asks(
    asking: Callable[..., Asking], as_principal: AsPrincipal, other_tenant: UUID
):
    async with asking(APP_LIMIT_PER_TENANT="3") as ask:
        roles = ["owner", "member", "owner", "member"]
        answers = [
            await ask("GET", "/v1/things", f"192.0.2.{n}", authorization=as_principal(role)["Authorization"])
            for n, role in enumerate(roles)
        ]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429]
        theirs = as_principal("owner", other_tenant)["Authorization"]
        assert (await ask("GET", "/v1/things", authorization=theirs)).status_code == 200


async def test_a_flood_of_nobody_uses_up_no_account_and_no_tenant(
    asking: Callable[..., Asking], as_principal: AsPrincipal, tenant_id: UUID
):
    async with asking(APP_LIMIT_PER_ADDRESS="5", APP_LIMIT_PER_ACCOUNT="2", APP_LIMIT_PER_TENANT="2") as ask:
        mine = as_principal("owner")["Authorization"]
        forged = [f"Bearer dev:{tenant_id}:nonsense", f"Basic dev:{tenant_id}:owner", f"Bearer {tenant_id}", mine[:-1]]
        for number in range(20):
            answer = await ask("GET", "/v1/things", "198.51.100.1", authorization=forged[number % 4])
            assert answer.status_code == (401 if number < 5 else 429)
        assert (await ask("GET", "/v1/things", authorization=mine)).status_code == 200


async def test_a_refused_request_costs_no_query(
    asking: Callable[..., Asking], as_principal: AsPrincipal, sql: Sql, tenant_id: UUID
):
    async with asking(APP_LIMIT_PER_ACCOUNT="1") as ask:
        mine = as_principal("owner")["Authorization"]
        assert (await ask("GET", "/v1/things", authorization=mine)).status_code == 200
        transactions = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        queries, used = samples("db_query_duration_seconds_count"), samples("db_pool_wait_seconds_count")
        sql("select pg_stat_force_next_flush()")
        [(before,)] = sql(transactions)
        for _ in range(50):
            assert (await ask("GET", "/v1/things", authorization=mine)).status_code == 429
        [(after,)] = sql(transactions)
        assert samples("db_query_duration_seconds_count") == queries
        assert samples("db_pool_wait_seconds_count") == used
        assert after - before < 10, "those of the test's own connection"


async def test_a_request_over_the_limit_of_its_address_is_not_even_authenticated(
    asking: Callable[..., Asking], as_principal: AsPrincipal
):
    async with asking(APP_LIMIT_PER_ADDRESS="1") as ask:
        asked: list[str] = []
        authenticate = ask.service.edge.authenticate

        async def authenticate_and_tell(exchange: object) -> object:
            asked.append("who")
            return await authenticate(exchange)  # type: ignore[arg-type]  # the edge's own

        ask.service.edge.authenticate = authenticate_and_tell  # type: ignore[assignment]  # as above
        for _ in range(3):
            await ask("GET", "/v1/things", authorization=as_principal()["Authorization"])
    assert asked == ["who"]


async def test_a_forwarding_header_chooses_a_limit_only_when_a_proxy_wrote_it(asking: Callable[..., Asking]):
    async with asking(APP_LIMIT_PER_ADDRESS="2", APP_TRUSTED_PROXIES="10.0.0.0/8") as ask:
        for number, status in enumerate([200, 200, 429, 429]):
            answer = await ask("GET", "/v1/open", "192.0.2.1", x_forwarded_for=f"203.0.113.{number}")
            assert answer.status_code == status
        for number, status in enumerate([200, 200, 429, 429]):
            forwarded = f"203.0.113.{number}, 198.51.100.7, 10.0.0.{number}"
            assert (await ask("GET", "/v1/open", "10.1.1.1", x_forwarded_for=forwarded)).status_code == status
        for number, status in enumerate([200, 200, 429, 429]):
            assert (await ask("GET", "/v1/open", f"2001:db8::{number:x}:1")).status_code == status


@pytest.fixture
def two(serve: Callable[..., RunningServer]) -> Callable[..., list[int]]:
    """Start two replicas, and ask them by turns."""

    def ask(requests: int, **more: str) -> list[int]:
        replicas = [serve(APP_LIMIT_PER_ADDRESS="4", **more) for _ in range(2)]
        with httpx.Client() as client:
            return [client.get(f"{replicas[n % 2].url}/v1/nowhere").status_code for n in range(requests)]

    return ask


def test_two_replicas_without_a_shared_store_allow_each_its_own(
    two: Callable[..., list[int]], environment: dict[str, str]
):
    environment.pop("APP_VALKEY_URL", None)
    assert two(10) == [404] * 8 + [429] * 2
