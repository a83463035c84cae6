"""Signing up, verifying and signing in: what works, and what nobody may learn from it."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from chassis.app import Service
from chassis.identity.passwords import Passwords

from .conftest import PASSWORD, Mailbox, Person, Work, sign_in

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]


async def test_a_new_account_has_a_tenant_and_may_use_it(join: Join):
    ann = await join()
    members = (await ann.call("GET", "/tenants/members")).json()["items"]
    assert [member["role"] for member in members] == ["owner"]
    (tenant,) = (await ann.call("GET", "/tenants")).json()["items"]
    assert tenant["role"] == "owner"
    assert tenant["id"] == str(ann.tenant_id)
    assert set(ann.tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (ann.tokens["token_type"], ann.tokens["expires_in"]) == ("Bearer", 600)


async def test_the_password_is_stored_as_argon2id_alone(join: Join, sql: Sql):
    await join("ann@example.com")
    ((stored,),) = sql("select password_hash from chassis.accounts")
    assert stored.startswith("$argon2id$v=19$")


async def test_a_guessable_password_is_refused_wherever_one_is_chosen(join: Join):
    ann = await join("ann.lee@example.com")
    guessable = "ann.lee.ann.lee.2024"
    for path, body in (
        ("/auth/signup", {"email": ann.email, "password": guessable}),
        ("/auth/password/change", {"current_password": PASSWORD, "new_password": guessable}),
    ):
        answer = await ann.call("POST", path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "password_guessable")


async def test_a_password_that_is_refused_does_not_count_as_a_mail(client: httpx.AsyncClient):
    async def sign_up(password: str) -> int:
        body = {"email": "ann@example.com", "password": password}
        return (await client.post("/v1/auth/signup", json=body)).status_code

    assert [await sign_up("ann.ann.ann.2024") for _ in range(5)] == [422] * 5
    assert [await sign_up(PASSWORD) for _ in range(4)] == [202, 202, 202, 429]


def test_production_hashes_at_the_cost_that_owasp_asks_for():
    from chassis.identity.passwords import Cost

    assert Cost().prefix == "$argon2id$v=19$m=19456,t=2,p=1$"


@pytest.mark.parametrize("spelling", ["Ann@Example.com", "ANN@EXAMPLE.COM", "ann@example.com"])
async def test_every_spelling_of_an_address_signs_in(join: Join, client: httpx.AsyncClient, spelling: str):
    await join("Ann@Example.com")
    await sign_in(client, spelling)


async def test_signing_in_tells_nothing_of_who_has_an_account(
    work: Work, join: Join, client: httpx.AsyncClient, sql: Sql
):
    await join("ann@example.com")
    await join("disabled@example.com")
    sql("update chassis.accounts set disabled_at = now() where email_canonical = 'disabled@example.com'")

    async def attempt(address: str, password: str) -> tuple[int, dict[str, Any], list[str]]:
        return await work.of(client.post("/v1/auth/signin", json={"email": address, "password": password}))

    unknown = await attempt("nobody@example.com", "not the password of anybody")
    assert unknown[0] == 401
    assert unknown[2].count("hash") == 1
    assert await attempt("ann@example.com", "not the password of anybody") == unknown
    assert await attempt("disabled@example.com", PASSWORD) == unknown


@pytest.mark.parametrize("verified", [False, True])
async def test_signing_up_tells_nothing_of_who_has_an_account(
    work: Work, join: Join, client: httpx.AsyncClient, mailbox: Mailbox, verified: bool
):
    await join("ann@example.com")
    if verified:
        await client.post("/v1/auth/verify", json={"token": await mailbox.token("ann@example.com")})

    async def attempt(address: str) -> tuple[int, dict[str, Any], list[str]]:
        answer = await work.of(client.post("/v1/auth/signup", json={"email": address, "password": PASSWORD}))
        await mailbox.to(address)
        return answer

    unknown = await attempt("new@example.com")
    assert (unknown[0], unknown[2].count("hash")) == (202, 1)
    assert await attempt("ann@example.com") == unknown
    mails = await mailbox.to("ann@example.com")
    assert len(mails) == len(await mailbox.to("new@example.com")) + 1
    assert "/auth/reset#token=" in mails[-1].get_content(), "the page that takes a token of that purpose"


async def test_asking_for_a_new_password_tells_nothing_of_who_has_an_account(
    work: Work, join: Join, client: httpx.AsyncClient, mailbox: Mailbox
):
    await join("ann@example.com")
    await mailbox.to("ann@example.com")

    async def attempt(address: str) -> tuple[int, dict[str, Any], list[str]]:
        answer = await work.of(client.post("/v1/auth/password/forgot", json={"email": address}))
        await mailbox.to(address)
        return answer

    unknown = await attempt("nobody@example.com")
    assert unknown == (202, {"status": "accepted"}, [])
    assert await attempt("ann@example.com") == unknown
    assert len(await mailbox.to("ann@example.com")) == 2
    assert await mailbox.to("nobody@example.com") == []


async def test_a_link_verifies_once(join: Join, client: httpx.AsyncClient, mailbox: Mailbox, sql: Sql):
    await join("ann@example.com")
    token = await mailbox.token("ann@example.com")
    assert sql("select verified_at is null from chassis.accounts") == [(True,)]
    first = await client.post("/v1/auth/verify", json={"token": token})
    assert first.status_code == 204
    assert sql("select verified_at is null from chassis.accounts") == [(False,)]
    again = await client.post("/v1/auth/verify", json={"token": token})
    assert (again.status_code, again.json()["code"]) == (400, "token_refused")


async def test_a_link_expires(join: Join, client: httpx.AsyncClient, mailbox: Mailbox, sql: Sql):
    await join("ann@example.com")
    ((hours,),) = sql("select extract(epoch from expires_at - now()) / 3600 from chassis.one_time_tokens")
    assert 23.9 < hours <= 24
    sql("update chassis.one_time_tokens set expires_at = now() - interval '1 second'")
    answer = await client.post("/v1/auth/verify", json={"token": await mailbox.token("ann@example.com")})
    assert answer.status_code == 400


@pytest.mark.parametrize("forged", ["", "x", "A" * 64, "é" * 64, "A" * 63 + "="])
async def test_a_forged_token_costs_no_query(
    work: Work, client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]], forged: str
):
    for path, field in [
        ("/verify", "token"),
        ("/password/reset", "token"),
        ("/refresh", "refresh_token"),
        ("/invitations/accept", "token"),
    ]:
        more = {"password": PASSWORD} if "reset" in path else {}
        request = client.post(f"/v1/auth{path}", json={field: forged, **more}, headers=as_principal())
        status, _, done = await work.of(request)
        assert status in {400, 401, 422}
        assert done == []


async def test_nobody_prepares_an_account_for_somebody_elses_address(
    join: Join, client: httpx.AsyncClient, mailbox: Mailbox
):
    attacker = await join("ann@example.com")
    mine = "my own eleven grey geese"
    await client.post("/v1/auth/signup", json={"email": "ann@example.com", "password": mine})
    theirs = await mailbox.token("ann@example.com", of=0)
    assert (await client.post("/v1/auth/verify", json={"token": theirs})).status_code == 400, "of the first sign-up"
    chosen = {"token": await mailbox.token("ann@example.com"), "password": mine}
    assert (await client.post("/v1/auth/password/reset", json=chosen)).status_code == 204
    await sign_in(client, "ann@example.com", mine)
    refused = await client.post("/v1/auth/signin", json={"email": "ann@example.com", "password": PASSWORD})
    assert refused.status_code == 401
    assert (await attacker.call("GET", "/tenants/members")).status_code == 401
    refresh = await client.post("/v1/auth/refresh", json={"refresh_token": attacker.tokens["refresh_token"]})
    assert refresh.status_code == 401


async def test_deployed_only_verified_addresses_sign_in(
    app: Service, join: Join, client: httpx.AsyncClient, mailbox: Mailbox
):
    await join("ann@example.com")
    app.identity.verified_only = True
    credentials = {"email": "ann@example.com", "password": PASSWORD}
    refused = await client.post("/v1/auth/signin", json=credentials)
    wrong = await client.post("/v1/auth/signin", json={**credentials, "password": "another five blue kites"})
    assert refused.status_code == wrong.status_code == 401
    assert {**refused.json(), "request_id": ""} == {**wrong.json(), "request_id": ""}, "nor whether it is new"
    await client.post("/v1/auth/verify", json={"token": await mailbox.token("ann@example.com")})
    assert (await client.post("/v1/auth/signin", json=credentials)).status_code == 200


async def test_a_hash_of_another_cost_is_renewed_by_signing_in(
    app: Service, join: Join, client: httpx.AsyncClient, mailbox: Mailbox, sql: Sql
):
    from chassis.identity.passwords import Cost

    await join("ann@example.com")
    dearer = Cost(memory_kib=16, passes=1)
    app.identity.passwords = Passwords(dearer)
    await sign_in(client, "ann@example.com")
    await mailbox.to("ann@example.com")
    ((stored,),) = sql("select password_hash from chassis.accounts")
    assert stored.startswith(dearer.prefix)
    await sign_in(client, "ann@example.com")


async def test_links_lead_to_the_configured_origin_alone(client: httpx.AsyncClient, mailbox: Mailbox):
    headers = {"Host": "localhost", "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
    await client.post("/v1/auth/signup", json={"email": "ann@example.com", "password": PASSWORD}, headers=headers)
    (mail,) = await mailbox.to("ann@example.com")
    text = str(mail)
    assert "http://localhost/auth/verify#token=" in text
    assert "evil.example" not in text


async def test_more_than_a_bounded_number_of_hashes_do_not_wait(app: Service, client: httpx.AsyncClient):
    import asyncio

    from chassis.http.reply import Problem
    from chassis.identity.passwords import Cost

    passwords = Passwords(Cost(memory_kib=1024, passes=1))
    results = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(70)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Problem)]
    assert len(refused) == 6
    assert {problem.status for problem in refused} == {503}
    assert (await passwords.hash(PASSWORD)).startswith("$argon2id$")


async def test_guessing_at_an_account_ends_after_few_and_costs_nothing_then(
    work: Work, join: Join, client: httpx.AsyncClient
):
    await join("ann@example.com")

    def attempt(address: str, password: str = "not the right one"):
        return client.post("/v1/auth/signin", json={"email": address, "password": password})

    known = [await work.of(attempt("ann@example.com")) for _ in range(12)]
    assert [await work.of(attempt("nobody@example.com")) for _ in range(12)] == known
    assert [status for status, _, _ in known] == [401] * 10 + [429] * 2
    assert [done.count("hash") for _, _, done in known] == [1] * 10 + [0] * 2
    assert known[-1][2] == []
    refused = await attempt("ANN@example.com", PASSWORD)
    assert refused.status_code == 429, "in another spelling, and rightly"
    assert 0 < int(refused.headers["retry-after"]) <= 60


async def test_signing_in_rightly_is_not_counted_as_guessing(join: Join, client: httpx.AsyncClient):
    ann = await join()
    for _ in range(12):
        await sign_in(client, ann.email)


async def test_guessing_the_password_to_change_it_is_limited_too(work: Work, join: Join):
    ann = await join()

    async def change(current: str) -> tuple[int, list[str]]:
        body = {"current_password": current, "new_password": PASSWORD}
        status, _, done = await work.of(ann.call("POST", "/auth/password/change", json=body))
        return status, done

    assert [(await change(PASSWORD))[0] for _ in range(12)] == [204] * 12
    attempts = [await change("not the right one") for _ in range(12)]
    assert [status for status, _ in attempts] == [403] * 10 + [429] * 2
    assert "hash" not in attempts[-1][1]


@pytest.mark.parametrize("path", ["/auth/signup", "/auth/password/forgot", "/tenants/invitations"])
async def test_nobody_is_sent_mail_without_end(work: Work, join: Join, mailbox: Mailbox, path: str):
    owner, bob = await join(), await join("bob@example.com")
    await mailbox.to(bob.email)
    others = "/auth/password/forgot" if path != "/auth/password/forgot" else "/auth/signup"
    password = {"password": PASSWORD}

    async def ask(path: str) -> tuple[int, list[str]]:
        body = {"email": bob.email, **(password if path == "/auth/signup" else {})}
        status, _, done = await work.of(owner.call("POST", path, json=body))
        return status, done

    before = len(await mailbox.to(bob.email))
    answers = [await ask(path) for _ in range(4)]
    assert [status for status, _ in answers] == [answers[0][0]] * 2 + [429] * 2, "signing up has sent one"
    assert len(await mailbox.to(bob.email)) == before + 2
    assert "hash" not in answers[-1][1]
    assert (await ask(others))[0] == 429, "whatever the mail is for"


STRICT = {
    "/v1/auth/signup": {"email": "ann@example.com", "password": PASSWORD},
    "/v1/auth/verify": {"token": "x"},
    "/v1/auth/signin": {"email": "ann@example.com", "password": PASSWORD},
    "/v1/auth/password/change": {"current_password": "x", "new_password": PASSWORD},
    "/v1/auth/password/forgot": {"email": "ann@example.com"},
    "/v1/auth/password/reset": {"token": "x", "password": PASSWORD},
    "/v1/auth/invitations/accept": {"token": "x"},
    "/v1/tenants/invitations": {"email": "ann@example.com"},
}
NOTHING_TO_GUESS = {"/v1/auth/refresh", "/v1/auth/switch", "/v1/auth/signout"}
"""What takes a token that we made, and knows without a query whether we did."""


@pytest.fixture
def environment(environment: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    return environment | getattr(request, "param", {})


@pytest.mark.parametrize("environment", [{"APP_LIMIT_PER_ADDRESS": "60"}], indirect=True)
@pytest.mark.parametrize("path", STRICT)
async def test_where_secrets_are_guessed_an_address_has_a_thirtieth(
    app: Service, work: Work, client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]], path: str
):
    answers = [await client.post(path, json=STRICT[path], headers=as_principal("owner")) for _ in range(2)]
    assert 429 not in [answer.status_code for answer in answers]
    assert '"authentication";q=2;w=60' in answers[0].headers["ratelimit-policy"]
    await app.identity.finish()  # or its queries would be counted
    status, _, done = await work.of(client.post(path, json=STRICT[path], headers=as_principal("owner")))
    assert (status, done) == (429, [])


async def test_no_route_where_secrets_are_guessed_was_forgotten(app: Service):
    posted = {path for path, methods in app.openapi()["paths"].items() if "post" in methods and "/auth/" in path}
    assert posted == {path for path in STRICT if "/auth/" in path} | NOTHING_TO_GUESS
