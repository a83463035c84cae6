"""Changing the key that signs access tokens."""

from datetime import UTC, datetime
from typing import NamedTuple

from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.identity.keys import OVERLAP, KeyRing
from chassis.identity.tokens import LIFETIME_SECONDS
from chassis.identity.watch import ADD_KEY

_MARGIN_SECONDS = 60

# A key is needed until the tokens that it signed are dead: it signed the last one when its successor began.
_DELETE_OLD = query(
    "identity.delete_old_signing_keys",
    str,
    """
    delete from chassis.signing_keys old
    where exists (
        select from chassis.signing_keys successor
        where successor.signs_from > old.signs_from and successor.signs_from < now() - make_interval(secs => $1)
    )
    returning kid
    """,
    scan_allowed="a handful of rows",
)


class Rotation(NamedTuple):
    kid: str
    signs_from: datetime
    deleted: int


async def rotate(database: Database, keys: KeyRing) -> Rotation:
    """Add a key that every replica knows before it signs, and delete those that no token needs any more."""
    key = keys.new(datetime.now(UTC) + OVERLAP)
    async with database.unit_of_work(None) as db:
        deleted = await db.all(_DELETE_OLD, float(LIFETIME_SECONDS + _MARGIN_SECONDS))
        await db.run(ADD_KEY, key.kid, key.sealed, key.signs_from)
    return Rotation(key.kid, key.signs_from, len(deleted))
