"""The answers to requests with an Idempotency-Key, kept beside their effects."""

from alembic import op

from chassis.data.tenancy import shared_table, tenant_table

revision = "chassis_0001"
down_revision = None
branch_labels = ("chassis",)
depends_on = None


def upgrade() -> None:
    op.execute(shared_table("chassis.alembic_version", "it says which migrations were run, for /readyz"))
    op.execute("""
        create table chassis.idempotency_keys (
            tenant_id uuid not null,
            key_hash bytea not null,
            fingerprint bytea not null,
            status smallint,
            headers bytea,
            body bytea,
            created_at timestamptz not null default now(),
            primary key (tenant_id, key_hash)
        );
        create index idempotency_keys_by_time on chassis.idempotency_keys (tenant_id, created_at);
        comment on table chassis.idempotency_keys is 'status is null while the first request is under way';
    """)
    op.execute(tenant_table("chassis.idempotency_keys"))


def downgrade() -> None:
    op.execute("drop table chassis.idempotency_keys")
