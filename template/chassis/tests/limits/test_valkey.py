"""Limits that all replicas share: they count as one process would, and go on when Valkey does not."""

import asyncio
import os
import random
import re
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from prometheus_client import REGISTRY

from chassis import public
from chassis.app import Service
from chassis.dev.valkey import Valkey
from chassis.limits import valkey
from chassis.limits.limiter import Counted, MemoryStore, Rule, Use, headers_of
from chassis.limits.valkey import ValkeyStore
from chassis.testing import RunningServer, started

SECONDS = 10.0
PATIENCE: float = valkey._SECONDS  # pyright: ignore[reportPrivateUsage]  # what is promised of it


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A server that a test may treat as it likes."""
    server = Valkey(tmp_path / 'a "deep" folder\'s')
    server.start()
    yield server
    if server.pid:
        os.kill(server.pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
async def store(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ValkeyStore]:
    """A store that a busy machine does not make impatient."""
    monkeypatch.setattr(valkey, "_SECONDS", SECONDS)
    store = ValkeyStore(server.url())
    await store.open()
    yield store
    await store.close()


def is_up() -> bool:
    return REGISTRY.get_sample_value("rate_limit_store_up") == 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_counts_as_memory_does(store: ValkeyStore):
    now = [1e9]
    memory = MemoryStore(clock=lambda: now[0])
    rules = [Rule("a", 10, 60), Rule("b", 7, 60), Rule("c", 3, 3600)]
    dice = random.Random(9)
    refused = 0
    for _ in range(3000):
        now[0] += dice.choice([0, 0, 0.5, 1, 6, 60 / 7, 90])
        uses: list[Use] = [(rule, dice.choice("xy")) for rule in dice.sample(rules, dice.randint(1, 3))]
        here, there = memory.take(uses), await store.take(uses, now[0])
        assert there is not None
        assert there.free_in == pytest.approx(here.free_in, abs=1e-6)
        assert headers_of(there.levels) == headers_of(here.levels)
        refused += here.free_in > 0
    assert 300 < refused < 2700, "both kinds are many"


async def test_by_its_own_clock_a_quota_is_used_up_and_comes_back(store: ValkeyStore):
    rule = Rule("rule", 2, 4)

    async def free_in() -> float:
        counted = await store.take([(rule, "a")])
        assert counted is not None
        return counted.free_in

    assert [await free_in() for _ in range(2)] == [0, 0]
    seconds = await free_in()
    assert 0 < seconds <= 2
    await asyncio.sleep(seconds)
    assert await free_in() == 0
    assert await free_in() > 0


async def test_what_is_given_back_can_be_used_again_and_what_is_held_is_known(store: ValkeyStore):
    use = (Rule("rule", 1, 3600), "a")
    assert await store.holds(use) is False
    assert (await store.take([use])) == Counted([(use[0], 3600.0)])
    assert await store.holds(use) is True
    assert (await store.take([use]) or Counted([])).free_in > 3590
    await store.give_back([use])
    assert await store.holds(use) is False
    assert (await store.take([use])) == Counted([(use[0], 3600.0)])


async def test_it_asks_once_whatever_the_number_of_rules_and_tells_nobody_whom_it_counts(store: ValkeyStore):
    uses: list[Use] = [(Rule(name, 5, 60), "ann@example.com") for name in ("a", "b", "c")]
    connection = store._connection  # pyright: ignore[reportPrivateUsage]  # to see what Valkey is asked
    assert connection is not None
    before = await commands(store)
    await store.take(uses)
    assert await commands(store) - before == 2, "the script, and this question itself"
    keys: list[bytes] = await connection.ask("KEYS", "*")
    assert len(keys) == 3
    assert not any(b"ann" in key for key in keys)
    for key in keys:
        assert 0 < await connection.ask("PTTL", key) <= 12_000, "it vanishes by itself"


async def commands(store: ValkeyStore) -> int:
    """How many commands clients have sent, scripts' own not counted."""
    connection = store._connection  # pyright: ignore[reportPrivateUsage]  # as above
    assert connection is not None
    stats: bytes = await connection.ask("INFO", "commandstats")
    called = re.findall(r"cmdstat_(\S+):calls=(\d+)", stats.decode())
    return sum(int(calls) for name, calls in called if name not in ("get", "set", "del", "time"))


