"""What in a database's catalog would let one tenant see another's rows, or the app role do more than it should.

A query for each way in, each row of which is one problem. They ask PostgreSQL what holds, not what a migration says.
"""

from typing import LiteralString

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Literal

from chassis.data.roles import APP, BACKUP, MIGRATOR
from chassis.data.tenancy import WITHOUT_TENANTS

# As PostgreSQL prints the condition of `tenancy.tenant_table`.
_MINE = "(tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"

# A policy that shows all rows, to the backup role alone.
_FOR_BACKUP: LiteralString = """
    p.polcmd = 'r' and p.polroles = array[{backup}::regrole::oid] and pg_get_expr(p.polqual, p.polrelid) = 'true'
"""

# Relations that are the service's own, and the tables among them that belong to tenants.
_OURS: LiteralString = """
    with ours as (
        select c.oid, c.oid::regclass::text as name, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
               starts_with(coalesce(obj_description(c.oid, 'pg_class'), ''), {without_tenants})
                   and length(obj_description(c.oid, 'pg_class')) > length({without_tenants}) as is_shared
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    ), tenants as (
        select *, (
            select a.attnum from pg_attribute a
            where a.attrelid = ours.oid and a.attname = 'tenant_id' and a.atttypid = 'uuid'::regtype and a.attnotnull
        ) as tenant_id
        from ours where relkind in ('r', 'p') and not is_shared
    )
"""

_HIDDEN: LiteralString = """
    select name || ': the backup role is bound by row-level security, and no policy shows it all rows: migrate again'
    from ours
    where relkind in ('r', 'p') and relrowsecurity
      and not (select rolbypassrls or rolsuper from pg_roles where rolname = {backup})
      and (not exists (select from pg_policy p where p.polrelid = ours.oid and p.polpermissive and {for_backup})
           or exists (select from pg_policy p where p.polrelid = ours.oid and not p.polpermissive
                      and p.polcmd in ('r', '*')
                      and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role({backup}, r, 'usage'))))
"""

