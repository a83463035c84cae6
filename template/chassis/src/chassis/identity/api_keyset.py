"""The public keys, for those who check our tokens themselves."""

from typing import Any

from fastapi import APIRouter

from chassis.identity.dependencies import Desk
from chassis.identity.principal import public

router = APIRouter(dependencies=[public])


@router.get("/.well-known/jwks.json")
async def jwks(desk: Desk) -> dict[str, Any]:
    """The keys that access tokens are signed with, as a JWK Set (RFC 7517)."""
    return desk.keys.published()
