"""The table of the module `webhooks`."""

from alembic import op

from chassis.data.tenancy import tenant_table

revision = "webhooks_0001"
down_revision = None
branch_labels = None
depends_on = "chassis_0001"


def upgrade() -> None:
    op.execute("""
        create table webhook_events (
            tenant_id uuid not null,
            id uuid not null default uuidv7(),
            topic text not null check (length(topic) between 1 and 100),
            payload jsonb not null,
            created_at timestamptz not null default now(),
            primary key (tenant_id, id)
        );
        create index webhook_events_by_time on webhook_events (tenant_id, created_at desc, id desc);
    """)
    op.execute(tenant_table("webhook_events", app="select, insert"))


def downgrade() -> None:
    op.execute("drop table webhook_events")
