"""Who may call what, as the modules declare it: `docs/permissions.md`, to read and to see change."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from chassis.data import heads
from chassis.identity.api_keys import FOR_PEOPLE
from chassis.identity.module import permissions_by_role
from chassis.identity.tenants import Role

if TYPE_CHECKING:
    from chassis.app import Service

REWRITE = "chassis permissions --write"

_HEAD = f"""\
# Who may call what

Every route, the permission that it asks for, and the roles that have it. An API key has what its scopes say, of the
permissions that are not for people alone.

`{REWRITE}` writes this page from what routes and modules declare, and `make test` fails when it is not what they do:
a right that changes is a line that changes here, for the review.

"""


def page(service: "Service") -> str:
    """The page, in Markdown."""
    rows = list(_rows(service))
    rows.insert(1, ["---", "---", *[":-:"] * (len(rows[0]) - 2)])
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page_path() -> Path:
    """Where the project keeps it."""
    return heads.service_revisions().parent.parent / "docs" / "permissions.md"


def write_page(service: "Service") -> Path:
    """Write the page; returns where."""
    path = page_path()
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(service), encoding="utf-8")
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
