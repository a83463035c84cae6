"""Tenancy in SQL: what makes a table a tenant's. For migrations; `chassis.data.catalog` checks that none forgot it."""

from chassis.data.roles import APP, BACKUP

TENANT = "nullif(current_setting('app.tenant_id', true), '')::uuid"
"""The tenant of this transaction. After a transaction that set one the setting is '', not NULL: hence the nullif."""

ACCOUNT = "nullif(current_setting('app.account_id', true), '')::uuid"
"""The account that this transaction acts for, where a row belongs to a person rather than to a tenant."""

LOOKUP = "nullif(current_setting('app.lookup', true), '')"
"""What this transaction looks for, in hexadecimal, where the row must be found before tenant and account are known."""

WITHOUT_TENANTS = "without tenants: "
"""How the comment of a table begins that has no tenants; the reason follows."""


def tenant_table(name: str, app: str = "select, insert, update, delete") -> str:
    """The SQL that closes the new table `name` to all but the tenant whose transaction it is.

    `name` may have a schema; the table has a column `tenant_id uuid not null`, first in every key. `app` is what the
    app role may do with the rows of its tenant.
    """
    return _policies(name, f"tenant_id = {TENANT}", app, f"tenant_id = {TENANT}")


def personal_table(name: str, reason: str, mine: str, app: str, *, visible: str | None = None) -> str:
    """The SQL that closes the new table `name`, whose rows belong to more than a tenant, to all but those of `mine`.

    `visible`, where given, says which rows may be read, when that is more than what may be written. `reason` says why
    it is no `tenant_table`.
    """
    return _policies(name, mine, app, visible or mine) + _explain(name, reason)


def shared_table(name: str, reason: str, app: str = "select") -> str:
    """The SQL that says why the new table `name` has no tenants, and lets the app role do `app` with all its rows."""
    return _grant(name, app) + _explain(name, reason)


def _policies(name: str, mine: str, app: str, visible: str) -> str:
    """Row-level security for one table: `visible` may be read, `mine` written."""
    return f"""
        alter table {name} enable row level security;
        alter table {name} force row level security;
        create policy tenant_select on {name} for select using ({visible});
        create policy tenant_insert on {name} for insert with check ({mine});
        create policy tenant_update on {name} for update using ({mine}) with check ({mine});
        create policy tenant_delete on {name} for delete using ({mine});
        {_grant(name, app)}
    """


def _grant(name: str, app: str) -> str:
    return f'grant {app} on {name} to "{APP}"; grant select on {name} to "{BACKUP}";'


def _explain(name: str, reason: str) -> str:
    comment = f"{WITHOUT_TENANTS}{reason}".replace("'", "''")
    return f"comment on table {name} is '{comment}';"
