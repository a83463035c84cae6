"""The keys that sign access tokens: kept in the database, sealed with APP_SECRET_KEY, the same for every replica.

A new key is published at once and signs a minute later, when every replica has read it; an old one verifies for as long
as a token that it signed can live. So a rotation fails no request.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from os import urandom
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc.jwk import OKPKey

OVERLAP = timedelta(seconds=60)
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key as the database has it."""

    kid: str
    sealed: bytes
    signs_from: datetime


class KeyRing:
    """The keys that this replica knows. Tokens name one by `kid`; no other way to a key exists."""

    def __init__(self, secret: str) -> None:
        self._seal = AESGCM(blake2b(secret.encode(), person=b"signing keys", digest_size=32).digest())
        self._keys: dict[str, tuple[OKPKey, datetime]] = {}

    def new(self, signs_from: datetime) -> SealedKey:
        """Make a key. It is known to no ring until it was saved and read."""
        kid = urandom(8).hex()
        key = OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig", "alg": "EdDSA"}, private=True)
        nonce = urandom(_NONCE_BYTES)
        sealed = nonce + self._seal.encrypt(nonce, orjson.dumps(key.as_dict(private=True)), kid.encode())
        return SealedKey(kid, sealed, signs_from)

    def read(self, keys: Iterable[SealedKey]) -> bool:
        """Know exactly `keys` from now on, but for those sealed with another APP_SECRET_KEY. Whether one can sign."""
        known: dict[str, tuple[OKPKey, datetime]] = {}
        for key in keys:
            if key.kid in self._keys:
                known[key.kid] = self._keys[key.kid]
            elif (opened := self._open(key)) is not None:
                known[key.kid] = (opened, key.signs_from)
        self._keys = known
        return any(signs_from <= datetime.now(UTC) for _, signs_from in known.values())

    def verifying(self, kid: object) -> OKPKey | None:
        """The key with that name, if there is one."""
        known = self._keys.get(kid) if isinstance(kid, str) else None
        return known[0] if known else None

    def signing(self) -> OKPKey:
        """The newest key that every replica knows by now. Raises LookupError before the first was read."""
        now = datetime.now(UTC)
        active = [(signs_from, kid) for kid, (_, signs_from) in self._keys.items() if signs_from <= now]
        if not active:
            raise LookupError("no signing key has been read from the database yet")
        return self._keys[max(active)[1]][0]

    def published(self) -> dict[str, Any]:
        """The public halves as a JWK Set (RFC 7517)."""
        return {"keys": [key.as_dict(private=False) for key, _ in self._keys.values()]}

    def _open(self, key: SealedKey) -> OKPKey | None:
        nonce, sealed = key.sealed[:_NONCE_BYTES], key.sealed[_NONCE_BYTES:]
        try:
            return OKPKey.import_key(orjson.loads(self._seal.decrypt(nonce, sealed, key.kid.encode())))
        except InvalidTag:
            return None