async def test_a_hundred_at_once_share_a_connection_and_each_gets_their_own_answer(store: ValkeyStore):
    rule = Rule("rule", 100, 3600)
    counted = await asyncio.gather(*[store.take([(rule, "a")]) for _ in range(150)])
    assert is_up()
    waits = [round(each.levels[0][1] / 36) for each in counted if each and not each.free_in]
    assert sorted(waits) == list(range(1, 101))
    cancelled = [asyncio.create_task(store.take([(rule, f"c{n}")])) for n in range(50)]
    await asyncio.sleep(0)
    for task in cancelled[::2]:
        task.cancel()
    assert {round(each.levels[0][1]) for each in await asyncio.gather(*cancelled[1::2]) if each} == {36}


@pytest.mark.parametrize("failure", [signal.SIGKILL, signal.SIGSTOP])
async def test_when_it_is_away_nobody_waits_twice_and_it_comes_back_by_itself(
    failure: signal.Signals, server: Valkey, store: ValkeyStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(valkey, "_SECONDS", PATIENCE)
    assert PATIENCE <= 0.05, "what is promised"
    rule = Rule("rule", 1000, 60)
    loop = asyncio.get_running_loop()
    assert await store.take([(rule, "a")]) is not None
    assert is_up()
    assert server.pid is not None
    os.kill(server.pid, failure)
    began = loop.time()
    assert await asyncio.gather(*[store.take([(rule, "a")]) for _ in range(20)]) == [None] * 20
    assert loop.time() - began < 0.5, "once 50 ms, and what a busy machine adds"
    assert not is_up()
    began = loop.time()
    for _ in range(500):
        assert await store.take([(rule, "a")]) is None
    assert loop.time() - began < 0.5, "500 waits would be 20 s"
    if failure is signal.SIGSTOP:
        os.kill(server.pid, signal.SIGCONT)
    else:
        server.start()
    await until(is_up)
    assert await store.take([(rule, "a")]) is not None


async def test_a_service_starts_without_it_and_joins_it_later(server: Valkey):
    server.stop()
    store = ValkeyStore(server.url())
    await store.open()
    try:
        assert await store.take([(Rule("rule", 1, 60), "a")]) is None
        assert not is_up()
        server.start()
        await until(is_up)
        assert await store.take([(Rule("rule", 1, 60), "a")]) is not None
    finally:
        await store.close()


async def test_it_survives_that_valkey_forgets_its_scripts(store: ValkeyStore):
    connection = store._connection  # pyright: ignore[reportPrivateUsage]  # to do what an operator might
    assert connection is not None
    await connection.ask("SCRIPT", "FLUSH")
    assert await store.take([(Rule("rule", 1, 60), "a")]) is None
    await until(is_up)
    assert await store.take([(Rule("rule", 1, 60), "a")]) is not None


async def test_a_wrong_password_is_no_valkey(server: Valkey):
    store = ValkeyStore(server.url().replace("://:", "://:not-"))
    await store.open()
    assert not is_up()
    await store.close()


router = APIRouter()


@router.get("/open", dependencies=[public])
async def open_to_all() -> str:
    return "open"


async def test_while_it_is_away_each_process_still_limits(
    server: Valkey, service_of: Callable[..., Service], serve: Callable[..., RunningServer]
):
    service = service_of(router, APP_VALKEY_URL=server.url(), APP_LIMIT_PER_ADDRESS="6")
    transport = httpx.ASGITransport(service)
    async with started(service), httpx.AsyncClient(transport=transport, base_url="http://localhost/v1") as client:
        assert is_up()
        assert [(await client.get("/open")).status_code for _ in range(3)] == [200] * 3
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        assert [(await client.get("/open")).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        assert not is_up()


def test_two_replicas_share_their_limits(serve: Callable[..., RunningServer]):
    replicas = [serve(APP_LIMIT_PER_ADDRESS="4") for _ in range(2)]
    with httpx.Client() as client:
        answers = [client.get(f"{replicas[n % 2].url}/v1/nowhere") for n in range(8)]
    assert [answer.status_code for answer in answers] == [404] * 4 + [429] * 4
    assert answers[1].headers["ratelimit"].startswith('"address";r=2;'), "the second replica knows of the first"
    metrics = httpx.get(f"{replicas[0].metrics_url}/metrics").text
    assert "rate_limit_store_up 1.0" in metrics


def test_several_processes_may_start_one_server_at_once(tmp_path: Path):
    servers = [Valkey(tmp_path / "valkey") for _ in range(4)]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Valkey.start, servers))
        assert len({server.url() for server in servers}) == 1
        assert all(server.running() for server in servers)
        assert len({server.empty_database() for server in servers}) == 4
    finally:
        servers[0].stop()
    assert not servers[1].running()
