"""How uses are counted, whose they are, and that what a client writes about itself changes neither."""

import itertools
import random
import tracemalloc

import pytest

from chassis.limits.limiter import ClientAddresses, MemoryStore, Rule, headers_of, refusal


class Clock:
    now = 1e9  # as large as a real one may be: what floating point leaves over grows with it

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


def allowed(store: MemoryStore, rule: Rule, key: str = "a") -> bool:
    return store.take([(rule, key)]).free_in == 0


def test_a_burst_of_the_quota_is_allowed_and_not_one_more(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 10, 60)
    assert [allowed(store, rule) for _ in range(11)] == [True] * 10 + [False]
    assert allowed(store, rule, "b"), "another key has a quota of its own"
    clock.now += 5.9
    assert not allowed(store, rule)
    clock.now += 0.1
    assert [allowed(store, rule) for _ in range(2)] == [True, False]


def test_a_refused_use_costs_nothing(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 2, 60)
    for _ in range(100):
        store.take([(rule, "a")])
    clock.now += 30
    assert [allowed(store, rule) for _ in range(2)] == [True, False]


def test_whoever_keeps_to_the_rate_is_never_refused_and_gets_no_more_than_it(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 7, 60)  # whose interval no double has exactly
    for _ in range(10_000):
        assert allowed(store, rule)
        clock.now += rule.interval
    passed = sum(allowed(store, rule) for _ in range(100))
    for _ in range(6000):
        clock.now += 0.1
        passed += allowed(store, rule)
    assert passed == 7 + 70


def test_in_no_window_whatever_is_more_than_the_quota_and_what_came_back_of_it(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 10, 60)
    dice = random.Random(4)
    times: list[float] = []
    for _ in range(5000):
        clock.now += dice.choice([0, 0, 0.1, 1, 6, 30])
        if allowed(store, rule):
            times.append(clock.now)
    for first in range(len(times) - 21):
        assert times[first + 20] - times[first] >= 60 - 1e-3, "two quotas within one window: its own and what came back"


def test_when_one_rule_refuses_no_other_counts(store: MemoryStore):
    narrow, wide = Rule("narrow", 1, 60), Rule("wide", 5, 60)
    both = [(wide, "a"), (narrow, "a")]
    assert store.take(both).free_in == 0
    for _ in range(9):
        store.take(both)
    refused = store.take(both)
    assert refused.free_in == pytest.approx(60)
    assert dict(headers_of(refused.levels))[b"ratelimit"] == b'"wide";r=4;t=12, "narrow";r=0;t=60'
    assert [allowed(store, wide) for _ in range(5)] == [True] * 4 + [False]


def test_what_is_given_back_can_be_used_again(store: MemoryStore):
    rule = Rule("rule", 2, 60)
    assert [allowed(store, rule) for _ in range(3)] == [True, True, False]
    store.give_back([(rule, "a")])
    assert [allowed(store, rule) for _ in range(2)] == [True, False]
    store.give_back([(rule, "nobody has used this")])
    assert [allowed(store, rule, "nobody has used this") for _ in range(3)] == [True, True, False]


def test_a_key_is_held_until_its_quota_is_whole(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 1, 60)
    assert not store.holds((rule, "a"))
    store.take([(rule, "a")])
    assert store.holds((rule, "a"))
    assert not store.holds((rule, "b"))
    clock.now += 60
    assert not store.holds((rule, "a"))


def test_a_million_keys_fill_no_memory_and_make_no_other_rule_forget():
    store = MemoryStore()
    flooded, aimed_at = Rule("address", 600, 60), Rule("target", 1, 3600)
    assert allowed(store, aimed_at, "victim@example.com")
    keys = (f"2001:db8:{number:x}::/64" for number in range(1_000_000))
    tracemalloc.start()
    try:
        for key in itertools.islice(keys, 100_000):
            store.take([(flooded, key)])
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()  # which makes everything slow
    while some := [(flooded, key) for key in itertools.islice(keys, 100)]:
        store.take(some)
    assert len(store) <= 40_002
    assert size < 10_000_000
    assert peak < 12_000_000
    assert not allowed(store, aimed_at, "victim@example.com")


def test_as_many_others_as_are_held_make_nobody_be_forgotten():
    store = MemoryStore(most_keys=100)
    rule = Rule("rule", 1, 3600)
    assert allowed(store, rule, "guesser")
    for number in range(100):
        assert allowed(store, rule, str(number))
    assert not allowed(store, rule, "guesser")
    assert store.holds((rule, "guesser"))


