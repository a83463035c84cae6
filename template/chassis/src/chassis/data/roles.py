"""The three roles of the service, made the same in every environment.

- migrator owns every object and cannot log in: migrations reach it with SET ROLE.
- app is what the service connects as: row-level security binds it, and it can change no schema.
- backup reads everything and writes nothing: by BYPASSRLS where the login has that to give; else, as on a PostgreSQL
  that others manage, by a policy of each table that is for it alone.

Roles belong to the whole cluster and not to one database, so others may be making them at this very moment.
"""

import time
from collections.abc import Callable
from typing import LiteralString

from psycopg import Connection, errors
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier, Literal

from chassis.features import PACKAGE

MIGRATOR = f"{PACKAGE}_migrator"
APP = f"{PACKAGE}_app"
BACKUP = f"{PACKAGE}_backup"

_ATTRIBUTES = {
    "rolsuper": (SQL("superuser"), SQL("nosuperuser")),
    "rolcreaterole": (SQL("createrole"), SQL("nocreaterole")),
    "rolcreatedb": (SQL("createdb"), SQL("nocreatedb")),
    "rolreplication": (SQL("replication"), SQL("noreplication")),
    "rolcanlogin": (SQL("login"), SQL("nologin")),
    "rolbypassrls": (SQL("bypassrls"), SQL("nobypassrls")),
}
_WANTED = {MIGRATOR: set[str](), APP: {"rolcanlogin"}, BACKUP: {"rolcanlogin", "rolbypassrls"}}

_ON_DATABASE: LiteralString = """
    revoke all on database {database} from public;
    grant connect, create on database {database} to {migrator};
    grant connect on database {database} to {app}, {backup};
"""
_IN_PUBLIC: LiteralString = """
    revoke create on schema public from public;
    grant create, usage on schema public to {migrator};
    grant usage on schema public to {app}, {backup};
"""
# The order matters: what stands after SET ROLE is the migrator's own.
_IN_CHASSIS: LiteralString = """
    set local role {migrator};
    create schema if not exists chassis;
    grant usage on schema chassis to {app}, {backup};
    alter default privileges grant select on tables to {backup};
    alter default privileges grant select on sequences to {backup};
    alter default privileges grant usage on schemas to {backup};
"""

_BYPASSES: LiteralString = "select rolsuper or rolbypassrls from pg_roles where rolname = current_user"

# For each table that would hide rows from the backup role.
_FOR_BACKUP: LiteralString = """
    do $do$
    declare closed regclass;
    begin
        for closed in
            select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p') and c.relrowsecurity and n.nspname !~ '^pg_'
              and not (select rolbypassrls from pg_roles where rolname = {name})
              and not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'backup')
        loop
            execute 'create policy backup on ' || closed || ' for select to ' || quote_ident({name}) || ' using (true)';
        end loop;
    end $do$
"""

_NAMES = {"migrator": Identifier(MIGRATOR), "app": Identifier(APP), "backup": Identifier(BACKUP)}


def bootstrap(connection: Connection[TupleRow]) -> None:
    """Make the roles, the schema `chassis` and what each role may do in this database; change nothing that is right.

    The login must own the database and, until the roles exist, have CREATEROLE, as a superuser and the first user of a
    managed PostgreSQL have. Raises psycopg.Error. The connection is in autocommit mode.
    """
    prepare(connection)
    with connection.transaction():
        connection.execute(SQL(_IN_CHASSIS).format(**_NAMES))


def prepare(connection: Connection[TupleRow]) -> None:
    """Do of `bootstrap` what a dump does not bring with it: the roles, and who may enter this database."""
    for role, wanted in _WANTED.items():
        _racing(lambda role=role, wanted=wanted: _make(connection, role, wanted))
    _racing(lambda: join(connection, MIGRATOR))
    with connection.transaction():
        close_database(connection, connection.info.dbname)
        connection.execute(SQL(_IN_PUBLIC).format(**_NAMES))


def open_to_backup() -> str:
    """The SQL that lets the backup role see all rows of all tables. For the migrator, when tables may be new."""
    return SQL(_FOR_BACKUP).format(name=Literal(BACKUP)).as_string()


def bypasses(connection: Connection[TupleRow]) -> bool:
    """Whether row-level security does not bind the connection's role."""
    return connection.execute(_BYPASSES).fetchone() == (True,)


def close_database(connection: Connection[TupleRow], database: str) -> None:
    """Let only the three roles into `database`. A copy of a database has all of it but this."""
    connection.execute(SQL(_ON_DATABASE).format(database=Identifier(database), **_NAMES))


def set_password(connection: Connection[TupleRow], role: str, password: str) -> None:
    """Give `role` a password. The server and its log see only the verifier that is made of it here."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    statement = SQL("alter role {} password {}").format(Identifier(role), Literal(verifier))
    _racing(lambda: connection.execute(statement))


def _make(connection: Connection[TupleRow], role: str, wanted: set[str]) -> None:
    columns = SQL(", ").join(Identifier(column) for column in _ATTRIBUTES)
    found = connection.execute(SQL("select {} from pg_roles where rolname = {}").format(columns, role)).fetchone()
    have = {column for column, is_set in zip(_ATTRIBUTES, found or (), strict=False) if is_set}
    if "rolbypassrls" in wanted - have and not bypasses(connection):
        wanted = wanted - {"rolbypassrls"}  # only who has it can give it
    changes = [_ATTRIBUTES[column][column not in wanted] for column in wanted ^ have]
    if found is None or changes:
        statement = SQL("create role {} {}" if found is None else "alter role {} {}")
        connection.execute(statement.format(Identifier(role), SQL(" ").join(changes)))


def join(connection: Connection[TupleRow], role: str) -> None:
    """Let the login become `role`: whoever makes a role may not yet do that. Raises psycopg.Error."""
    may = connection.execute("select pg_has_role(current_user, %s, 'set')", [role]).fetchone()
    if may != (True,):
        connection.execute(SQL("grant {} to current_user with set true, inherit false").format(Identifier(role)))


def _racing(change: Callable[[], object]) -> None:
    """Change a role, again when another migration of the same cluster was changing it too."""
    for _ in range(50):
        try:
            change()
            return
        except (errors.DuplicateObject, errors.UniqueViolation):
            pass  # made by the other one: look again
        except errors.InternalError_ as error:
            if "concurrently" not in str(error):
                raise
        time.sleep(0.02)
    change()
