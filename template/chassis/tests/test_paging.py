"""Lists and versions: who follows the cursors sees every row once, and nobody overwrites what they have not seen."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from things import AsPrincipal, Client, Serving, Sql

from chassis.http.paging import Paging

pytestmark = pytest.mark.anyio

# Seven things to each moment: the id has to decide, on most pages between the last row and the next one.
FILL = """
    insert into things (tenant_id, name, created_at)
    select %s, %s || n, timestamptz '2024-01-01 00:00:00+00' + n / 7 * interval '1 second' + %s::interval
    from generate_series(0, %s - 1) as n
"""
IN_ORDER = "select id::text from things where tenant_id = %s order by created_at desc, id desc"


async def pages(api: Client, limit: int, path: str = "/things"):
    """The ids on each page of a walk from the first page to the last."""
    cursor: dict[str, str] = {}
    while True:
        answer = await api.get(path, params={"limit": limit} | cursor)
        assert answer.status_code == 200
        page = answer.json()
        yield [item["id"] for item in page["items"]]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


async def test_ten_thousand_rows_are_walked_without_loss_or_repetition(
    api: Client, sql: Sql, tenant_id: UUID, other_tenant: UUID
):
    sql(FILL, tenant_id, "mine-", "0", 10_000)
    sql(FILL, other_tenant, "theirs-", "0", 1_000)
    walked = [page async for page in pages(api, limit=100)]
    assert [len(page) for page in walked] == [100] * 100
    assert [identifier for page in walked for identifier in page] == [row[0] for row in sql(IN_ORDER, tenant_id)]


async def test_rows_that_arrive_during_a_walk_disturb_nothing_that_was_there_before(
    api: Client, sql: Sql, tenant_id: UUID
):
    sql(FILL, tenant_id, "first-", "0", 300)
    before = [row[0] for row in sql(IN_ORDER, tenant_id)]
    seen: list[str] = []
    async for page in pages(api, limit=20):
        seen += page
        sql(FILL, tenant_id, f"newer-{len(seen)}-", "1 day", 15)  # ahead of the first page
        sql(FILL, tenant_id, f"between-{len(seen)}-", "0", 15)  # at moments of pages already seen and still to come
        if len(seen) > 2_000:
            break
    assert len(seen) == len(set(seen))
    assert [identifier for identifier in seen if identifier in set(before)] == before


async def test_the_last_page_says_so(api: Client, sql: Sql, tenant_id: UUID):
    for rows, sizes in ((0, [0]), (1, [1]), (19, [19]), (20, [20]), (21, [20, 1]), (40, [20, 20])):
        sql("delete from things")
        sql(FILL, tenant_id, "thing-", "0", rows)
        assert [len(page) async for page in pages(api, limit=20)] == sizes


async def test_a_page_has_a_size_that_is_allowed(api: Client):
    for limit in ("0", "101", "-1", "ten", "1e1"):
        assert (await api.get("/things", params={"limit": limit})).status_code == 422, limit


async def test_a_cursor_that_this_list_did_not_make_is_refused(
    api: Client, serving: Serving, sql: Sql, tenant_id: UUID, other_tenant: UUID, as_principal: AsPrincipal
):
    sql(FILL, tenant_id, "mine-", "0", 30)
    sql(FILL, other_tenant, "theirs-", "0", 30)
    cursor: str = (await api.get("/things")).json()["next"]
    theirs: str = (await api.get("/things", headers=as_principal("owner", other_tenant))).json()["next"]
    elsewhere: str = (await api.get("/other-things")).json()["next"]
    async with serving(APP_SECRET_KEY="another-secret-key-0123456789-abcdefgh") as other_service:
        foreign: str = (await other_service.get("/things")).json()["next"]
    changed = [flipped(cursor, bit) for bit in range(0, len(cursor) * 6, 7)]
    other_lengths = ["", cursor[:-4], cursor[4:], cursor + "AAAA", cursor[:32], cursor[32:], cursor * 2]
    rubbish = ["x", "null", "ä", "\0", "=" * 48, "A" * 48, str(uuid4()), "%", cursor[:-1] + " "]
    for refused in (theirs, elsewhere, foreign, *changed, *other_lengths, *rubbish):
        answer = await api.get("/things", params={"cursor": refused})
        assert answer.status_code == 400, refused
        assert answer.json()["code"] in {"cursor_malformed", "malformed_query"}
    assert (await api.get("/things", params={"cursor": "A" * 201})).status_code == 422
    colleague = await api.get("/things", params={"cursor": cursor}, headers=as_principal("member"))
    assert (colleague.status_code, len(colleague.json()["items"])) == (200, 10)


def flipped(cursor: str, bit: int) -> str:
    token = bytearray(base64.urlsafe_b64decode(cursor))
    token[bit // 8] ^= 1 << bit % 8
    return base64.urlsafe_b64encode(token).decode()


async def test_a_cursor_says_nothing_about_another_page_size(api: Client, sql: Sql, tenant_id: UUID):
    sql(FILL, tenant_id, "mine-", "0", 30)
    first = (await api.get("/things", params={"limit": 3})).json()
    second = (await api.get("/things", params={"limit": 100, "cursor": first["next"]})).json()
    walked = [item["id"] for page in (first, second) for item in page["items"]]
    assert walked == [row[0] for row in sql(IN_ORDER, tenant_id)]


NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_page_starts_at_its_cursor_or_where_its_filter_ends_whichever_is_earlier():
    first = Paging(20, None, b"key")
    assert first.before() > (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 2))
    assert first.before(NOON) == (NOON, UUID(int=0))
    assert first.since(None) == datetime.min.replace(tzinfo=UTC)
    assert first.since(NOON) == NOON
    cursor = Paging(1, None, b"key").page([Row(NOON), Row(NOON - HOUR)]).next
    following = Paging(20, cursor, b"key")
    assert following.before() == (NOON, Row.id)
    assert following.before(NOON + HOUR) == (NOON, Row.id)
    assert following.before(NOON) == (NOON, UUID(int=0))
    assert following.before(NOON - HOUR) == (NOON - HOUR, UUID(int=0))


class Row:
    id = UUID(int=7)

    def __init__(self, created_at: datetime) -> None:
        self.created_at = created_at


@pytest.fixture
def thing(sql: Sql, tenant_id: UUID) -> str:
    """The path of a thing in its third version."""
    [(identifier,)] = sql(
        "insert into things (tenant_id, name, version) values (%s, 'a', 3) returning id::text", tenant_id
    )
    return f"/things/{identifier}"


async def rename(api: Client, thing: str, if_match: str, name: str = "b"):
    return await api.patch(thing, json={"name": name}, headers={b"if-match": if_match.encode()})


async def test_the_latest_version_may_be_changed_and_becomes_the_next(api: Client, thing: str):
    second = await rename(api, thing, '"3"')
    assert (second.status_code, second.headers["etag"], second.json()["version"]) == (200, '"4"', 4)
    third = await rename(api, thing, second.headers["etag"], "c")
    assert (third.status_code, third.headers["etag"], third.json()["name"]) == (200, '"5"', "c")


async def test_without_a_version_nothing_is_changed(api: Client, thing: str, sql: Sql):
    answer = await api.patch(thing, json={"name": "b"})
    assert (answer.status_code, answer.json()["code"]) == (428, "if_match_missing")
    assert sql("select name, version from things") == [("a", 3)]


async def test_another_version_is_not_changed(api: Client, thing: str, sql: Sql):
    for version in ('"2"', '"4"', '"0"', '"999999999999999999"'):
        answer = await rename(api, thing, version)
        assert (answer.status_code, answer.json()["code"]) == (412, "version_changed"), version
    assert sql("select name, version from things") == [("a", 3)]


async def test_what_is_no_etag_of_ours_is_refused(api: Client, thing: str, sql: Sql):
    for value in ("*", "3", 'W/"3"', '"3", "4"', '"3', '""', '"-1"', '"3.0"', '"x"', f'"{"9" * 19}"', '"٣"'):
        answer = await rename(api, thing, value)
        assert (answer.status_code, answer.json()["code"]) == (400, "if_match_malformed"), value
    assert sql("select name, version from things") == [("a", 3)]


async def test_of_twenty_who_saw_the_same_version_one_changes_it(api: Client, thing: str, sql: Sql):
    answers = await asyncio.gather(*(rename(api, thing, '"3"', str(number)) for number in range(20)))
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200] + [412] * 19
    assert sql("select name, version from things") == [(str(statuses.index(200)), 4)]


async def test_what_is_not_there_is_not_found_whatever_its_version(api: Client, other_tenant: UUID, sql: Sql):
    [(theirs,)] = sql("insert into things (tenant_id, name) values (%s, 'theirs') returning id::text", other_tenant)
    for identifier in (theirs, str(uuid4())):
        assert (await rename(api, f"/things/{identifier}", '"1"')).status_code == 404
    assert sql("select name from things") == [("theirs",)]