_CHECKS: tuple[LiteralString, ...] = (
    """
    select name || ': no column tenant_id uuid not null; a table without tenants says why, with tenancy.shared_table'
    from tenants where tenant_id is null
    """,
    """
    select name || ': row-level security is not enabled and forced: use tenancy.tenant_table'
    from tenants where tenant_id is not null and not (relrowsecurity and relforcerowsecurity)
    """,
    """
    select name || ': it has policies, and row-level security is not enabled and forced'
    from ours where is_shared and not (relrowsecurity and relforcerowsecurity)
        and exists (select from pg_policy p where p.polrelid = ours.oid)
    """,
    # Permissive policies add up, so that one wrong one opens what four right ones close.
    """
    select t.name || ': no tenant policy for ' || verb.name
    from tenants t,
         (values ('r', 'select'), ('a', 'insert'), ('w', 'update'), ('d', 'delete')) as verb (code, name)
    where t.relrowsecurity and not exists (
        select from pg_policy p
        where p.polrelid = t.oid and p.polpermissive and p.polcmd in (verb.code::"char", '*')
          and (p.polroles @> array[0::oid] or p.polroles @> array[{app}::regrole::oid])
    )
    """,
    """
    select t.name || ': policy ' || p.polname || ' lets more through than the rows of the tenant'
    from tenants t join pg_policy p on p.polrelid = t.oid
    where p.polpermissive and not ({for_backup})
      and (   (p.polcmd <> 'a' and pg_get_expr(p.polqual, p.polrelid) is distinct from {mine})
           or (p.polcmd = 'a' and pg_get_expr(p.polwithcheck, p.polrelid) is distinct from {mine})
           or (p.polcmd in ('w', '*') and coalesce(pg_get_expr(p.polwithcheck, p.polrelid), {mine}) <> {mine}))
    """,
    # A key that is unique among all tenants tells one of them what another has.
    """
    select t.name || ': the unique index ' || i.indexrelid::regclass || ' does not begin with tenant_id'
    from tenants t join pg_index i on i.indrelid = t.oid
    where i.indisunique and i.indkey[0] <> t.tenant_id
    """,
    """
    select name || ': a view shows what its owner sees: create it with (security_invoker = true)'
    from ours where relkind = 'v' and not exists (
        select from pg_options_to_table(reloptions) where option_name = 'security_invoker' and option_value::boolean
    )
    """,
    """
    select name || ': row-level security does not hold for a materialized view or a foreign table; say why it may be, '
           || 'in a comment that begins with "' || {without_tenants} || '"'
    from ours where relkind in ('m', 'f') and not is_shared
    """,
    # PostgreSQL checks references without row-level security.
    """
    select t.name || ': the foreign key ' || k.conname || ' without tenant_id may refer to another tenant''s row'
    from tenants t join pg_constraint k on k.conrelid = t.oid join tenants other on other.oid = k.confrelid
    where k.contype = 'f' and not exists (
        select from unnest(k.conkey, k.confkey) as pair (here, there)
        where here = t.tenant_id and there = other.tenant_id
    )
    """,
    """
    select o.name || ': no index for the foreign key ' || k.conname || ': every delete there reads all of this table'
    from ours o join pg_constraint k on k.conrelid = o.oid
    where k.contype = 'f' and not exists (
        select from pg_index i
        where i.indrelid = o.oid and i.indpred is null
          and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
    )
    """,
    """
    select 'the app role ' || {app} || ' has ' || what
    from pg_roles, lateral (values
        (rolsuper, 'SUPERUSER'), (rolbypassrls, 'BYPASSRLS'), (rolcreaterole, 'CREATEROLE'), (rolcreatedb, 'CREATEDB'),
        (rolreplication, 'REPLICATION')
    ) as attribute (is_set, what)
    where rolname = {app} and is_set
    """,
    """
    select 'the app role ' || {app} || ' is a member of ' || rolname
    from pg_roles
    where rolname <> {app} and pg_has_role({app}, oid, 'member')
      and (rolname ~ '^pg_' or rolsuper or rolbypassrls or rolname in ({migrator}, {backup}))
      and not (select rolsuper from pg_roles where rolname = {app})
    """,
    """
    select 'the app role ' || {app} || ' owns ' || pg_describe_object(classid, objid, objsubid)
    from pg_shdepend
    where refclassid = 'pg_authid'::regclass and refobjid = {app}::regrole and deptype = 'o'
      and dbid in (0, (select oid from pg_database where datname = current_database()))
    """,
    """
    select name || ': the app role may ' || verb
    from ours, unnest(array['truncate', 'references', 'trigger', 'maintain']) as verb
    where relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege({app}, oid, verb)
    """,
    """
    select 'schema ' || nspname || ': the app role may create objects in it'
    from pg_namespace where has_schema_privilege({app}, oid, 'create')
    """,
    """
    select 'the app role may create ' || what || ' in this database'
    from (values ('create', 'schemas'), ('temporary', 'temporary tables')) as privilege (name, what)
    where has_database_privilege({app}, current_database(), name)
    """,
    """
    select p.oid::regprocedure || ': the app role may call it, and it runs as ' || r.rolname || ', who sees all tenants'
    from pg_proc p join pg_roles r on r.oid = p.proowner join pg_namespace n on n.oid = p.pronamespace
    where p.prosecdef and (r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, {backup}, 'usage'))
      and has_function_privilege({app}, p.oid, 'execute') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    """,
    """
    select name || ': the backup role cannot read it'
    from ours
    where (relkind in ('r', 'p', 'm') and not has_table_privilege({backup}, oid, 'select'))
       or (relkind = 'S' and not has_sequence_privilege({backup}, oid, 'select'))
    """,
    """
    select name || ': the backup role may write to it'
    from ours
    where relkind in ('r', 'p', 'v', 'f')
      and has_table_privilege({backup}, oid, 'insert, update, delete, truncate')
    """,
    _HIDDEN,
)


def catalog_problems(connection: Connection[TupleRow]) -> list[str]:
    """Every problem of the database, one a line; none is what a test expects. Any role may ask."""
    return _problems(connection, *_CHECKS)


def hidden_from_backup(connection: Connection[TupleRow]) -> list[str]:
    """The tables that would come into a backup without all of their rows, one a line. Any role may ask."""
    return _problems(connection, _HIDDEN)


def _problems(connection: Connection[TupleRow], *checks: LiteralString) -> list[str]:
    values = {"app": APP, "migrator": MIGRATOR, "backup": BACKUP, "mine": _MINE, "without_tenants": WITHOUT_TENANTS}
    literals = {name: Literal(value) for name, value in values.items()}
    for_backup = SQL(_FOR_BACKUP).format(**literals)
    return [
        problem
        for check in checks
        for (problem,) in connection.execute(
            SQL(_OURS + check + " order by 1").format(**literals, for_backup=for_backup)
        )
    ]
