"""What is limited, whose request it is as far as the network tells, where uses are counted, what answers tell of it.

Uses are counted by the generic cell rate algorithm. Of each key one number is kept: the time at which its quota is
whole again. A use moves it on by one interval, and is refused if that would put it further away than the window is
long. So a quota can be used up in a burst or spread out, and comes back evenly: nobody waits for a window to end.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol

from chassis.features import FEATURES
from chassis.http.reply import Header, Problem
from chassis.observe.metrics import refused_by_limit

if TYPE_CHECKING:
    from chassis.settings import Settings

TOLERANCE = 1e-6
"""Seconds: what floating point may leave over."""


class Rule:
    """At most `quota` uses in `seconds`, for each key that the rule is applied to. Equal only to itself."""

    __slots__ = ("interval", "name", "policy", "quota", "seconds", "service_limit")

    def __init__(self, name: str, quota: int, seconds: int) -> None:
        self.name = name
        self.quota = quota
        self.seconds = seconds
        self.interval = seconds / quota
        """Seconds until one more use is allowed, once the quota is used up."""
        self.policy = f'"{name}";q={quota};w={seconds}'.encode()
        self.service_limit = f'"{name}";r=%d;t=%d'.encode()


Use = tuple[Rule, str | int]
"""One request, counted against one key of a rule. A plain tuple: some are made for every request."""

Level = tuple[Rule, float]
"""A rule, and the seconds until the quota of the key that was used is whole again."""


class Counted(NamedTuple):
    """How uses turned out together: all of them were counted, or none."""

    levels: list[Level]
    free_in: float = 0.0
    """0 when they were allowed; else the seconds until they would be."""


def headers_of(levels: Sequence[Level]) -> list[Header]:
    """`RateLimit-Policy` and `RateLimit`, two structured fields: draft-ietf-httpapi-ratelimit-headers-10.

    Of the policy, `q` is the quota and `w` its window in seconds. Of the limit, `r` is what remains of the quota and
    `t` the seconds until there is more.
    """
    limits: list[bytes] = []
    for rule, wait in levels:
        room = rule.seconds - wait + TOLERANCE
        remaining = int(room / rule.interval)
        limits.append(rule.service_limit % (remaining, up((remaining + 1) * rule.interval - room)))
    return [_policies(*[rule for rule, _ in levels]), (b"ratelimit", b", ".join(limits))]


@lru_cache(256)
def _policies(*rules: Rule) -> Header:
    return b"ratelimit-policy", b", ".join([rule.policy for rule in rules])


def refusal(counted: Counted) -> Problem:
    """The 429 problem for uses that were not allowed."""
    for rule, wait in counted.levels:
        if wait + rule.interval > rule.seconds + TOLERANCE:
            refused_by_limit.labels(rule.name).inc()
    return Problem(
        429,
        "rate_limited",
        "Too many requests. 'Retry-After' says in how many seconds the next one is welcome.",
        headers=((b"retry-after", b"%d" % up(counted.free_in)),),
    )


def up(seconds: float) -> int:
    """Whole seconds, rounded up: coming back a fraction too early would be refused again."""
    return -int(-seconds // 1)


_FORWARDED = b"x-forwarded-for"
_MOST_HOPS = 20
_LONGEST = 64  # an address with a zone and a port; what is longer is no address, and not worth remembering


class _Peer(NamedTuple):
    key: str
    """Empty when it is no address."""
    trusted: bool


_NO_ADDRESS = _Peer("", trusted=False)


class ClientAddresses:
    """The client is the peer, unless the peer is one of our own proxies: then it is whom that one names.

    `X-Forwarded-For` is read from the right, for as long as the addresses are those of trusted proxies: what stands
    further left was written by whoever sent the request. An entry that is no address ends the reading.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted = [ip_network(network) for network in trusted_proxies]
        self._known = lru_cache(maxsize=10_000)(self._parse)

    def key(self, peer: str, headers: Iterable[Header]) -> str:
        """What limits count by: an IPv4 address, or the /64 network of an IPv6 one, since a client has all of it."""
        client = self._known(peer)
        if client.trusted:
            values = [value for name, value in headers if name == _FORWARDED]
            for hop in reversed(b",".join(values).decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
                named = self._known(hop) if len(hop) <= _LONGEST else _NO_ADDRESS
                if not named.key:
                    break
                client = named
                if not named.trusted:
                    break
        return client.key or peer

    def _parse(self, text: str) -> _Peer:
        address = _address(text.strip(" \t"))
        if address is None:
            return _NO_ADDRESS
        trusted = any(address in network for network in self._trusted)
        if isinstance(address, IPv4Address):
            return _Peer(str(address), trusted)
        return _Peer(str(IPv6Network((int(address), 64), strict=False)), trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `192.0.2.1`, `2001:db8::1`, either with a zone or, as some proxies write it, with a port."""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not (port[0] == ":" and port[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


_MOST_KEYS = 20_000

_Table = tuple[dict[str | int, float], dict[str | int, float]]
"""When the quota of each key of a rule is whole again: of those used lately, and of those used before and not since."""


class MemoryStore:
    """The keys of every rule.

    Whatever keys arrive, at most twice `most_keys` of one rule are held, each about 150 bytes. A key may be forgotten
    once that many others were used since its last use; a flood of keys of one rule makes no other rule forget.
    """

    def __init__(self, most_keys: int = _MOST_KEYS, clock: Callable[[], float] = monotonic) -> None:
        self._most_keys = most_keys
        self._clock = clock
        self._tables: dict[Rule, _Table] = {}

    def take(self, uses: Sequence[Use]) -> Counted:
        """Count the uses. When the rule of one does not allow it, none is counted."""
        now = self._clock()
        levels: list[Level] = []
        free_in = 0.0
        for rule, key in uses:
            lately, before = self._tables.get(rule) or self._new_table(rule)
            wait = (lately.get(key) or before.get(key, 0.0)) - now
            wait = wait + rule.interval if wait > 0 else rule.interval
            levels.append((rule, wait))
            if wait > rule.seconds + TOLERANCE:
                free_in = max(free_in, wait - rule.seconds)
        if free_in:
            return Counted([(rule, wait - rule.interval) for rule, wait in levels], free_in)
        for (rule, key), (_, wait) in zip(uses, levels, strict=True):
            lately = self._tables[rule][0]
            lately[key] = now + wait
            if len(lately) > self._most_keys:
                self._tables[rule] = ({}, lately)
        return Counted(levels)

    def give_back(self, uses: Sequence[Use]) -> None:
        """Undo the count of uses that were allowed."""
        for rule, key in uses:
            lately, before = self._tables.get(rule) or self._new_table(rule)
            lately[key] = (lately.get(key) or before.get(key, 0.0)) - rule.interval

    def holds(self, use: Use) -> bool:
        """Whether a use of this key was counted, and its quota is not whole again."""
        rule, key = use
        lately, before = self._tables.get(rule) or self._new_table(rule)
        return (lately.get(key) or before.get(key, 0.0)) > self._clock()

    def __len__(self) -> int:
        """How many keys are held."""
        return sum(len(lately) + len(before) for lately, before in self._tables.values())

    def _new_table(self, rule: Rule) -> _Table:
        return self._tables.setdefault(rule, ({}, {}))


_MINUTE = 60
_STRICTER = 30


class SharedStore(Protocol):
    """What counts for all replicas together. Whatever it is asked while it is away, it answers None at once."""

    async def open(self) -> None: ...
    async def take(self, uses: Sequence[Use]) -> Counted | None: ...
    async def give_back(self, uses: Sequence[Use]) -> None: ...
    async def holds(self, use: Use) -> bool | None: ...
    async def close(self) -> None: ...


class Limiter:
    """Counts in this process first, so that a flood ends here, then for all replicas if they share a store."""

    def __init__(self, settings: "Settings") -> None:
        self.addresses = ClientAddresses(settings.trusted_proxies)
        self.per_address = Rule("address", settings.limit_per_address, _MINUTE)
        self.per_account = Rule("account", settings.limit_per_account, _MINUTE)
        self.per_tenant = Rule("tenant", settings.limit_per_tenant, _MINUTE)
        self.strict = Rule("authentication", max(1, settings.limit_per_address // _STRICTER), _MINUTE)
        """Of an address, where secrets can be guessed: a thirtieth of what it may ask elsewhere."""
        self.here = MemoryStore()
        self.shared = _shared_store(settings)

    async def open(self) -> None:
        if self.shared is not None:
            await self.shared.open()

    async def close(self) -> None:
        if self.shared is not None:
            await self.shared.close()


def _shared_store(settings: "Settings") -> SharedStore | None:
    """The store in Valkey. Its module is there only where that was asked for, which is where the setting can be set."""
    url = settings.valkey_url if "valkey" in FEATURES else None
    return import_module("chassis.limits.valkey").ValkeyStore(url.get_secret_value()) if url else None
