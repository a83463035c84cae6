"""The rules of every request, and where its uses are counted."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from chassis.features import FEATURES
from chassis.limits.client_address import ClientAddresses
from chassis.limits.memory import MemoryStore
from chassis.limits.rules import Counted, Rule, Use

if TYPE_CHECKING:
    from chassis.settings import Settings

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
