"""Identity as a module: its routes, and which role may do what."""

from collections.abc import Iterable

from fastapi import APIRouter

from chassis.identity import api_auth, api_tenants
from chassis.module import Module

_EVERYBODY = ("owner", "admin", "member", "viewer")
_MANAGERS = ("owner", "admin")

router = APIRouter()
router.include_router(api_auth.router)
router.include_router(api_tenants.router)

module = Module(
    name="identity",
    router=router,
    permissions={
        "account:manage": _EVERYBODY,
        "members:read": _EVERYBODY,
        "tenants:manage": _MANAGERS,
        "members:manage": _MANAGERS,
        "api_keys:manage": _MANAGERS,
        "audit:read": _MANAGERS,
    },
    log_fields=("account", "actor", "after", "before", "change", "how", "subject"),
)


def permissions_by_role(modules: Iterable[Module]) -> dict[str, frozenset[str]]:
    """Every role that a module names, and all permissions it has."""
    roles: dict[str, set[str]] = {}
    for one in modules:
        for permission, holders in one.permissions.items():
            for role in holders:
                roles.setdefault(role, set()).add(permission)
    return {role: frozenset(permissions) for role, permissions in roles.items()}
