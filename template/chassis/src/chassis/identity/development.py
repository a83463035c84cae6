"""Principals without identity, for development and tests: `Authorization: Bearer dev:<tenant>:<role>`.

Settings refuse to load with this in staging and production.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from uuid import UUID, uuid5

from chassis.http.exchange import Exchange
from chassis.identity.principal import Principal
from chassis.module import Module

DEMO_TENANT = UUID("00000000-0000-4000-8000-000000000001")
_SCHEME = b"Bearer dev:"


class DevelopmentPrincipals:
    """Believes whatever tenant and role a request names."""

    def __init__(self, permissions: Mapping[str, frozenset[str]]) -> None:
        self._permissions = permissions
        self._named_by = lru_cache(1024)(self._read)

    async def __call__(self, exchange: Exchange, /) -> Principal | None:
        return self._named_by(exchange.headers.get(b"authorization", b""))

    def _read(self, header: bytes) -> Principal | None:
        if not header.startswith(_SCHEME):
            return None
        tenant, _, role = header[len(_SCHEME) :].decode("latin-1").partition(":")
        try:
            tenant_id = UUID(tenant)
        except ValueError:
            return None
        if role not in self._permissions:
            return None
        return Principal(uuid5(tenant_id, role), tenant_id, role, self._permissions[role])


async def nobody(_: Exchange, /) -> Principal | None:
    """What authenticates where development principals are off and identity is not there yet: no one."""
    return None


def permissions_by_role(modules: Iterable[Module]) -> dict[str, frozenset[str]]:
    """Every role that a module names, and all permissions it has."""
    roles: dict[str, set[str]] = {}
    for module in modules:
        for permission, holders in module.permissions.items():
            for role in holders:
                roles.setdefault(role, set()).add(permission)
    return {role: frozenset(permissions) for role, permissions in roles.items()}
