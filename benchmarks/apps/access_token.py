"""Run by the rendered service's Python: print an access token for the owner of a tenant, signed as the service signs.

The key is in the database, where a service that runs has put it, sealed with APP_SECRET_KEY.
"""

import os
import sys
from uuid import UUID, uuid4

import psycopg

from chassis.identity.tokens import KeyRing, SealedKey
from chassis.identity.tokens import access_tokens


def main(database: str, origin: str, tenant: str) -> None:
    keys = KeyRing(os.environ["APP_SECRET_KEY"])
    with psycopg.connect(database) as connection:
        keys.read(
            SealedKey(*row) for row in connection.execute("select kid, sealed, signs_from from chassis.signing_keys")
        )
    tokens = access_tokens(keys, origin, {})
    print(tokens.issue(subject=uuid4(), tenant_id=UUID(tenant), role="owner", session_id=uuid4()))


if __name__ == "__main__":
    main(*sys.argv[1:])
