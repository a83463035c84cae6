"""Counting in this process: exact for one replica, and what goes on when the shared store is away."""

from collections.abc import Callable, Sequence
from time import monotonic

from chassis.limits.rules import Count, Rule, Use

_MOST_KEYS = 20_000


class MemoryStore:
    """Keeps when the quota of each key is whole again.

    Whatever keys arrive, at most twice `most_keys` of one rule are held, each about 150 bytes. A key is forgotten when
    that many others were used since; a flood of keys of one rule makes another rule forget nothing.
    """

    def __init__(self, most_keys: int = _MOST_KEYS, clock: Callable[[], float] = monotonic) -> None:
        self._most_keys = most_keys
        self._clock = clock
        self._tables: dict[Rule, _Table] = {}

    def take(self, uses: Sequence[Use]) -> list[Count]:
        """Count the uses. When the rule of one does not allow it, none is counted."""
        now = self._clock()
        tables = self._tables
        counts: list[Count] = []
        waits: list[float] = []
        allowed = True
        for rule, key in uses:
            table = tables.get(rule)
            if table is None:
                table = tables[rule] = _Table()
            whole_at = table.young.get(key) or table.old.get(key, now)
            wait = whole_at - now if whole_at > now else 0.0
            count = rule.count(wait)
            if count[3]:
                allowed = False
            counts.append(count)
            waits.append(wait)
        if not allowed:
            return uncounted(counts)
        for (rule, key), wait in zip(uses, waits, strict=True):
            table = tables[rule]
            table.young[key] = now + wait + rule.interval
            if len(table.young) > self._most_keys:
                table.old, table.young = table.young, {}
        return counts

    def give_back(self, uses: Sequence[Use]) -> None:
        """Undo the count of uses that were allowed."""
        for rule, key in uses:
            table = self._tables.get(rule)
            whole_at = 0.0 if table is None else table.young.get(key) or table.old.get(key, 0.0)
            if table is not None and whole_at:
                table.young[key] = whole_at - rule.interval

    def holds(self, use: Use) -> bool:
        """Whether a use of this key was counted, and its quota is not whole again."""
        table = self._tables.get(use.rule)
        return table is not None and (table.young.get(use.key) or table.old.get(use.key, 0.0)) > self._clock()

    def __len__(self) -> int:
        """How many keys are held."""
        return sum(len(table.young) + len(table.old) for table in self._tables.values())


class _Table:
    """The keys of one rule: those used lately, and those used before them and not since."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[str | int, float] = {}
        self.old: dict[str | int, float] = {}


def uncounted(counts: Sequence[Count]) -> list[Count]:
    """What remains when another rule refused the request, so that those which allowed it have not counted it."""
    return [count if count.free_in else count._replace(remaining=count.remaining + 1) for count in counts]
