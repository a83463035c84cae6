"""People, the tenants they act in, what they prove themselves with, and a record of what they did.

A row here often has to be found before its tenant is known: by an e-mail address, or by a secret that was shown. Then
the transaction says in `app.lookup` which one it is after, in hexadecimal, and the policies show that row alone.
"""

from alembic import op

from chassis.data.tenancy import ACCOUNT, LOOKUP, TENANT, personal_table, shared_table, tenant_table

revision = "chassis_0002"
down_revision = "chassis_0001"
branch_labels = None
depends_on = None

_ROLE = "role text not null check (role in ('owner', 'admin', 'member', 'viewer'))"


def upgrade() -> None:
    _people()
    _proofs()
    _shared_by_all_replicas()
    _audit()


def _people() -> None:
    op.execute(f"""
        create table chassis.accounts (
            id uuid primary key default uuidv7(),
            email text not null check (length(email) between 3 and 254),
            email_canonical text not null unique,
            password_hash text not null,
            verified_at timestamptz,
            disabled_at timestamptz,
            created_at timestamptz not null default now()
        );
        comment on column chassis.accounts.email is 'as it was typed: where mail goes';

        create table chassis.tenants (
            id uuid primary key default uuidv7(),
            name text not null check (length(name) between 1 and 100),
            created_at timestamptz not null default now()
        );

        create table chassis.memberships (
            tenant_id uuid not null references chassis.tenants (id),
            account_id uuid not null references chassis.accounts (id),
            {_ROLE},
            created_at timestamptz not null default now(),
            primary key (tenant_id, account_id)
        );
        create index memberships_by_account on chassis.memberships (account_id);
        create index memberships_by_time on chassis.memberships (tenant_id, created_at desc, account_id desc);
        create index memberships_of_owners on chassis.memberships (tenant_id, account_id) where role = 'owner';
    """)
    found_by_email = f"encode(convert_to(email_canonical, 'UTF8'), 'hex') = {LOOKUP}"
    # A colleague's address may be read, through the membership that is shared; nobody else's.
    colleague = (
        f"exists (select from chassis.memberships m where m.account_id = accounts.id and m.tenant_id = {TENANT})"
    )
    op.execute(
        personal_table(
            "chassis.accounts",
            "a person, who may be a member of several",
            f"id = {ACCOUNT} or {found_by_email}",
            "select, insert, update",
            visible=f"id = {ACCOUNT} or {found_by_email} or {colleague}",
        )
    )
    op.execute(
        personal_table(
            "chassis.tenants",
            "a row is one, and those of its members who choose among theirs see it",
            f"id = {TENANT}",
            "select, insert, update",
            visible=f"id = {TENANT} or exists "
            f"(select from chassis.memberships m where m.tenant_id = tenants.id and m.account_id = {ACCOUNT})",
        )
    )
    op.execute(
        personal_table(
            "chassis.memberships",
            "a person sees theirs in all tenants",
            f"tenant_id = {TENANT}",
            "select, insert, update, delete",
            visible=f"tenant_id = {TENANT} or account_id = {ACCOUNT}",
        )
    )