def test_who_keeps_asking_is_not_forgotten_however_many_others_come():
    store = MemoryStore(most_keys=100)
    rule = Rule("rule", 1, 3600)
    assert allowed(store, rule, "busy")
    for number in range(10_000):
        store.take([(rule, str(number))])
        if number % 90 == 0:  # within the keys that are surely remembered
            store.give_back([(rule, "busy")])
            assert allowed(store, rule, "busy")
            assert not allowed(store, rule, "busy")


def test_the_headers_are_structured_fields(store: MemoryStore, clock: Clock):
    """draft-ietf-httpapi-ratelimit-headers-10 sections 3 and 4: lists of strings with integer parameters."""
    levels = store.take([(Rule("address", 600, 60), "a"), (Rule("tenant", 3, 60), "b")]).levels
    assert headers_of(levels) == [
        (b"ratelimit-policy", b'"address";q=600;w=60, "tenant";q=3;w=60'),
        (b"ratelimit", b'"address";r=599;t=1, "tenant";r=2;t=20'),
    ]


def test_coming_back_when_told_is_never_too_early(store: MemoryStore, clock: Clock):
    rule = Rule("rule", 7, 60)
    dice = random.Random(7)
    for _ in range(1000):
        counted = store.take([(rule, "a")])
        if counted.free_in:
            [(_, seconds)] = refusal(counted).headers
            clock.now += int(seconds)
            assert int(seconds) - counted.free_in < 1
            assert allowed(store, rule)
        clock.now += dice.random()


ADDRESSES = ClientAddresses(["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"])


def key(peer: str, *forwarded: str, addresses: ClientAddresses = ADDRESSES) -> str:
    headers = [(b"host", b"localhost"), *[(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]]
    return addresses.key(peer, headers)


SPOOFS = [
    "203.0.113.1",
    "203.0.113.1, 198.51.100.1",
    "10.0.0.1",
    "203.0.113.1, 10.0.0.1",
    ", ".join(["203.0.113.1"] * 500),
    ", ".join(["10.0.0.1"] * 500),
    "unknown",
    "",
    ",,,",
    "for=203.0.113.1;by=10.0.0.1",
    "203.0.113.1\x85",
    "::ffff:203.0.113.1",
    "fe80::1%eth0",
    "x" * 10_000,
]


@pytest.mark.parametrize("spoof", SPOOFS)
def test_a_header_of_somebody_else_than_a_proxy_means_nothing(spoof: str):
    assert key("198.51.100.9", spoof) == "198.51.100.9"
    assert key("198.51.100.9", spoof, addresses=ClientAddresses()) == "198.51.100.9"


@pytest.mark.parametrize("spoof", SPOOFS)
def test_what_a_client_wrote_before_the_proxy_added_its_address_means_nothing(spoof: str):
    assert key("10.0.0.1", f"{spoof}, 198.51.100.9") == "198.51.100.9"
    assert key("10.0.0.1", spoof, "198.51.100.9") == "198.51.100.9", "in a header of its own"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "198.51.100.9, 10.0.0.2, 10.9.9.9", "198.51.100.9"),
        ("fd00::1", "198.51.100.9, 192.0.2.7, fd12::7", "198.51.100.9"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "198.51.100.9, ::ffff:10.0.0.2", "198.51.100.9"),
        ("192.0.2.8", "198.51.100.9", "192.0.2.8"),
        ("10.0.0.1", "198.51.100.9:49152", "198.51.100.9"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:49152", "2001:db8:1:2::/64"),
        ("10.0.0.1", "\t198.51.100.9 ", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9, 10.0.0.2, 198.51.100.9:http", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9" + ", 10.0.0.2" * 19, "198.51.100.9"),
        ("10.0.0.1", "198.51.100.9" + ", 10.0.0.2" * 20, "10.0.0.2"),
    ],
)
def test_a_chain_of_trusted_proxies_is_followed_from_the_right(peer: str, forwarded: str, client: str):
    assert key(peer, forwarded) == client


def test_what_is_too_long_for_an_address_is_not_remembered():
    addresses = ClientAddresses(["10.0.0.0/8"])
    assert key("10.0.0.1", "x" * 65, addresses=addresses) == "10.0.0.1"
    assert vars(addresses)["_known"].cache_info().currsize == 1


def test_without_a_header_the_proxy_itself_is_the_client():
    assert key("10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::1%other", "fe80::/64"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("::1", "::/64"),
        ("", ""),
        ("a-socket", "a-socket"),
    ],
)
def test_a_client_has_one_key_whatever_its_addresses_look_like(peer: str, counted: str):
    assert key(peer) == counted
