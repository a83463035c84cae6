"""Tokens without content for whoever holds them: a name, a secret, and a MAC over both; those in mails are good once.

The database keeps a hash of the secret alone. The MAC means that a forged token costs no query. For what lives days:
with another APP_SECRET_KEY they are all void.
"""

from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from dataclasses import dataclass
from hashlib import blake2b, sha256
from hmac import compare_digest
from os import urandom
from typing import TYPE_CHECKING, Literal, NamedTuple
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.reply import Problem

if TYPE_CHECKING:
    from chassis.identity.identity import Identity

_ID_BYTES = 16
_SECRET_BYTES = 16
_MAC_BYTES = 16


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
        if not compare_digest(mac, self._mac(content)):
            return None
        return Opaque(UUID(bytes=content[:_ID_BYTES]), sha256(content).digest())

    def _mac(self, content: bytes) -> bytes:
        return blake2b(content, key=self._key, digest_size=_MAC_BYTES).digest()


Purpose = Literal["verify", "reset"]

_SECONDS: dict[Purpose, float] = {"verify": 24 * 60 * 60.0, "reset": 30 * 60.0}


@dataclass(frozen=True, slots=True)
class OneTime:
    account_id: UUID


_NEW = query(
    "identity.new_one_time_token",
    UUID,
    """
    insert into chassis.one_time_tokens (token_hash, purpose, account_id, expires_at)
    values ($1, $2, $3, now() + make_interval(secs => $4))
    """,
)
_FIND = query(
    "identity.one_time_token",
    OneTime,
    """
    select {row} from chassis.one_time_tokens
    where token_hash = $1 and purpose = $2 and used_at is null and expires_at > now()
    """,
)
_USE = query(
    "identity.use_one_time_token",
    OneTime,
    """
    update chassis.one_time_tokens set used_at = now()
    where token_hash = $1 and purpose = $2 and used_at is null and expires_at > now()
    returning {row}
    """,
)
_VOID = query(
    "identity.void_one_time_tokens",
    UUID,
    "update chassis.one_time_tokens set used_at = now() where account_id = $1 and used_at is null",
)


async def new(identity: "Identity", db: UnitOfWork, purpose: Purpose, account_id: UUID) -> str:
    """A token for the account that `db` acts as."""
    token, token_hash = identity.one_time_tokens.new(account_id)
    await db.run(_NEW, token_hash, purpose, account_id, _SECONDS[purpose])
    return token


def read(identity: "Identity", token: str) -> Opaque:
    """What a token says, without a query. Raises the 400 problem for one that we did not make."""
    opaque = identity.one_time_tokens.read(token)
    if opaque is None:
        raise refused()
    return opaque


async def find(db: UnitOfWork, token: Opaque, purpose: Purpose) -> OneTime:
    """The token's row, if it is still good. Needs the hash in `app.lookup`."""
    return _good(await db.first(_FIND, token.hash, purpose))


async def use(db: UnitOfWork, token: Opaque, purpose: Purpose) -> OneTime:
    """Use the token up: of two who try at once, one is refused."""
    return _good(await db.first(_USE, token.hash, purpose))


async def void(db: UnitOfWork, account_id: UUID) -> None:
    """Make every token of an account worthless."""
    await db.run(_VOID, account_id)


def refused() -> Problem:
    return Problem(400, "token_refused", "This link was used before, has expired, or is not one of ours.")


def _good(row: OneTime | None) -> OneTime:
    if row is None:
        raise refused()
    return row
