"""How Alembic runs our revisions: `chassis.data.migrate` has connected, taken the role and the lock."""

from typing import TYPE_CHECKING

from alembic import context

if TYPE_CHECKING:
    from sqlalchemy import Connection

connection: "Connection" = context.config.attributes["connection"]

context.configure(
    connection=connection,
    version_table_schema="chassis",
    # What was done stays done when a later revision fails, and no transaction outlives its revision.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
