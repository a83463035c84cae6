"""Access tokens: JWTs as RFC 9068 and RFC 8725 want them, verified once and then remembered for a while.

There is one kind of token and one way to write its header, so a header is never interpreted: it either is, byte for
byte, the one that goes with a key of ours, or the token is none. Whatever else a header may say (another algorithm,
`jku`, `x5u`, `jwk`, `crit`) is thus not looked at, and the only signature there is is Ed25519.

A token is good for ten minutes at most. What ends it earlier - a revoked session, a disabled account, a changed
password - is written to chassis.revocations, which every replica reads every few seconds: see `chassis.identity.watch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import time
from typing import Any
from uuid import UUID, uuid4

import orjson

from chassis.identity.keys import KeyRing
from chassis.identity.principal import Principal

LIFETIME_SECONDS = 600
_LEEWAY_SECONDS = 5
_LONGEST = 2048
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    expires: float


class AccessTokens:
    """Issues and verifies the tokens of one issuer and one audience."""

    def __init__(self, keys: KeyRing, issuer: str, audience: str, permissions: Mapping[str, frozenset[str]]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._permissions = permissions
        self._remembered: dict[bytes, _Verified] = {}

    def issue(self, *, subject: UUID, tenant_id: UUID, role: str, session_id: UUID) -> str:
        """A token that lives for `LIFETIME_SECONDS`. Raises LookupError while no signing key is known."""
        now = int(time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(subject),
            "tenant": str(tenant_id),
            "role": role,
            "sid": str(session_id),
            "jti": str(uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
        }
        return self._keys.signed(orjson.dumps(claims)).decode()

    def principal(self, token: bytes) -> Principal | None:
        """Whose token this is; None when it is none of ours, or not good now."""
        known = self._remembered.get(token)
        if known is None:
            known = self._verify(token)
            if known is None:
                return None
            if len(self._remembered) >= _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[token] = known
        return known.principal if time() < known.expires else None

    def _verify(self, token: bytes) -> _Verified | None:
        if len(token) > _LONGEST:
            return None
        content = self._keys.content(token)
        if content is None:
            return None
        try:
            return self._read(orjson.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _read(self, claims: Mapping[str, Any]) -> _Verified | None:
        now = time()
        if claims["iss"] != self._issuer or claims["aud"] != self._audience:
            return None
        issued, starts, expires = (_seconds(claims[name]) for name in ("iat", "nbf", "exp"))
        if max(issued, starts) > now + _LEEWAY_SECONDS or expires <= now or expires - issued > LIFETIME_SECONDS:
            return None
        UUID(claims["jti"])
        permissions = self._permissions.get(claims["role"])
        if permissions is None:
            return None
        principal = Principal(
            UUID(claims["sub"]), UUID(claims["tenant"]), claims["role"], permissions, UUID(claims["sid"])
        )
        return _Verified(principal, expires)


def _seconds(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a time in a token is a whole number of seconds")
    return value


def access_tokens(keys: KeyRing, origin: str, permissions: Mapping[str, frozenset[str]]) -> AccessTokens:
    """Those of the service at `origin`, which issues them and is the one that they are for."""
    return AccessTokens(keys, origin, f"{origin}/v1", permissions)
