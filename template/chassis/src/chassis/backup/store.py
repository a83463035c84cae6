"""Where backups are kept: an object store, or a folder. Of each backup there are two objects.

The dump comes first and the manifest last, and only what has a manifest is a backup: whatever is interrupted is never
listed, and the next backup clears it away. Removing one goes the other way round.
"""

import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url
from prometheus_client import CollectorRegistry, Gauge, generate_latest, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from pydantic import AwareDatetime, BaseModel, ValidationError

from chassis.dev.database import state_folder
from chassis.failure import Failure
from chassis.features import PACKAGE
from chassis.settings import ConfigurationRefused

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

    from chassis.settings import Settings

# The first one would hold for a whole download, however long: what counts is that something comes.
_CLIENT: "ClientConfig" = {
    "timeout": timedelta(days=1),
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(minutes=5),
}
_RETRY: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(minutes=2)}
_PART_BYTES = 8 * 1024 * 1024
_MOST_PARTS = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE = 2
_READ_BYTES = 1024 * 1024
_UNFINISHED = timedelta(days=2)
_CLOCKS_DIFFER = timedelta(minutes=5)
"""A dump without a manifest that is older than this is no longer being written."""

_METRICS = {
    "backup": {
        "backup_last_success_timestamp_seconds": "When the snapshot of the latest backup was taken.",
        "backup_duration_seconds": "How long the latest backup took.",
        "backup_size_bytes": "What the latest backup takes in the store.",
    },
    "drill": {
        "restore_drill_last_success_timestamp_seconds": "When a backup was last proved to restore.",
        "restore_drill_rto_seconds": "Recovery time: from nothing to a service that passes its smoke test.",
        "restore_drill_rpo_seconds": "Recovery point: what a loss at the time of the drill would have cost.",
    },
}
"""What commands measure, by the name under which they publish it."""


class Table(BaseModel):
    """What one table held, and how it was closed."""

    rows: int
    tenants: dict[str, int] | None = None
    """Rows by tenant; None for a table without tenants."""
    forced: bool
    """Whether row-level security is enabled and forced."""
    policies: list[str]


class Manifest(BaseModel):
    """What a backup is, and what a restored one is held against."""

    format: Literal[1] = 1
    name: str
    taken_at: AwareDatetime
    """Of the snapshot: what was committed later is not in it."""
    seconds: float
    service: str
    revision: str
    """The commit of the service that made it."""
    server_version: int
    """PostgreSQL's own number: 180004 is 18.4."""
    dump_version: int
    """The major of pg_dump: pg_restore must not be older."""
    database_bytes: int
    dump_bytes: int
    dump_sha256: str
    stored_bytes: int
    stored_sha256: str
    recipients: list[str]
    heads: list[str]
    problems: list[str]
    """What was wrong with the catalog then: a restore cannot have lost what was not there."""
    tables: dict[str, Table]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    @property
    def tenants(self) -> int:
        return len({tenant for table in self.tables.values() for tenant in table.tenants or {}})


