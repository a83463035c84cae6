"""Tokens that are good once, for a while: what the links in mails carry."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.problems import Problem
from chassis.identity.identity import Identity
from chassis.identity.opaque import Opaque

Purpose = Literal["verify", "reset"]

_SECONDS: dict[Purpose, float] = {"verify": 24 * 60 * 60.0, "reset": 30 * 60.0}


@dataclass(frozen=True, slots=True)
class OneTime:
    account_id: UUID
    password_hash: str | None


_NEW = query(
    "identity.new_one_time_token",
    UUID,
    """
    insert into chassis.one_time_tokens (token_hash, purpose, account_id, password_hash, expires_at)
    values ($1, $2, $3, $4, now() + make_interval(secs => $5))
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


async def new(
    identity: Identity, db: UnitOfWork, purpose: Purpose, account_id: UUID, password_hash: str | None = None
) -> str:
    """A token for the account that `db` acts as. `password_hash` is what using it will set."""
    token, token_hash = identity.one_time_tokens.new(account_id)
    await db.run(_NEW, token_hash, purpose, account_id, password_hash, _SECONDS[purpose])
    return token


def read(identity: Identity, token: str) -> Opaque:
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
