"""Run by the rendered service's Python, in its folder: start a PostgreSQL with many orders of two tenants.

Prints the URLs of the database as JSON, and stops the server when its input ends.
"""

import json
import sys
from pathlib import Path

import psycopg

from chassis.data import roles
from chassis.data.migrate import migrate
from chassis.dev.postgres import Postgres

_ORDERS = """
    insert into orders (tenant_id, reference, customer_email, currency, status, total_minor, created_at)
    select %s::uuid, 'sample-' || n, 'customer-' || n || '@example.com', 'EUR',
           (array['placed', 'placed', 'draft', 'cancelled'])[n %% 4 + 1], n * 100,
           now() - n * interval '1 minute'
    from generate_series(1, %s) as n
"""


def main(folder: Path, rows: int, tenants: list[str]) -> None:
    server = Postgres(folder)  # durable, as in production
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute("create database service")
        app = server.dsn("service", roles.APP)
        migrate(server.dsn("service"), app)
        with psycopg.connect(server.dsn("service"), autocommit=True) as superuser:
            for tenant in tenants:
                superuser.execute(_ORDERS, [tenant, rows])
            superuser.execute("vacuum analyze")
            version = superuser.info.parameter_status("server_version")
        print(json.dumps({"app": app, "superuser": server.dsn("service"), "version": version}), flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
