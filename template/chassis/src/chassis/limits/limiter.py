"""The rules of every request, and where its uses are counted: in this process, and in the store that replicas share."""

from collections.abc import Callable, Sequence
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from chassis.features import FEATURES
from chassis.limits.client_address import ClientAddresses
from chassis.limits.rules import TOLERANCE, Counted, Level, Rule, Use

if TYPE_CHECKING:
    from chassis.settings import Settings

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
