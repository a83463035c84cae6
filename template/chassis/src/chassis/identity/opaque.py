"""Tokens without content for whoever holds them: a name, a secret, and a MAC over both.

The database keeps a hash of the secret alone. The MAC means that a forged token costs no query. For what lives days:
with another APP_SECRET_KEY they are all void.
"""

from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from hashlib import blake2b, sha256
from hmac import compare_digest
from os import urandom
from typing import NamedTuple
from uuid import UUID

_ID_BYTES = 16
_SECRET_BYTES = 16
_MAC_BYTES = 16
_TEXT_LENGTH = 64


class Opaque(NamedTuple):
    """A token's name, and the hash that the database knows it by."""

    id: UUID
    hash: bytes


class OpaqueTokens:
    """Tokens of one purpose: those of another do not fit."""

    def __init__(self, secret: str, purpose: bytes) -> None:
        self._key = blake2b(secret.encode(), person=purpose, digest_size=32).digest()

    def new(self, name: UUID) -> tuple[str, bytes]:
        """A token, to be shown once, and its hash."""
        content = name.bytes + urandom(_SECRET_BYTES)
        return urlsafe_b64encode(content + self._mac(content)).decode(), sha256(content).digest()

    def read(self, token: str) -> Opaque | None:
        """What a token names; None when we did not make it."""
        try:
            decoded = b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (Error, ValueError):
            return None
        content, mac = decoded[: _ID_BYTES + _SECRET_BYTES], decoded[_ID_BYTES + _SECRET_BYTES :]
        if len(token) != _TEXT_LENGTH or not compare_digest(mac, self._mac(content)):
            return None
        return Opaque(UUID(bytes=content[:_ID_BYTES]), sha256(content).digest())

    def _mac(self, content: bytes) -> bytes:
        return blake2b(content, key=self._key, digest_size=_MAC_BYTES).digest()
