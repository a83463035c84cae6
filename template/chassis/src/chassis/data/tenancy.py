"""Tenancy in SQL: what makes a table a tenant's, and what in a catalog would let one tenant see another's rows."""

from chassis.data.roles import APP, BACKUP

TENANT = "nullif(current_setting('app.tenant_id', true), '')::uuid"
"""The tenant of this transaction. After a transaction that set one the setting is '', not NULL: hence the nullif."""

ACCOUNT = "nullif(current_setting('app.account_id', true), '')::uuid"
"""The account that this transaction acts for, where a row belongs to a person rather than to a tenant."""

LOOKUP = "nullif(current_setting('app.lookup', true), '')"
"""What this transaction looks for, in hexadecimal, where the row must be found before tenant and account are known."""


def tenant_table(name: str, app: str = "select, insert, update, delete") -> str:
    """The SQL that closes the new table `name` to all but the tenant whose transaction it is.

    `name` may have a schema. `app` is what the app role may do with the rows of its tenant. A table without tenants
    is not for this: grant it to the app role in the open, and give a reason in the catalog test.
    """
    return policies(name, f"tenant_id = {TENANT}", app)


def policies(name: str, mine: str, app: str, *, visible: str | None = None) -> str:
    """The SQL that closes the new table `name` to all but the rows for which `mine` is true.

    `visible`, where given, says which rows may be read, when that is more than what may be written.
    """
    return f"""
        alter table {name} enable row level security;
        alter table {name} force row level security;
        create policy tenant_select on {name} for select using ({visible or mine});
        create policy tenant_insert on {name} for insert with check ({mine});
        create policy tenant_update on {name} for update using ({mine}) with check ({mine});
        create policy tenant_delete on {name} for delete using ({mine});
        grant {app} on {name} to "{APP}";
        grant select on {name} to "{BACKUP}";
    """