def _proofs() -> None:
    op.execute(f"""
        create table chassis.sessions (
            id uuid primary key default uuidv7(),
            account_id uuid not null references chassis.accounts (id),
            tenant_id uuid not null references chassis.tenants (id),
            family_id uuid not null default uuidv7(),
            token_hash bytea not null,
            user_agent text check (length(user_agent) <= 200),
            created_at timestamptz not null default now(),
            used_at timestamptz not null default now(),
            expires_at timestamptz not null,
            revoked_at timestamptz
        );
        create index sessions_by_account on chassis.sessions (account_id, created_at desc, id desc);
        create index sessions_by_tenant on chassis.sessions (tenant_id, account_id);
        comment on column chassis.sessions.family_id is 'of all sessions that were switched from one sign-in';
        comment on column chassis.sessions.token_hash is 'of the one refresh token that is good now';
        comment on column chassis.sessions.expires_at is 'whatever happens: refreshing and switching do not move it';

        create table chassis.one_time_tokens (
            token_hash bytea primary key,
            purpose text not null check (purpose in ('verify', 'reset')),
            account_id uuid not null references chassis.accounts (id),
            expires_at timestamptz not null,
            used_at timestamptz
        );
        create index one_time_tokens_by_account on chassis.one_time_tokens (account_id);

        create table chassis.invitations (
            tenant_id uuid not null references chassis.tenants (id),
            id uuid not null default uuidv7(),
            token_hash bytea not null unique,
            email_canonical text not null,
            {_ROLE},
            invited_by uuid not null,
            created_at timestamptz not null default now(),
            expires_at timestamptz not null,
            accepted_at timestamptz,
            primary key (tenant_id, id)
        );
        create index invitations_by_time on chassis.invitations (tenant_id, created_at desc, id desc);

        create table chassis.api_keys (
            tenant_id uuid not null references chassis.tenants (id),
            id uuid not null default uuidv7(),
            name text not null check (length(name) between 1 and 100),
            prefix text not null,
            key_hash bytea not null unique,
            scopes text[] not null,
            created_by uuid not null,
            created_at timestamptz not null default now(),
            expires_at timestamptz not null,
            used_at timestamptz,
            revoked_at timestamptz,
            primary key (tenant_id, id)
        );
        create index api_keys_by_time on chassis.api_keys (tenant_id, created_at desc, id desc);
    """)
    session = f"account_id = {ACCOUNT} or tenant_id = {TENANT} or encode(uuid_send(id), 'hex') = {LOOKUP}"
    theirs = "a person has and ends theirs in all tenants"
    op.execute(personal_table("chassis.sessions", theirs, session, "select, insert, update"))
    shown = f"encode(token_hash, 'hex') = {LOOKUP}"
    op.execute(
        personal_table(
            "chassis.one_time_tokens",
            "of a person, found by a hash of the token",
            f"account_id = {ACCOUNT} or {shown}",
            "select, insert, update",
        )
    )
    op.execute(
        personal_table(
            "chassis.invitations",
            "found by a hash of the token",
            f"tenant_id = {TENANT} or {shown}",
            "select, insert, update, delete",
        )
    )
    op.execute(
        personal_table(
            "chassis.api_keys",
            "found by a hash of the key",
            f"tenant_id = {TENANT}",
            "select, insert, update",
            visible=f"tenant_id = {TENANT} or encode(key_hash, 'hex') = {LOOKUP}",
        )
    )


def _shared_by_all_replicas() -> None:
    """What every replica reads every few seconds, without a tenant: no person's data is in it."""
    op.execute("""
        create table chassis.revocations (
            id uuid primary key,
            revoked_at timestamptz not null default clock_timestamp()
        );
        create index revocations_by_time on chassis.revocations (revoked_at);

        create table chassis.signing_keys (
            kid text primary key,
            sealed bytea not null,
            created_at timestamptz not null default now(),
            signs_from timestamptz not null
        );
        comment on column chassis.signing_keys.sealed is 'the private key, encrypted with a key made of APP_SECRET_KEY';
    """)
    ended = "sessions and API keys whose tokens must stop before they expire; every replica reads all of it"
    op.execute(shared_table("chassis.revocations", ended, "select, insert, delete"))
    op.execute(shared_table("chassis.signing_keys", "the service's own", "select, insert, delete"))


def _audit() -> None:
    """Each row's hash covers the row and the hash before it, so that no row can change without all later ones.

    The trigger fills in position and hashes, whatever was given, while it holds the tenant's lock: no chain forks.
    """
    op.execute("""
        create table chassis.audit (
            tenant_id uuid not null,
            position bigint not null,
            at timestamptz not null,
            actor uuid,
            event text not null check (length(event) between 1 and 100),
            subject text check (length(subject) <= 200),
            details jsonb not null default '{}',
            request_id text check (length(request_id) <= 128),
            previous_hash bytea not null,
            hash bytea not null,
            primary key (tenant_id, position)
        );

        create function chassis.audit_hash(entry chassis.audit) returns bytea language sql immutable as $$
            select sha256(convert_to(jsonb_build_array(
                entry.tenant_id, entry.position, extract(epoch from entry.at), entry.actor, entry.event,
                entry.subject, entry.details, entry.request_id, encode(entry.previous_hash, 'hex'))::text, 'UTF8'))
        $$;

        create function chassis.audit_chain() returns trigger language plpgsql as $$
        declare
            last record;
        begin
            perform pg_advisory_xact_lock(hashtext('chassis.audit'), hashtext(new.tenant_id::text));
            select position, hash into last from chassis.audit
                where tenant_id = new.tenant_id order by position desc limit 1;
            new.position := coalesce(last.position, 0) + 1;
            new.previous_hash := coalesce(last.hash, ''::bytea);
            new.at := clock_timestamp();
            new.hash := chassis.audit_hash(new);
            return new;
        end
        $$;
        create trigger audit_chain before insert on chassis.audit for each row execute function chassis.audit_chain();
    """)
    op.execute(tenant_table("chassis.audit", app="select, insert"))


def downgrade() -> None:
    op.execute("""
        drop table chassis.audit, chassis.signing_keys, chassis.revocations, chassis.api_keys, chassis.invitations,
            chassis.one_time_tokens, chassis.sessions, chassis.memberships, chassis.tenants, chassis.accounts cascade;
        drop function chassis.audit_chain, chassis.audit_hash;
    """)
