"""`If-Match`: nobody overwrites what they have not seen."""

import asyncio
from uuid import UUID, uuid4

import pytest
from things import Client, Sql

pytestmark = pytest.mark.anyio


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
