"""The tables of the module `orders`."""

from alembic import op

from chassis.data.tenancy import tenant_table

revision = "orders_0001"
down_revision = None
branch_labels = None
depends_on = "chassis_0001"


def upgrade() -> None:
    op.execute("""
        create table orders (
            tenant_id uuid not null,
            id uuid not null default uuidv7(),
            reference text not null check (length(reference) between 1 and 64),
            customer_email text not null check (length(customer_email) between 3 and 254),
            currency char(3) not null check (currency ~ '^[A-Z]{3}$'),
            -- Not an enum: its comparison is not leakproof, so that under row-level security no index could serve it.
            status text not null check (status in ('draft', 'placed', 'cancelled')),
            note text check (length(note) <= 2000),
            total_minor bigint not null check (total_minor >= 0),
            version integer not null default 1 check (version > 0),
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            primary key (tenant_id, id),
            unique (tenant_id, reference)
        );
        create index orders_by_time on orders (tenant_id, created_at desc, id desc);
        create index orders_by_status on orders (tenant_id, status, created_at desc, id desc);

        create table order_items (
            tenant_id uuid not null,
            order_id uuid not null,
            position integer not null check (position > 0),
            sku text not null check (length(sku) between 1 and 64),
            quantity integer not null check (quantity > 0),
            unit_price_minor bigint not null check (unit_price_minor >= 0),
            primary key (tenant_id, order_id, position),
            foreign key (tenant_id, order_id) references orders (tenant_id, id) on delete cascade
        );
    """)
    op.execute(tenant_table("orders"))
    op.execute(tenant_table("order_items", app="select, insert"))


def downgrade() -> None:
    op.execute("drop table order_items; drop table orders")
