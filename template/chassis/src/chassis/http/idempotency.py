"""`Idempotency-Key`: a request that is sent again gets the first answer, and its effect happens once.

draft-ietf-httpapi-idempotency-key-header. The key is written in the transaction of the effect itself: a crash between
the two cannot happen, and two requests at the same time queue up behind the key's row. Only success is kept: after
an error nothing happened, and the request may be sent again.

A key is kept for 24 hours at the least. One new key in 64 takes up to 100 older ones of its tenant with it, so that the
table holds little more than each tenant's last day, and no job has to run for it.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

import orjson
from fastapi import Header, Response
from fastapi.params import Depends

from chassis.data.queries import query
from chassis.http.reply import Problem, Reply, bad_request

if TYPE_CHECKING:
    from chassis.data.unit_of_work import UnitOfWork
    from chassis.http.exchange import Exchange

_CHARACTERS = "[A-Za-z0-9._:-]{1,255}"
_KEY = re.compile(rf'("?)({_CHARACTERS})\1'.encode())
_FORGET_EVERY = 64


@dataclass(frozen=True, slots=True)
class _First:
    fingerprint: bytes
    status: int
    headers: bytes
    body: bytes


# ctid: a join to the rows that were found would read the whole tenant's. Two requests never wait for each other here.
_FORGET = query(
    "idempotency.forget",
    bytes,
    """
    delete from chassis.idempotency_keys
    where tenant_id = $1 and ctid = any (array(
        select ctid
        from chassis.idempotency_keys
        where tenant_id = $1 and created_at < now() - interval '24 hours'
        order by created_at
        limit 100
        for update skip locked
    ))
    """,
)

_FIRST = query(
    "idempotency.first",
    _First,
    "select fingerprint, status, headers, body from chassis.idempotency_keys where tenant_id = $1 and key_hash = $2",
)


class Once:
    """One use of a key: `begin` the transaction with it, then either `replay` or `commit`."""

    __slots__ = ("_fingerprint", "_key")

    def __init__(self, exchange: "Exchange", body: bytes) -> None:
        key = exchange.headers.get(b"idempotency-key")
        if key is None:
            raise bad_request("idempotency_key_missing", "Send an 'Idempotency-Key' header, such as a new UUID.")
        match = _KEY.fullmatch(key)
        if match is None:
            raise bad_request(
                "idempotency_key_malformed", "An Idempotency-Key has 1 to 255 letters, digits or any of '._:-'."
            )
        principal = exchange.principal
        caller = principal.subject.bytes if principal else b""
        self._key = _digest(exchange.method.encode(), exchange.route.encode(), caller, match[2])
        self._fingerprint = _digest(exchange.path.encode(), exchange.scope["query_string"], body)

    async def begin(self, db: "UnitOfWork") -> Reply | None:
        """Begin the transaction and claim the key; returns the first answer when the key was used before."""
        claimed = await db.begin(
            "INSERT INTO chassis.idempotency_keys(tenant_id,key_hash,fingerprint) VALUES"
            f"('{db.tenant_id}','\\x{self._key.hex()}','\\x{self._fingerprint.hex()}')ON CONFLICT DO NOTHING"
        )
        if claimed == "INSERT 0 1":
            if self._key[0] % _FORGET_EVERY == 0:
                await db.run(_FORGET, db.tenant_id)
            return None
        first = await db.one(_FIRST, db.tenant_id, self._key)
        await db.rollback()
        if first.fingerprint != self._fingerprint:
            raise Problem(
                422, "idempotency_key_reused", "This Idempotency-Key was used for a different request: use a new one."
            )
        headers = tuple((name.encode(), value.encode()) for name, value in orjson.loads(first.headers))
        return Reply(first.status, first.body, headers=(*headers, (b"idempotency-replayed", b"true")))

    async def commit(self, db: "UnitOfWork", reply: Reply | Response) -> None:
        """Keep the answer beside the effect, and commit both. Raises TypeError for one that writes itself."""
        if isinstance(reply, Response):
            raise TypeError("an idempotent handler returns a value that its annotation describes, not a Response")
        headers = orjson.dumps([(name.decode(), value.decode()) for name, value in reply.headers])
        await db.commit(
            f"UPDATE chassis.idempotency_keys SET status={reply.status:d},headers='\\x{headers.hex()}',"  # noqa: S608  (digits)
            f"body='\\x{reply.body.hex()}' WHERE tenant_id='{db.tenant_id}' AND key_hash='\\x{self._key.hex()}';"
        )


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def documented(
    idempotency_key: Annotated[
        str, Header(description="New for each thing that is made, such as a UUID.", pattern=f"^{_CHARACTERS}$")
    ],
) -> None:
    """For the OpenAPI document; the edge does the work."""
    del idempotency_key


Idempotent = Annotated[None, Depends(documented)]
"""In a signature beside `Transaction`: a request needs an Idempotency-Key; its repetition gets the first answer."""
