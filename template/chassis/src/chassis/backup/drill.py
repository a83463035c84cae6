"""`chassis drill`: the proof that the latest backup brings the service back, and how long that takes.

RTO is from nothing to a service that passes its smoke test; RPO is what a loss at this moment would have cost, which is
the age of the backup. Both are metrics afterwards, and every drill, the failed one above all, leaves a report.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import urlsplit, urlunsplit

from psycopg.sql import SQL, Identifier

from chassis import smoke
from chassis.app import load_app
from chassis.backup import restore, streams
from chassis.backup.dump import connected
from chassis.backup.store import Manifest, Store
from chassis.backup.streams import megabytes, tell
from chassis.data import heads, roles
from chassis.dev.postgres import Postgres
from chassis.dev.processes import free_port, get
from chassis.failure import Failure
from chassis.features import PACKAGE, PROJECT
from chassis.settings_reading import variables

if TYPE_CHECKING:
    from chassis.settings import Settings

_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
# The restored rows are real: nothing that is done with them here may reach a person or another system. And the keys of
# a drill are not the service's to know. So of what is set here it gets this, and what it does not start without.
_OF_THE_MACHINE = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


@dataclass
class Step:
    """One part of a drill: how long it took, and what came of it."""

    name: str
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass
class Record:
    """What a drill was like."""

    started: datetime
    steps: list[Step] = field(default_factory=list)
    manifest: Manifest | None = None
    rto_seconds: float = 0.0

    @property
    def rpo_seconds(self) -> float:
        return (self.started - self.manifest.taken_at).total_seconds() if self.manifest else 0.0

    @contextmanager
    def step(self, name: LiteralString) -> Generator[list[str]]:
        """Time the block, and note what it finds and why it failed."""
        step, started = Step(name), time.monotonic()
        self.steps.append(step)
        try:
            yield step.found
        except Exception as error:
            step.problem = str(error) or type(error).__name__
            raise
        finally:
            step.seconds = time.monotonic() - started


def drill(settings: "Settings", server: str | None = None, report: str | None = None) -> int:
    """Restore the latest backup on a scratch server, or on that of the URL `server`, and try the service on it.

    Raises Failure with the first thing that is wrong. Nothing that was started stays.
    """
    record, store = Record(datetime.now(UTC)), Store.of(settings)
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            _rehearse(settings, store, record, server, stack)
            record.rto_seconds = time.monotonic() - started
    except Exception:
        with suppress(Failure):  # what the drill failed of is the reason, and it may be the store
            _keep(record, store, report)
        raise
    _keep(record, store, report)
    assert record.manifest is not None
    store.publish(
        settings.backup_metrics,
        "drill",
        {
            "restore_drill_last_success_timestamp_seconds": record.started.timestamp(),
            "restore_drill_rto_seconds": record.rto_seconds,
            "restore_drill_rpo_seconds": record.rpo_seconds,
        },
    )
    tell(
        "drill passed",
        f"{record.manifest.name} restores. RTO {_duration(record.rto_seconds)}, RPO {_duration(record.rpo_seconds)}. "
        f"The report: {report or f'{store.url}/drill.html'}",
        backup=record.manifest.name,
        rto_seconds=round(record.rto_seconds, 1),
        rpo_seconds=round(record.rpo_seconds, 1),
    )
    return 0


def _keep(record: Record, store: Store, report: str | None) -> None:
    page = render(record)
    if report:
        try:
            Path(report).write_text(page)
        except OSError as error:
            raise Failure(f"cannot write the report to {report}: {error.strerror}") from None
    store.put_text("drill.html", page)


def _rehearse(settings: "Settings", store: Store, record: Record, server: str | None, stack: ExitStack) -> None:
    with record.step("Find the backup") as found:
        key = streams.identity(settings)
        manifest = record.manifest = store.manifest()
        found += [f"{manifest.name}, taken {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC"]
    with record.step("Check what is stored") as found:
        restore.verify(store, manifest, key)
        found += [f"{megabytes(manifest.stored_bytes)}, with the SHA-256 that was written", "the key opens it"]
    with record.step("Make a place for it") as found:
        url = stack.enter_context(_new_database(server or stack.enter_context(_scratch_server())))
        with connected(url, autocommit=True) as connection:
            pg_restore = restore.suitable(settings, connection, manifest)
            found += [f"PostgreSQL {connection.info.server_version // 10_000}, a database of its own"]
    with record.step("Restore") as found:
        login = stack.enter_context(restore.restorer(url))
        restore.load(store, manifest, key, login, pg_restore)
        found += [f"{manifest.rows:,} rows in {len(manifest.tables)} tables"]
    with record.step("Compare with what was backed up") as found:
        checked, known = restore.check(manifest, login)
        found += checked
        if known:
            raise Failure(f"the database was not in order when it was backed up: {'; '.join(known[:3])}")
    with record.step("Start the service") as found:
        service = stack.enter_context(_service(url, heads.state(manifest.heads), passed_on(settings)))
        found += [f"ready at {service}"]
    with record.step("Use it") as found:
        results = smoke.try_out(
            service, load_app().modules, smoke.new_accounts(), signs_up=True, revision=settings.revision
        )
        found += [result.check for result in results if not result.problem]
        red = [f"{result.check}: {result.problem}" for result in results if result.problem]
        if red:
            raise Failure(f"the smoke test is red on the restored service: {'; '.join(red[:3])}")


@contextmanager
def _scratch_server() -> Generator[str]:
    """A PostgreSQL of the wheel, for the length of the block: the URL of its superuser."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        server = Postgres(Path(folder) / "postgres", durable=False)
        try:
            server.start()
        except Failure as error:
            raise Failure(f"{error}; or name a server to use, with --to") from None
        try:
            yield server.dsn("postgres")
        finally:
            server.stop()


