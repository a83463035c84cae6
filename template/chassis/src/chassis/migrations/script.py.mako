<%!
    def literal(value):
        return repr(value).replace("'", '"')
%>"""${message.capitalize()}."""

from alembic import op

revision = ${literal(up_revision)}
down_revision = ${literal(down_revision)}
branch_labels = None
depends_on = ${literal(depends_on)}


def upgrade() -> None:
    # After `create table x (tenant_id uuid not null, …)`: op.execute(tenant_table("x")), of chassis.data.tenancy.
    op.execute("""
    """)


def downgrade() -> None:
    op.execute("""
    """)