class Body:
    """An object as it arrives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


def new_name(taken_at: datetime) -> str:
    """A name that sorts by time and that no other backup has."""
    return f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(3)}"


class Store:
    """The backups of one service. Every method raises Failure, in a line, for whatever the store has against it."""

    def __init__(self, url: str, *, make: bool = False) -> None:
        self.url = url.rstrip("/")
        with self._explained():
            if url.startswith("file://"):
                # A folder that is not there is a misspelt one, or a disk that is not mounted.
                self._objects: ObjectStore = LocalStore(Path(url.removeprefix("file://")), mkdir=make)
            else:
                plain = environ.get("AWS_ALLOW_HTTP", "").lower() == "true"  # obstore's, which our options would undo
                options: ClientConfig = {**_CLIENT, "allow_http": plain}
                # A bucket with a lock takes nothing without one.
                checksum: S3Config = {"checksum_algorithm": "SHA256"} if url.startswith("s3://") else {}
                self._objects = from_url(self.url, config=checksum, client_options=options, retry_config=_RETRY)

    @classmethod
    def of(cls, settings: "Settings") -> "Store":
        """The store of APP_BACKUP_URL; in development, unless that is set, the folder `.dev/backups`."""
        if settings.backup_url:
            return cls(settings.backup_url)
        if settings.deployed:
            raise ConfigurationRefused(["APP_BACKUP_URL is required: where the backups are"])
        return cls((state_folder() / "backups").as_uri(), make=True)

    def names(self) -> list[str]:
        """The names of all backups, oldest first."""
        return sorted(path.removesuffix(".json") for path in self._paths() if path.endswith(".json"))

    def manifest(self, name: str | None = None) -> Manifest:
        """The manifest of a backup; of the latest one unless named."""
        names = self.names()
        if not names:
            raise Failure(f"there is no backup in {self.url}")
        if name is not None and name not in names:
            raise Failure(f"there is no backup {name} in {self.url}: the latest one is {names[-1]}")
        chosen = name or names[-1]
        with self._explained():
            text = bytes(obstore.get(self._objects, f"{chosen}.json").bytes())
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            raise Failure(f"the manifest of {chosen} is not one that this release can read") from None
        if manifest.name != chosen or manifest.taken_at != _taken_at(chosen):
            raise Failure(f"the manifest of {chosen} is that of another backup, {manifest.name}")
        if manifest.service != PACKAGE:
            raise Failure(f"the backup {chosen} is of {manifest.service}, and not of {PACKAGE}")
        if manifest.taken_at > datetime.now(UTC) + _CLOCKS_DIFFER:
            raise Failure(f"the backup {chosen} says that it was taken in the future: name an earlier one")
        return manifest

    def put_dump(self, name: str, pieces: Iterator[bytes], most_bytes: int) -> None:
        """Store what `pieces` gives. When that raises, what was uploaded is thrown away, and its error is raised."""
        part = max(_PART_BYTES, most_bytes // _MOST_PARTS)
        broken: list[Exception] = []

        def watched() -> Iterator[bytes]:
            try:
                yield from pieces
            except Exception as error:
                broken.append(error)
                raise

        try:
            with self._explained():
                obstore.put(
                    self._objects,
                    f"{name}.dump.age",
                    watched(),
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=_PARTS_AT_ONCE,
                )
        except Failure as failure:
            # Throwing away may fail as well, and that is not why there is no backup.
            raise (broken or [failure])[0] from failure

    @contextmanager
    def open_dump(self, name: str) -> Generator["Body"]:
        """The stored dump, to be read from its start to its end, in memory that does not grow."""
        with self._explained():
            try:
                found = obstore.get(self._objects, f"{name}.dump.age")
            except FileNotFoundError:
                raise Failure(f"the dump of {name} is not in {self.url}, and its manifest is") from None
            yield Body(map(bytes, found.stream(min_chunk_size=_READ_BYTES)))

    def put_text(self, path: str, text: str) -> None:
        """Store a small object, in the place of the one that was there."""
        with self._explained():
            obstore.put(self._objects, path, text.encode())

    def publish(self, folder: str, name: str, values: Mapping[str, float]) -> None:
        """Store gauges in Prometheus' text format beside the backups, and in `folder` for node_exporter, if given.

        A command is over before anyone scrapes it: a textfile collector, or whatever reads the object, keeps the value.
        """
        gauges = _gauges(name, values)
        self.put_text(f"{name}.prom", generate_latest(gauges).decode())
        if folder:
            _write(folder, name, gauges)

    def collect(self, folder: str, name: str) -> None:
        """Write what was published under that name elsewhere into `folder`, if there is something.

        Only the gauges of that name: node_exporter believes what it finds there, and others may write into the store.
        """
        with self._explained():
            try:
                text = bytes(obstore.get(self._objects, f"{name}.prom").bytes()).decode()
            except FileNotFoundError:
                return
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        _write(folder, name, _gauges(name, {each.name: each.value for each in samples if each.name in _METRICS[name]}))

    def put_manifest(self, manifest: Manifest) -> None:
        """Make a backup of a dump that is stored."""
        self.put_text(f"{manifest.name}.json", manifest.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Remove a backup, or what there is of it."""
        with self._explained():
            for path in (f"{name}.json", f"{name}.dump.age"):
                with suppress(FileNotFoundError):
                    obstore.delete(self._objects, path)

    def expire(self, keep: int, keep_days: int) -> list[str]:
        """Remove backups that are older than `keep_days`, but never the newest `keep`; returns which.

        0 days: none. What a killed backup left goes too.
        """
        names, now = self.names(), datetime.now(UTC)
        finished = set(names)
        dumps = {path.removesuffix(".dump.age") for path in self._paths() if path.endswith(".dump.age")}
        gone = [name for name in names[:-keep] if keep_days and now - _taken_at(name) > timedelta(days=keep_days)]
        gone += [name for name in dumps - finished if now - _taken_at(name) > _UNFINISHED]
        for name in gone:
            self.remove(name)
        return gone

    def _paths(self) -> list[str]:
        """The objects of backups, and no others."""
        with self._explained():
            listing = obstore.list(self._objects)  # pyright: ignore[reportUnknownMemberType]  # its other form needs Arrow
            found = [one["path"] for some in listing for one in some]
        return [path for path in found if path.endswith((".json", ".dump.age")) and _is_name(path.partition(".")[0])]

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0].strip()
            raise Failure(f"the backups in {self.url} cannot be reached: {reason}") from error


def _gauges(name: str, values: Mapping[str, float]) -> CollectorRegistry:
    gauges = CollectorRegistry()
    for metric, value in values.items():
        Gauge(metric, _METRICS[name][metric], registry=gauges).set(value)
    return gauges


def _write(folder: str, name: str, gauges: CollectorRegistry) -> None:
    try:
        write_to_textfile(str(Path(folder) / f"chassis_{name}.prom"), gauges)
    except OSError as error:
        raise Failure(f"APP_BACKUP_METRICS: cannot write to {folder}: {error.strerror}") from None


def _is_name(name: str) -> bool:
    try:
        _taken_at(name)
    except ValueError:
        return False
    return True


def _taken_at(name: str) -> datetime:
    return datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
