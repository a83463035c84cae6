"""Access tokens: JWTs as RFC 9068 and RFC 8725 want them, verified once, then remembered; and the keys that sign them.

There is one kind of token and one way to write its header, so a header is never interpreted: it either is, byte for
byte, the one that goes with a key of ours, or the token is none. Whatever else a header may say (another algorithm,
`jku`, `x5u`, `jwk`, `crit`) is thus not looked at, and the only signature there is is Ed25519.

A token is good for ten minutes at most. What ends it earlier - a revoked session, a disabled account, a changed
password - is written to chassis.revocations, which every replica reads every few seconds: see `chassis.identity.watch`.

Keys are kept in the database, sealed with APP_SECRET_KEY, the same for every replica. A new one is published at once
and signs a minute later, when every replica has read it; an old one verifies for as long as a token that it signed can
live. So a rotation fails no request.
"""

from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from os import urandom
from time import time
from typing import Any
from uuid import UUID, uuid4

import orjson
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.identity.principal import Principal

OVERLAP = timedelta(seconds=60)
_NONCE_BYTES = 12
_SIGNATURE_CHARACTERS = 86
"""Of 64 bytes in base64url without padding."""


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key as the database has it."""

    kid: str
    sealed: bytes
    signs_from: datetime


class SigningKey:
    """A key that was opened, and the header of every token that it signs."""

    def __init__(self, kid: str, private: bytes, signs_from: datetime) -> None:
        self.kid = kid
        self.signs_from = signs_from
        # RFC 9864 renames the algorithm to Ed25519; what reads tokens knows it as EdDSA.
        self.header = base64url(orjson.dumps({"alg": "EdDSA", "typ": "at+jwt", "kid": kid}))
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self._public = self._private.public_key()

    def sign(self, content: bytes) -> bytes:
        """`content` as a signed JWT (RFC 7515, compact)."""
        signed = self.header + b"." + base64url(content)
        return signed + b"." + base64url(self._private.sign(signed))

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def public_jwk(self) -> dict[str, str]:
        """The public half (RFC 8037)."""
        x = base64url(self._public.public_bytes_raw()).decode()
        return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": x}


class KeyRing:
    """The keys that this replica knows. A token's header is one of theirs; no other way to a key exists."""

    def __init__(self, secret: str) -> None:
        self._seal = AESGCM(blake2b(secret.encode(), person=b"signing keys", digest_size=32).digest())
        self._keys: dict[bytes, SigningKey] = {}
        self.on_loss: Callable[[], None] = lambda: None
        """Called when a key is known no more, and with it nothing that it has signed is good."""

    def new(self, signs_from: datetime) -> SealedKey:
        """Make a key. It is known to no ring until it was saved and read."""
        kid, nonce = urandom(8).hex(), urandom(_NONCE_BYTES)
        private = Ed25519PrivateKey.generate().private_bytes_raw()
        return SealedKey(kid, nonce + self._seal.encrypt(nonce, private, kid.encode()), signs_from)

    def read(self, keys: Iterable[SealedKey]) -> bool:
        """Know exactly `keys` from now on, but for those sealed with another APP_SECRET_KEY. Whether one can sign."""
        known = {key.kid: key for key in self._keys.values()}
        opened = (known.get(key.kid) or self._open(key) for key in keys)
        before, self._keys = self._keys, {key.header: key for key in opened if key is not None}
        if before.keys() - self._keys.keys():
            self.on_loss()
        return self._newest() is not None

    def signed(self, content: bytes) -> bytes:
        """`content` as a JWT, signed with the newest key that every replica knows by now. LookupError without one."""
        key = self._newest()
        if key is None:
            raise LookupError("no signing key has been read from the database yet")
        return key.sign(content)

    def content(self, token: bytes) -> bytes | None:
        """What a JWT says that one of these keys has signed; None for any other text."""
        message, _, signature = token.rpartition(b".")
        header, _, content = message.partition(b".")
        key = self._keys.get(header)
        if key is None or len(signature) != _SIGNATURE_CHARACTERS:
            return None
        try:
            good = key.signed(message, _decoded(signature))
            return _decoded(content) if good else None
        except (Error, ValueError):
            return None

    def published(self) -> dict[str, Any]:
        """The public halves as a JWK Set (RFC 7517)."""
        return {"keys": [key.public_jwk() for key in self._keys.values()]}

    def _newest(self) -> SigningKey | None:
        now = datetime.now(UTC)
        active = [key for key in self._keys.values() if key.signs_from <= now]
        return max(active, key=lambda key: (key.signs_from, key.kid), default=None)

    def _open(self, key: SealedKey) -> SigningKey | None:
        nonce, sealed = key.sealed[:_NONCE_BYTES], key.sealed[_NONCE_BYTES:]
        try:
            return SigningKey(key.kid, self._seal.decrypt(nonce, sealed, key.kid.encode()), key.signs_from)
        except (InvalidTag, ValueError):
            return None


def base64url(data: bytes) -> bytes:
    """Without padding, as RFC 7515 has it."""
    return urlsafe_b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    return b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


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
        keys.on_loss = self._remembered.clear

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
