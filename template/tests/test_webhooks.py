"""Webhooks hear of orders, in the order's own transaction."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

pytestmark = pytest.mark.anyio

ORDER = {
    "reference": "A-1",
    "customer_email": "ada@example.com",
    "currency": "EUR",
    "items": [{"sku": "tea", "quantity": 2, "unit_price_minor": 450}],
}


@pytest.fixture
def owner(client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]]) -> httpx.AsyncClient:
    client.headers.update(as_principal("owner"))
    return client


async def place(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await client.post("/v1/orders", json=ORDER | fields, headers={"Idempotency-Key": str(uuid4())})


async def events(client: httpx.AsyncClient) -> list[tuple[str, dict[str, Any]]]:
    """What there is to deliver, oldest first."""
    answer = await client.get("/v1/webhooks/events")
    assert answer.status_code == 200
    return [(event["topic"], event["payload"]) for event in reversed(answer.json()["items"])]


async def test_each_thing_that_happens_to_an_order_is_heard_of_once(owner: httpx.AsyncClient):
    order = (await place(owner, status="draft")).json()
    path = f"/v1/orders/{order['id']}"
    assert await events(owner) == []
    for version in (1, 2):  # the second time it is placed already
        assert (await owner.patch(path, json={"status": "placed"}, headers={"If-Match": f'"{version}"'})).is_success
    for _ in range(2):
        assert (await owner.post(f"{path}/cancel")).is_success
    placed = {"order_id": order["id"], "reference": "A-1", "currency": "EUR", "total_minor": 900}
    cancelled = {"order_id": order["id"], "reference": "A-1"}
    assert await events(owner) == [("order.placed", placed), ("order.cancelled", cancelled)]


async def test_of_an_order_that_failed_nothing_is_heard(owner: httpx.AsyncClient):
    assert (await place(owner)).status_code == 201
    assert (await place(owner)).status_code == 409
    assert [topic for topic, _ in await events(owner)] == ["order.placed"]


@pytest.mark.parametrize(("role", "status"), [("owner", 200), ("admin", 200), ("member", 403), ("viewer", 403)])
async def test_who_may_see_what_there_is_to_deliver(
    owner: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]], role: str, status: int
):
    assert (await owner.get("/v1/webhooks/events", headers=as_principal(role))).status_code == status


async def test_a_tenant_hears_of_its_own_orders_alone(
    owner: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]]
):
    await place(owner)
    owner.headers.update(as_principal("owner", uuid4()))
    assert await events(owner) == []
