"""`chassis parity`: what staging and production have to share, printed by each, and what differs between two of them.

The names of variables that are set, never a value, and the version of all that the service runs with. Nothing but the
environment's own name may differ: a variable that one of them needs, the other one sets too, if only to its default.
"""

import asyncio
import os
import platform
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

from pydantic import BaseModel, ConfigDict, ValidationError

from chassis.backup.dump import applied, connected
from chassis.data import heads
from chassis.failure import Failure
from chassis.features import FEATURES

if TYPE_CHECKING:
    from chassis.settings import Settings

_SERVER: LiteralString = """
    select 'PostgreSQL', (n / 10000) || '.' || (n % 10000) from cast(current_setting('server_version_num') as int) n
    union all select 'PostgreSQL time zone', current_setting('TimeZone')
    union all select 'PostgreSQL encoding', pg_encoding_to_char(encoding)
        from pg_database where datname = current_database()
    union all select 'PostgreSQL locale', concat_ws(' ',
            case datlocprovider when 'b' then 'builtin' when 'i' then 'icu' else 'libc' end,
            datcollate, datctype, datlocale, pg_database_collation_actual_version(oid))
        from pg_database where datname = current_database()
    union all select 'PostgreSQL extension ' || extname, extversion from pg_extension
"""


class Parity(BaseModel):
    """One environment: its name, the variables that are set in it, and the versions of what there is, by name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    environment: str
    variables: list[str]
    versions: dict[str, str]


def show(settings: "Settings") -> int:
    """Print the environment that this process runs in. Raises Failure when a server of it does not answer."""
    variables = sorted(name for name, value in os.environ.items() if value)
    versions = {**_here(), **_of_database(settings), **_of_valkey(settings)}
    print(Parity(environment=settings.environment, variables=variables, versions=versions).model_dump_json(indent=2))
    return 0


def compare(first: str, second: str) -> int:
    """Print a line for each difference between two files of `show`. Raises Failure if there is one."""
    one, other = _read(first), _read(second)
    names = (one.environment, other.environment) if one.environment != other.environment else (first, second)
    lines = list(_differences(one, other, *names))
    for line in lines:
        print(line)
    if lines:
        raise Failure(f"{len(lines)} difference{'s' * (len(lines) > 1)} between {names[0]} and {names[1]}")
    return 0


def _differences(one: Parity, other: Parity, first: str, second: str) -> Iterator[str]:
    for sets, lacks, here, there in ((first, second, one, other), (second, first, other, one)):
        for name in sorted({*here.variables} - {*there.variables}):
            yield f"{sets} sets {name} and {lacks} does not"
    for name in sorted({*one.versions, *other.versions}):
        has, had = one.versions.get(name, "none"), other.versions.get(name, "none")
        if has != had:
            yield f"{name}: {first} has {has} and {second} has {had}"


def _here() -> dict[str, str]:
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # no Linux
        system = platform.platform()
    return {"Python": platform.python_version(), "operating system": system, "time zone": time.strftime("%Z")}


def _of_database(settings: "Settings") -> dict[str, str]:
    """The server, and the newest migrations of this release: a database may not have got them yet, but no others.

    Asked as who migrates where that is known: before the first migration there is no app role.
    """
    url = settings.migrator_database_url or settings.database_url
    assert url is not None  # of the command line
    with connected(url.get_secret_value()) as connection:
        versions = {str(name): str(version) for name, version in connection.execute(_SERVER)}
        unknown = {*applied(connection)} - heads.revisions().keys()
    earlier = frozenset[str]().union(*heads.revisions().values())
    versions["migrations"] = " ".join(sorted(heads.revisions().keys() - earlier))
    return versions | ({"migrations of another release": " ".join(sorted(unknown))} if unknown else {})


def _of_valkey(settings: "Settings") -> dict[str, str]:
    url = settings.valkey_url if "valkey" in FEATURES else None
    return {"Valkey": asyncio.run(_valkey_version(url.get_secret_value()))} if url else {}


async def _valkey_version(url: str) -> str:
    try:
        async with asyncio.timeout(5):
            connection = await import_module("chassis.limits.valkey_connection").Connection.to(url)
            said = await connection.ask("INFO", "server")
            connection.close()
    except OSError as error:
        raise Failure(f"APP_VALKEY_URL: {error}") from None
    told = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
    return told.get("valkey_version") or told["redis_version"]


def _read(path: str) -> Parity:
    try:
        return Parity.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None
    except ValidationError:
        raise Failure(f"{path} is not what `chassis parity` prints") from None