@contextmanager
def _new_database(url: str) -> Generator[str]:
    """A new database on the server of `url`, for the length of the block: its URL."""
    name = f"{PACKAGE}_drill_{secrets.token_hex(4)}"
    with connected(url, autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        with connected(url, autocommit=True) as admin:
            admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def passed_on(settings: "Settings") -> dict[str, str]:
    """What the restored service gets of the variables that are set here: its revision, and those without a default."""
    fields = type(settings).model_fields
    required = [variable for variable, field in variables(type(settings)).items() if fields[field].is_required()]
    names = [*_OF_THE_MACHINE, *required, *(f"{variable}_FILE" for variable in required)]
    return {"APP_REVISION": settings.revision} | {name: os.environ[name] for name in names if name in os.environ}


@contextmanager
def _service(url: str, state: heads.State, environment: dict[str, str]) -> Generator[str]:
    """The service on the restored database, migrated to this release and ready, for the length of the block."""
    if state == "behind":
        from chassis.data.migrate import migrate

        migrate(url)
    port, metrics_port = free_port(), free_port()
    with restore.temporary_login(url, roles.APP) as app_url, tempfile.TemporaryFile() as log:
        environment = environment | {
            "APP_ENVIRONMENT": "test",
            "DATABASE_URL": app_url,
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
        }
        command = [sys.executable, "-m", "chassis.cli", "serve"]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while get("127.0.0.1", port, "/readyz")[0] != 200:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    said = (lines or ["nothing"])[-1][:300]
                    raise Failure(f"the service did not become ready on the restored database, and said: {said}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #667080; --paper: #faf9f6; --card: #fff; --line: #e5e2da;
  --good: #1c7a4c; --bad: #b3261e; --bar: #a5cfba }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #9ba4b0; --paper: #14171c; --card: #1c2027;
  --line: #2e343e; --good: #62c998; --bad: #ff8d83; --bar: #2f6d50 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 46rem; margin: 0 auto; padding: 3rem 1.25rem 4rem }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .3rem; font-weight: 650 }
h2 { font-size: 1rem; margin: 0; display: flex; justify-content: space-between; gap: 1rem; font-weight: 600 }
p, ul { margin: 0 } ul { padding-left: 1.15rem; font-size: .93rem }
.soft, h2 span { color: var(--soft); font-weight: 400; font-size: .9rem }
.good { color: var(--good) } .bad { color: var(--bad) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin: 2rem 0 }
.figures div, section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
.figures div { padding: .85rem 1.1rem } .figures b { display: block; font-size: 1.3rem; font-weight: 600 }
section { padding: .85rem 1.1rem; margin-top: .6rem }
.bar { height: 4px; border-radius: 2px; background: var(--bar); margin: .5rem 0 }
section.failed .bar { background: var(--bad) }
"""


def render(record: Record) -> str:
    """The report: one page of HTML that needs nothing else, for light and dark, without a script."""
    failed = any(step.problem for step in record.steps)
    verdict = '<span class="bad">does not restore</span>' if failed else '<span class="good">restores</span>'
    figures = {"Recovery time (RTO)": "not reached" if failed else _duration(record.rto_seconds)}
    name = "The backup"
    if manifest := record.manifest:
        name = f"The backup of {manifest.taken_at:%d %B, %H:%M}"
        figures["Recovery point (RPO)"] = _duration(record.rpo_seconds)
        figures["Rows"] = f"{manifest.rows:,}"
        figures["Tenants"] = f"{manifest.tenants:,}"
        figures["Stored"] = megabytes(manifest.stored_bytes)
    total = max(sum(step.seconds for step in record.steps), 0.001)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Restore drill of {escape(PROJECT)}</title>
<style>{_STYLE}</style>
<main>
<h1>{escape(name)} {verdict}</h1>
<p class="soft">Restore drill of {escape(PROJECT)}, {record.started:%A %d %B %Y, %H:%M} UTC</p>
<div class="figures">
{"".join(f"<div><span class=soft>{label}</span><b>{escape(figure)}</b></div>" for label, figure in figures.items())}
</div>
{"".join(_section(step, step.seconds / total) for step in record.steps)}
</main>
</html>
"""


def _section(step: Step, share: float) -> str:
    found = "".join(f"<li>{escape(one)}</li>" for one in step.found)
    problem = f'<p class="bad">{escape(step.problem)}</p>' if step.problem else ""
    return (
        f"<section{' class=failed' if step.problem else ''}>"
        f"<h2>{escape(step.name)} <span>{_duration(step.seconds)}</span></h2>"
        f'<div class="bar" style="width:{max(share * 100, 0.5):.1f}%"></div><ul>{found}</ul>{problem}</section>\n'
    )
