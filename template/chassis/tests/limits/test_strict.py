"""Guessing secrets: limited by who guesses and by whom it is aimed at, without keeping anybody out of their account."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from things import Client

from chassis import Problem, public
from chassis.app import Service
from chassis.features import FEATURES
from chassis.limits.strict import MAIL, SIGN_IN, Here, aim_at, strictly_limited
from chassis.testing import started

hashes: list[str] = []
"""Of whom a password was hashed."""

router = APIRouter()


class SignIn(BaseModel):
    email: str
    password: str


@router.post("/signin", dependencies=[public, strictly_limited])
async def sign_in(body: SignIn, here: Here) -> str:
    attempt = await aim_at(here, body.email, SIGN_IN)
    hashes.append(body.email)
    if body.password != "right":
        raise Problem(401, "wrong", "Wrong.")
    await attempt.succeeded()
    return "in"


@router.post("/reset", dependencies=[public])
async def reset(body: SignIn, here: Here) -> str:
    await aim_at(here, body.email, MAIL)
    return "sent"


Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
async def post(service_of: Callable[..., Service]) -> AsyncGenerator[Post]:
    """`await post("/signin", peer, password, email)` is the answer."""
    hashes.clear()
    service = service_of(router, APP_LIMIT_PER_ADDRESS="6000")
    async with started(service):

        async def post(path: str, peer: str, password: str = "wrong", email: str = "ann@example.com") -> httpx.Response:
            transport = httpx.ASGITransport(service, client=(peer, 40_000))
            async with Client(transport=transport, base_url="http://localhost/v1") as client:
                return await client.post(path, json={"email": email, "password": password})

        yield post


async def statuses(post: Post, times: int, *arguments: str, **more: str) -> list[int]:
    return [(await post(*arguments, **more)).status_code for _ in range(times)]


async def test_guessing_one_account_from_one_place_ends_after_few_and_costs_no_hash(post: Post):
    assert await statuses(post, 30, "/signin", "192.0.2.1") == [401] * 10 + [429] * 20
    assert len(hashes) == 10
    assert await statuses(post, 1, "/signin", "192.0.2.1", "right") == [429], "nor does guessing right, in between"


async def test_an_unknown_account_is_limited_as_a_known_one_and_the_answer_does_not_tell(post: Post):
    known = [await post("/signin", "192.0.2.1", email="ann@example.com") for _ in range(12)]
    unknown = [await post("/signin", "192.0.2.2", email="nobody@example.com") for _ in range(12)]
    for one, other in zip(known, unknown, strict=True):
        assert one.status_code == other.status_code
        assert one.headers.keys() == other.headers.keys()
        assert "sign-in" not in str(one.headers)


async def test_guessing_many_accounts_from_one_place_ends_too(service_of: Callable[..., Service]):
    hashes.clear()
    service = service_of(router, APP_LIMIT_PER_ADDRESS="600")
    transport = httpx.ASGITransport(service, client=("192.0.2.1", 40_000))
    async with started(service), Client(transport=transport, base_url="http://localhost/v1") as client:
        answers = [
            await client.post("/signin", json={"email": f"{number}@example.com", "password": "wrong"})
            for number in range(22)
        ]
        assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 2
        assert len(hashes) == 20
        assert '"authentication";q=20;w=60' in answers[0].headers["ratelimit-policy"]
        assert (await client.get("/nowhere")).status_code == 404, "what is no secret goes on"


async def test_signing_in_rightly_is_no_failure(post: Post):
    assert await statuses(post, 50, "/signin", "192.0.2.1", "right") == [200] * 50
    assert await statuses(post, 12, "/signin", "192.0.2.1") == [401] * 10 + [429] * 2


async def test_an_attacker_with_many_addresses_is_limited_and_locks_nobody_out(post: Post):
    home, colleague = "192.0.2.1", "192.0.2.2"
    assert await statuses(post, 1, "/signin", home, "right") == [200]
    attempts = [(await statuses(post, 1, "/signin", f"198.51.{n % 250}.{n // 250}"))[0] for n in range(500)]
    assert attempts == [401] * 100 + [429] * 400
    assert await statuses(post, 1, "/signin", "203.0.113.1", "right") == [429], "who is new here waits"
    assert await statuses(post, 3, "/signin", home, "right") == [200] * 3, "where they signed in before, they get in"
    assert await statuses(post, 1, "/signin", colleague, "right", email="bob@example.com") == [200]


async def test_an_attacker_with_one_address_keeps_nobody_out_anywhere_else(post: Post):
    await statuses(post, 300, "/signin", "198.51.100.1")
    assert await statuses(post, 1, "/signin", "203.0.113.1", "right") == [200]


async def test_the_addresses_of_one_ipv6_network_are_one_place(post: Post):
    attempts = [(await statuses(post, 1, "/signin", f"2001:db8::{n:x}"))[0] for n in range(12)]
    assert attempts == [401] * 10 + [429] * 2


async def test_nobody_is_sent_mail_without_end_and_sign_in_goes_on(post: Post):
    assert await statuses(post, 5, "/reset", "192.0.2.1") == [200] * 3 + [429] * 2
    attempts = [(await statuses(post, 1, "/reset", f"198.51.100.{n}"))[0] for n in range(12)]
    assert attempts == [200] * 7 + [429] * 5
    assert await statuses(post, 1, "/signin", "192.0.2.1", "right") == [200]


Ask = Callable[..., Awaitable[int]]


@pytest.fixture
async def ask(service_of: Callable[..., Service]) -> AsyncGenerator[Ask]:
    """`await ask(0, peer, password, email)` is the status that the first of two replicas answers with."""
    if "valkey" not in FEATURES:
        pytest.skip("replicas share nothing")
    hashes.clear()
    replicas = [service_of(router, APP_LIMIT_PER_ADDRESS="3000") for _ in range(2)]

    async def ask(number: int, peer: str, password: str, email: str = "ann@example.com") -> int:
        transport = httpx.ASGITransport(replicas[number % 2], client=(peer, 40_000))
        async with Client(transport=transport, base_url="http://localhost/v1") as client:
            return (await client.post("/signin", json={"email": email, "password": password})).status_code

    async with started(replicas[0]), started(replicas[1]):
        yield ask


async def test_replicas_know_together_who_guesses_and_who_is_at_home(ask: Ask):
    home, elsewhere = "192.0.2.1", "203.0.113.1"
    assert await ask(0, home, "right") == 200
    assert [await ask(n, f"198.51.100.{n}", "wrong") for n in range(104)] == [401] * 100 + [429] * 4
    assert await ask(1, elsewhere, "right") == 429
    assert await ask(1, home, "right") == 200
    assert [await ask(n, home, "wrong", "bob@example.com") for n in range(12)] == [401] * 10 + [429] * 2
    assert [await ask(n, home, "right", "carl@example.com") for n in range(24)] == [200] * 24


async def test_replicas_count_together_what_a_place_guesses_and_hash_no_more(ask: Ask):
    answers = [await ask(n, "192.0.2.1", "wrong", f"{n}@example.com") for n in range(120)]
    assert answers[:100] == [401] * 100
    assert answers[100:].count(429) > 10, "one comes back every 600 ms"
    assert len(hashes) == answers.count(401)
