"""Identity as a module: its routes, which role may do what, and the page that says it of all modules."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fastapi import APIRouter

from chassis.data import heads
from chassis.identity import api_auth, api_tenants
from chassis.identity.api_keys import FOR_PEOPLE
from chassis.identity.tenants import Role
from chassis.module import Module

if TYPE_CHECKING:
    from chassis.app import Service

REWRITE = "chassis permissions --write"

_HEAD = f"""\
# Who may call what

Every route, the permission that it asks for, and the roles that have it. An API key has what its scopes say, of the
permissions that are not for people alone.

`{REWRITE}` writes this page from what routes and modules declare, and `make test` fails when they declare something
else: a right that changes is a line that changes here, for the review.

"""

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


def permissions_page(service: "Service") -> str:
    """Every route and who may call it, in Markdown."""
    rows = list(_rows(service))
    rows.insert(1, ["---", "---", *[":-:"] * (len(rows[0]) - 2)])
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def permissions_path() -> Path:
    """Where the project keeps that page."""
    return heads.service_revisions().parent.parent / "docs" / "permissions.md"


def write_permissions(service: "Service") -> Path:
    """Write that page; returns where."""
    path = permissions_path()
    path.parent.mkdir(exist_ok=True)
    path.write_text(permissions_page(service), encoding="utf-8")
    return path


def _rows(service: "Service") -> Iterator[list[str]]:
    roles = get_args(Role)[::-1]
    yield ["route", "permission", "nobody", *roles, "API key"]
    held = permissions_by_role(service.modules)
    for access in service.access():
        may = [not access.permissions]
        may += [access.permissions <= held.get(role, frozenset()) for role in roles]
        may += [access.permissions.isdisjoint(FOR_PEOPLE)]
        names = ", ".join(f"`{permission}`" for permission in sorted(access.permissions))
        yield [f"`{access.method} {access.path}`", names or "public", *("yes" if one else "" for one in may)]
