"""Checks that nobody has touched the audit trail: `chassis audit verify`."""

from typing import LiteralString

from psycopg import Connection
from psycopg.rows import TupleRow

_BROKEN: LiteralString = """
    select distinct on (tenant_id) tenant_id, position, at
    from (
        select a.*, chassis.audit_hash(a) as expected,
               lag(position, 1, 0::bigint) over chain as position_before,
               lag(hash, 1, ''::bytea) over chain as hash_before
        from chassis.audit a
        window chain as (partition by tenant_id order by position)
    ) as row
    where hash <> expected or previous_hash <> hash_before or position <> position_before + 1
    order by tenant_id, position
"""


def broken(connection: Connection[TupleRow]) -> list[str]:
    """The first row of each tenant that does not go on from the one before it, one a line. For who sees all tenants.

    A row that was removed shows in the row after it; of the last rows, only a copy of their hashes elsewhere can tell.
    """
    return [
        f"tenant {tenant}: the row at position {position}, of {at:%Y-%m-%d %H:%M:%S} UTC, is not what was recorded, "
        "or the one before it is gone"
        for tenant, position, at in connection.execute(_BROKEN)
    ]
