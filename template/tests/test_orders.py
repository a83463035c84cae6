"""Orders over HTTP: on a real PostgreSQL, in a database of each test's own."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

pytestmark = pytest.mark.anyio

Client = httpx.AsyncClient
AsPrincipal = Callable[..., dict[str, str]]

TEA = {"sku": "tea", "quantity": 2, "unit_price_minor": 450}
CUP = {"sku": "cup", "quantity": 1, "unit_price_minor": 1_200}


def new_order(**fields: Any) -> dict[str, Any]:
    return {"reference": "A-1", "customer_email": "ada@example.com", "currency": "EUR", "items": [TEA, CUP]} | fields


@pytest.fixture
def owner(client: Client, as_principal: AsPrincipal) -> Client:
    client.headers.update(as_principal("owner"))
    return client


async def place(client: Client, **fields: Any) -> httpx.Response:
    return await client.post("/v1/orders", json=new_order(**fields), headers={"Idempotency-Key": str(uuid4())})


async def change(client: Client, order: dict[str, Any], etag: str, **fields: Any) -> httpx.Response:
    return await client.patch(f"/v1/orders/{order['id']}", json=fields, headers={"If-Match": etag})


async def test_an_order_is_placed_and_read(owner: Client):
    placed = await place(owner, note="Ring twice.")
    assert placed.status_code == 201
    order = placed.json()
    assert order["total_minor"] == 2 * 450 + 1_200
    assert (order["status"], order["version"], order["note"]) == ("placed", 1, "Ring twice.")
    assert order["items"] == [TEA, CUP]

    read = await owner.get(f"/v1/orders/{order['id']}")
    assert (read.status_code, read.json()) == (200, order)
    assert read.headers["etag"] == placed.headers["etag"] == '"1"'


async def test_placing_again_with_the_same_key_gives_the_same_order(owner: Client):
    key = {"Idempotency-Key": "first-order"}
    first = await owner.post("/v1/orders", json=new_order(), headers=key)
    again = await owner.post("/v1/orders", json=new_order(), headers=key)
    assert again.json() == first.json()
    assert len((await owner.get("/v1/orders")).json()["items"]) == 1


async def test_only_a_draft_can_be_thrown_away(owner: Client):
    draft = (await place(owner, reference="A-1", status="draft")).json()
    placed = (await place(owner, reference="A-2")).json()
    for order, answer, afterwards in ((draft, 204, 404), (placed, 409, 200)):
        assert (await owner.delete(f"/v1/orders/{order['id']}")).status_code == answer
        assert (await owner.get(f"/v1/orders/{order['id']}")).status_code == afterwards
    assert (await owner.delete(f"/v1/orders/{draft['id']}")).status_code == 404


async def test_a_reference_names_one_order(owner: Client):
    answers = await asyncio.gather(*(place(owner) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "reference_taken"}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        (["currency"], {"currency": "euro"}),
        (["currency"], {"currency": "XXX"}),
        (["customer_email"], {"customer_email": "ada"}),
        (["reference"], {"reference": ""}),
        (["items"], {"items": []}),
        (["items", 0, "quantity"], {"items": [TEA | {"quantity": 0}]}),
        (["items", 1, "unit_price_minor"], {"items": [TEA, CUP | {"unit_price_minor": -1}]}),
        (["items", 0, "unit_price_minor"], {"items": [TEA | {"unit_price_minor": 4.5}]}),
        (["status"], {"status": "cancelled"}),
        (["?"], {"total_minor": 1}),  # not a field of a new order: what it is called is not repeated
    ],
)
async def test_what_is_wrong_with_an_order_is_said_by_field(owner: Client, field: list[Any], fields: dict[str, Any]):
    refused = await place(owner, **fields)
    assert refused.status_code == 422
    assert [error["location"] for error in refused.json()["errors"]] == [["body", *field]]
    assert (await owner.get("/v1/orders")).json() == {"items": [], "next": None}


async def test_orders_are_listed_newest_first_page_by_page(owner: Client):
    for number in range(5):
        await place(owner, reference=f"A-{number}")
    first = (await owner.get("/v1/orders", params={"limit": 3})).json()
    second = (await owner.get("/v1/orders", params={"limit": 3, "cursor": first["next"]})).json()
    references = [order["reference"] for page in (first, second) for order in page["items"]]
    assert references == ["A-4", "A-3", "A-2", "A-1", "A-0"]
    assert second["next"] is None


async def test_orders_are_listed_by_status_and_time(owner: Client):
    await place(owner, reference="draft", status="draft")
    placed = (await place(owner, reference="placed")).json()

    async def listed(**filters: str) -> list[str]:
        answer = await owner.get("/v1/orders", params=filters)
        assert answer.status_code == 200
        return [order["reference"] for order in answer.json()["items"]]

    assert await listed(status="draft") == ["draft"]
    assert await listed(status="placed") == ["placed"]
    assert await listed(status="cancelled") == []
    assert await listed(placed_from=placed["created_at"]) == ["placed"]
    assert await listed(placed_before=placed["created_at"]) == ["draft"]
    assert await listed(placed_before=placed["created_at"], status="placed") == []
    for wrong in ({"status": "lost"}, {"placed_from": "2024-01-01T12:00:00"}, {"placed_before": "yesterday"}):
        assert (await owner.get("/v1/orders", params=wrong)).status_code == 422


async def test_an_order_is_changed_only_by_who_has_seen_it_as_it_is(owner: Client):
    order = (await place(owner, note="Ring twice.")).json()
    changed = await change(owner, order, '"1"', customer_email="grace@example.com")
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json()["customer_email"] == "grace@example.com"
    assert changed.json()["note"] == "Ring twice."

    stale = await change(owner, order, '"1"', note="Late.")
    assert stale.status_code == 412
    blind = await owner.patch(f"/v1/orders/{order['id']}", json={"note": "Blind."})
    assert blind.status_code == 428
    assert (await owner.get(f"/v1/orders/{order['id']}")).json() == changed.json()


async def test_a_draft_is_placed_a_placed_order_cancelled_and_then_nothing_more(owner: Client):
    order = (await place(owner, status="draft")).json()
    assert (await change(owner, order, '"1"', status="draft")).status_code == 422
    assert (await change(owner, order, '"1"', status="placed")).json()["status"] == "placed"
    cancelled = await owner.post(f"/v1/orders/{order['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"], cancelled.json()["version"]) == (200, "cancelled", 3)
    again = await owner.post(f"/v1/orders/{order['id']}/cancel")
    assert (again.status_code, again.json()) == (200, cancelled.json())
    late = await change(owner, order, '"3"', note="Late.")
    assert (late.status_code, late.json()["code"]) == (409, "order_cancelled")


async def test_an_order_that_is_not_there_is_not_found(owner: Client):
    for missing in (uuid4(), UUID(int=0)):
        assert (await owner.get(f"/v1/orders/{missing}")).status_code == 404
        assert (await change(owner, {"id": missing}, '"1"', note="x")).status_code == 404
        assert (await owner.post(f"/v1/orders/{missing}/cancel")).status_code == 404


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [("owner", 200, 201), ("admin", 200, 201), ("member", 200, 201), ("viewer", 200, 403), ("stranger", 401, 401)],
)
async def test_a_role_decides_what_may_be_done(
    client: Client, as_principal: AsPrincipal, role: str, reads: int, writes: int
):
    client.headers.update(as_principal(role))
    assert (await client.get("/v1/orders")).status_code == reads
    assert (await place(client)).status_code == writes


async def test_a_tenant_sees_its_own_orders_alone(owner: Client, as_principal: AsPrincipal):
    order = (await place(owner)).json()
    owner.headers.update(as_principal("owner", uuid4()))
    assert (await owner.get("/v1/orders")).json()["items"] == []
    assert (await owner.get(f"/v1/orders/{order['id']}")).status_code == 404
    assert (await place(owner)).status_code == 201  # their reference does not take ours
