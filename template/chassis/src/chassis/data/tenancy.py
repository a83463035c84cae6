"""Tenancy in SQL: what makes a table a tenant's. For migrations; `chassis.data.catalog` checks that none forgot it."""

from chassis.data.roles import APP, BACKUP

TENANT = "nullif(current_setting('app.tenant_id', true), '')::uuid"
"""The tenant of this transaction. After a transaction that set one the setting is '', not NULL: hence the nullif."""

WITHOUT_TENANTS = "without tenants: "
"""How the comment of a table begins that has no tenants; the reason follows."""


def tenant_table(name: str, app: str = "select, insert, update, delete") -> str:
    """The SQL that closes the new table `name` to all but the tenant whose transaction it is.

    `name` may have a schema; the table has a column `tenant_id uuid not null`, first in every key. `app` is what the
    app role may do with the rows of its tenant.
    """
    mine = f"tenant_id = {TENANT}"
    return f"""
        alter table {name} enable row level security;
        alter table {name} force row level security;
        create policy tenant_select on {name} for select using ({mine});
        create policy tenant_insert on {name} for insert with check ({mine});
        create policy tenant_update on {name} for update using ({mine}) with check ({mine});
        create policy tenant_delete on {name} for delete using ({mine});
        grant {app} on {name} to "{APP}";
        grant select on {name} to "{BACKUP}";
    """


def shared_table(name: str, reason: str, app: str = "select") -> str:
    """The SQL that says why the new table `name` has no tenants, and lets the app role do `app` with all its rows."""
    comment = f"{WITHOUT_TENANTS}{reason}".replace("'", "''")
    return f"""
        comment on table {name} is '{comment}';
        grant {app} on {name} to "{APP}";
        grant select on {name} to "{BACKUP}";
    """
