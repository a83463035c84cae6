"""Principals and permissions: every route says in its signature who may call it, or that anybody may."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Request
from fastapi.params import Depends
from fastapi.security import HTTPBearer

from chassis.http.reply import forbidden, unauthenticated

bearer = HTTPBearer(
    auto_error=False, description="An access token, which carries one tenant and one role, or an API key."
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose request was authenticated, acting in one tenant."""

    subject: UUID
    tenant_id: UUID
    role: str
    permissions: frozenset[str]
    session_id: UUID | None = None
    """Of the session, or of the API key, that the token came from."""


class Require:
    """The dependency behind `may`: the edge and the boot check read `permission`, FastAPI calls it."""

    def __init__(self, permission: str) -> None:
        self.permission = permission

    async def __call__(self, request: Request, _: Annotated[object, Depends(bearer)] = None) -> Principal:
        return await request.scope["chassis.exchange"].authorised(self.permission)


async def anybody() -> None:
    """The dependency behind `public`: a mark for the boot check."""


def may(permission: str) -> Depends:
    """Require `permission` of the caller: `who: Annotated[Principal, may("orders:write")]`.

    Without a principal the answer is 401, with one that lacks the permission 403.
    """
    return Depends(Require(permission))


public = Depends(anybody)
"""Say that a route needs no principal: `dependencies=[public]`."""


def check(principal: Principal | None, permission: str) -> Principal:
    """Return the principal if it has `permission`; raise the 401 or 403 problem otherwise."""
    if principal is None:
        raise unauthenticated()
    if permission not in principal.permissions:
        raise forbidden(permission)
    return principal
