"""Counting in this process: exact for one replica, and what remains when the shared store is away."""

from time import monotonic

from chassis.limits.rules import Count, Use

_MOST_KEYS = 50_000


class MemoryStore:
    """The generic cell rate algorithm: for each key one number, the time at which its quota is whole again.

    Whatever keys arrive, at most `most_keys` are held, about 10 MB; the one that was not used for longest goes first.
    """

    def __init__(self, most_keys: int = _MOST_KEYS) -> None:
        self._most_keys = most_keys
        self._whole_at: dict[Use, float] = {}

    def take(self, uses: list[Use]) -> list[Count]:
        """Count each use that its rule allows; when one does not, none is counted."""
        now = monotonic()
        counts: list[Count] = []
        refused = False
        for use in uses:
            rule = use.rule
            whole_at = max(self._whole_at.get(use, now), now) + rule.interval
            free_in = whole_at - now - rule.seconds
            if free_in > 1e-9:
                refused = True
                counts.append(Count(rule, 0, whole_at - rule.interval - now, free_in))
            else:
                counts.append(Count(rule, int((1e-9 - free_in) / rule.interval), whole_at - now, 0.0))
        if not refused:
            for use, count in zip(uses, counts, strict=True):
                self._keep(use, now + count.full_in)
        return counts

    def _keep(self, use: Use, whole_at: float) -> None:
        self._whole_at.pop(use, None)  # so that the order of the dictionary is that of use
        if len(self._whole_at) >= self._most_keys:
            del self._whole_at[next(iter(self._whole_at))]
        self._whole_at[use] = whole_at
