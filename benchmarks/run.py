"""Measure a rendered service against its budgets: `make benchmark`.

The server has one processor and wrk with 32 connections another; PostgreSQL runs where it finds room. Rounds take
turns, ratios are medians of theirs, and a bare application is the faster of two ways to write it. Server CPU is the
processor time of the server's process divided by its requests, least and median of the rounds: the steadiest figure.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import rendering
import report
from load import Comparison, Failed, Load, Server, check_machine, compare
from report import Budget
from service import APPS, LAST_HELLO, Database, Service

HELLO = Budget("authenticated request without database, 60 routes, to bare hello", 0.75, 1.0, at_least=True)
PAGE = Budget("page of 20 rows, authenticated, row-level security, to bare asyncpg", 0.60, 0.85, at_least=True)
INSERT = Budget("insert, idempotent, authenticated, row-level security, to bare asyncpg", 0.60, 0.85, at_least=True)
MEMORY = Budget("memory of one worker after load (RSS)", 90, 70, "MB")
READY = Budget("import to ready", 1.0, 0.5, "s")
COPY = Budget("CPU of `copier copy`, to that of an empty template", 1.8, 1.5)
FILES = Budget("files in a default render", 160, 120)
HOOK = Budget("the hook", 0.5, 0.25, "s")
UPDATE = Budget("CPU of `copier update`, to that of a copy", 3.0, 2.4)
DEV = Budget("`make dev` in a fresh render to the first 200, wheels cached", 15, 6, "s")

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make benchmark", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a second: does it run, not how fast")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} beside printing it")
    options = parser.parse_args()
    rounds, seconds = (1, 1) if options.quick else (5, 3)
    check_machine()
    with tempfile.TemporaryDirectory(prefix="chassis-benchmark-") as folder, ExitStack() as stack:
        text = measure(Path(folder), stack, rounds, seconds)
    print(text)
    if options.write:
        RESULTS.write_text(f"# Measured\n\n{text}\n")


def measure(folder: Path, stack: ExitStack, rounds: int, seconds: int) -> str:
    """Everything, in one run; returns it as Markdown."""
    templates = rendering.Templates(folder)
    copies, updates, rendered = measure_copier(templates, rounds)
    hook = [rendering.hook_seconds(rendered) for _ in range(rounds)]
    files = rendering.files_in(rendered)
    progress("installing the rendered service, filling its database")
    service = Service(rendered, folder)
    database = stack.enter_context(service.database())
    machine = report.machine(service.python, database.version)
    hello = measure_hello(service, database, rounds, seconds)
    page, insert, memory = measure_orders(service, database, rounds, seconds)
    progress("single checks")
    checks = service.checks(database, rounds)
    progress("starting it")
    starts = [measure_start(service, database) for _ in range(rounds)]
    stack.close()
    progress("make dev in a fresh render")
    fresh, _ = templates.copy(templates.ours, "fresh")
    dev = rendering.dev_seconds(fresh, folder / "dev.log")
    rows = [
        report.compared(HELLO, hello),
        report.compared(PAGE, page),
        report.compared(INSERT, insert),
        report.row(MEMORY, [memory]),
        report.row(
            READY, [wall for wall, _ in starts], processor=(f"{min(cpu for _, cpu in starts):.2f} s in all", "")
        ),
        report.row(COPY, copies),
        report.row(FILES, [files]),
        report.row(HOOK, hook),
        report.row(UPDATE, updates),
        report.row(DEV, [dev]),
    ]
    applications = [line for comparison in (hello, page, insert) for line in report.details(comparison)]
    method = f"Medians of {rounds} rounds of {seconds} s that took turns; server CPU: least · median of the rounds."
    tables = (report.budget_table(rows), report.details_table(applications), report.checks_table(checks))
    return "\n\n".join((*tables, method, machine))


def measure_copier(templates: rendering.Templates, rounds: int) -> tuple[list[float], list[float], Path]:
    """CPU of copies to copies of an empty template, of updates to copies, and a render."""
    progress("copying and updating")
    base, _ = templates.copy(templates.ours, "base", "v1.0.0")
    rendering.start_history(base)
    copies: list[float] = []
    updates: list[float] = []
    rendered = base
    for number in range(rounds):
        _, empty = templates.copy(templates.empty, f"empty-{number}", "v1.0.0")
        rendered, copy = templates.copy(templates.ours, f"rendered-{number}")
        update = templates.update(base, f"updated-{number}")
        copies.append(copy / empty)
        updates.append(update / copy)
    return copies, updates, rendered


def measure_hello(service: Service, database: Database, rounds: int, seconds: int) -> Comparison:
    """A request without a database, in a service with many routes, against one in a bare application with one."""
    progress("a request without a database")
    with ExitStack() as servers:
        ours, url = service.serve(database, modules=service.with_many_modules())
        servers.callback(ours.close)
        loads = [Load("hello: the service", ours, url + LAST_HELLO, service.principal(database))]
        for name, idiom in (("hello_model", "a model"), ("hello_dict", "a dict")):
            server, url = service.bare(name, database, "/hello")
            servers.callback(server.close)
            loads.append(Load(f"hello: bare, returns {idiom}", server, url))
        return compare(loads[0], loads[1:], rounds, seconds)


def measure_orders(
    service: Service, database: Database, rounds: int, seconds: int
) -> tuple[Comparison, Comparison, float]:
    """A page, an insert, and the memory of the worker after both, in megabytes."""
    progress("a page of 20 rows")
    with ExitStack() as servers:
        ours, origin = service.serve(database)
        servers.callback(ours.close)

        def bare(name: str) -> tuple[Server, str]:
            server, url = service.bare(name, database, "/orders")
            servers.callback(server.close)
            return server, url

        page = Load("page: the service", ours, f"{origin}/v1/orders?limit=20", service.principal(database))
        others = [
            Load("page: bare, response model", *bare("page_model")),
            Load("page: bare, plain dict", *bare("page_dict")),
        ]
        check_same(page, others)
        pages = compare(page, others, rounds, seconds)
        progress("an insert")
        script = APPS / "insert.lua"
        insert = Load("insert: the service", ours, f"{origin}/v1/orders", service.principal(database), script)
        others = [
            Load("insert: bare, one statement", *bare("insert_statement"), script=script),
            Load("insert: bare, a transaction", *bare("insert_transaction"), script=script),
        ]
        inserts = compare(insert, others, rounds, seconds)
        return pages, inserts, ours.megabytes()


def check_same(ours: Load, others: Sequence[Load]) -> None:
    """All of them must answer with the same rows and fields, or the comparison is none."""

    def rows(load: Load) -> list[tuple[str, set[str]]]:
        return [(item["id"], set(item)) for item in json.loads(load.answer())["items"]]

    expected = rows(ours)
    for other in others:
        if len(expected) != 20 or rows(other) != expected:
            raise Failed(f"{other.name} answers with other rows than {ours.name}")


def measure_start(service: Service, database: Database) -> tuple[float, float]:
    """Seconds from the start of the process until it is ready: by the clock, and of processor time."""
    server, _ = service.serve(database)
    server.close()
    return server.seconds_to_ready, server.cpu_seconds_to_ready


def progress(text: str) -> None:
    print(f"Measuring: {text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, OSError) as problem:
        sys.exit(f"chassis: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
