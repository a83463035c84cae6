"""deploy.sh, from the first deployment on: real replicas behind the real gateway, under load.

`make rehearse` runs it; it takes too long for `make test`.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from gateway import DEPLOY, answer, get
from host import (
    CLIENTS,
    RATE,
    SMOKE,
    SMOKE_PASSWORD,
    Customer,
    Host,
    host,
    image_of,
    load,
    order,
    postgres,
    sign_in,
    sql,
    under,
    variables,
)

from chassis.app import load_app
from chassis.cli import main
from chassis.dev.postgres import Postgres

__all__ = ["host", "postgres", "variables"]  # fixtures

ROLLS = int(os.environ.get("ROLLS", "2"))
"""How often the replicas are replaced under load."""
BAD = {
    "does-not-boot": ("from chassis import server\n\nserver.run = None", "TypeError"),
    "fails-smoke": (
        """
from uuid import UUID
from chassis.http import exchange

somebody = exchange.Principal(UUID(int=1), UUID(int=1), "owner", frozenset())
exchange.check = lambda found, permission: found or somebody
""",
        "red authentication: GET",
    ),
    "answers-500": (
        """
from chassis.observe.health import PROBES

class Failing(type(service)):
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

service.__class__ = Failing
""",
        "red version: GET /version: 500, and not 200",
    ),
    "is-another": (
        """
configure = service.configure
service.configure = lambda settings: configure(settings.model_copy(update={"revision": "another"}))
""",
        "red version: revision another runs, and not is-another",
    ),
}
"""Releases that must not get a request, and what is said of them."""

# What the smoke test may leave: that somebody signed in and out, and which tokens must not be believed any more.
RECORDS = "audit|idempotency_keys|revocations|sessions|signing_keys|api_keys"


def rows(postgres: Postgres) -> dict[str, list[tuple[object, ...]]]:
    """How many rows each table has, and how many keys and sessions are still good."""
    tables = sql(
        postgres,
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'chassis') "
        f"and tablename !~ '^({RECORDS}|alembic_version)$'",
    )
    counts = {name: sql(postgres, f"select count(*) from {name}") for (name,) in tables}
    good = [f"chassis.{name} where revoked_at is null" for name in ("api_keys", "sessions")]
    return counts | {name: sql(postgres, f"select count(*) from {name}") for name in good}


def test_the_first_deployment_makes_the_accounts_of_the_smoke_test(host: Host, postgres: Postgres) -> None:
    found = sql(postgres, "select email, verified_at is not null from chassis.accounts order by email")
    assert found == [(email, True) for email in SMOKE]
    assert rows(postgres)["chassis.sessions where revoked_at is null"] == [(0,)]


def test_replicas_are_replaced_under_load_and_no_request_fails(host: Host, postgres: Postgres) -> None:
    before = rows(postgres)
    begun = time.monotonic()
    with load(host) as answers:
        for number in range(ROLLS):
            image = host.release(f"release-{number}")
            said = host.deploy(image)
            assert f"{image} serves alone" in said
            assert said.count("ok  isolation") == 2, "each replica has passed the smoke test"
    seconds = time.monotonic() - begun
    print(f"\n{ROLLS} deployments under {answers.total() / seconds:.0f} requests a second: {dict(answers)}")
    assert answers.keys() == {"good"}
    assert answers.total() > RATE * seconds / 2, "this machine cannot ask so often"
    assert host.serving() == {f"release-{ROLLS - 1}": 20}
    assert len(host.replicas()) == 2
    assert rows(postgres) == before, "smoke tests leave nothing behind"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_release_never_gets_a_request(host: Host, name: str) -> None:
    good, replicas = host.serving(), host.replicas()
    code, reason = BAD[name]
    with load(host) as answers:
        image = host.release(name, code)
        said = host.deploy(image, code=1)
    assert f"{image} failed in place" in said
    assert reason in said
    found = re.search(r"(\S+) serves alone again, after (\d+\.\d) s", said)
    assert found
    print(f"\n{name}: {found[1]} serves alone again after {found[2]} s; meanwhile {dict(answers)}")
    assert answers.keys() == {"good"}
    assert host.replicas() == replicas, "those that served were not touched"
    assert host.serving() == good


def test_a_migration_that_fails_touches_no_replica(host: Host) -> None:
    good, replicas = host.serving(), host.replicas()
    said = host.deploy(host.release("cannot-migrate", migration="select 1 / 0"), code=1)
    assert "the migration failed: no replica was touched" in said
    assert (host.serving(), host.replicas()) == (good, replicas)


def test_without_accounts_for_the_smoke_test_no_replica_is_touched(host: Host, postgres: Postgres) -> None:
    replicas = host.replicas()
    secret = host.state / "secrets" / "app_smoke_password"
    secret.write_text("another one than the accounts have")
    try:
        said = host.deploy(host.release("no-accounts"), code=1)
    finally:
        secret.write_text(SMOKE_PASSWORD)
    assert "the smoke test has no accounts: no replica was touched" in said
    assert host.replicas() == replicas


def test_what_two_hosts_do_not_share_is_named(
    host: Host, variables: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"APP_ENVIRONMENT": "development", "APP_CORS_ORIGINS": "https://app.example.com"}
    hosts = {"test": host, "development": Host(tmp_path / "other", variables | more)}
    files = [str(tmp_path / name) for name in hosts]
    for file, (name, each) in zip(files, hosts.items(), strict=True):
        Path(file).write_text(each.run("parity", each.release("compared"), environment=name).stdout)
    assert main(["parity", *files]) == 1
    assert capsys.readouterr().out.splitlines() == ["development sets APP_CORS_ORIGINS and test does not"]
    assert main(["parity", files[0], files[0]]) == 0


def test_back_is_the_release_before_also_on_a_newer_schema(host: Host, postgres: Postgres) -> None:
    before = host.serving()
    migration = "alter table chassis.accounts add column rehearsed boolean not null default true"
    with load(host) as answers:
        host.deploy(host.release("regretted", migration=migration))
        assert host.serving() == {"regretted": 20}
        host.deploy("back")
    assert host.serving() == before
    assert {True} == {rehearsed for (rehearsed,) in sql(postgres, "select rehearsed from chassis.accounts")}
    print(f"\na migration, and the release of before on what it left: {dict(answers)}")
    assert answers.keys() == {"good"}


def test_a_release_that_goes_back_has_its_own_variables_again(host: Host, tmp_path: Path) -> None:
    """A service refuses a variable that it does not know, and what a newer one reads is such a variable."""
    knows_more = """
class More(service.settings_class):
    greeting: str

service.settings_class = More
"""
    second_replica_fails = """
from pathlib import Path
from chassis import server

def run(*arguments, really=server.run):
    Path("started").touch(exist_ok=False)
    really(*arguments)

server.run = run
"""
    before, in_force = host.serving(), host.state.parent / "variables.env"
    newer = tmp_path / "deploy"
    shutil.copytree(DEPLOY, newer)
    with (newer / "variables.env").open("a") as variables:
        variables.write("APP_GREETING=hello\n")
    host.checkout = newer
    try:
        with load(host) as answers:
            said = host.deploy(host.release("fails-in-the-middle", knows_more + second_replica_fails), code=1)
            assert "serves in place" in said
            assert "serves alone again" in said
            host.deploy(
                host.release("fails-at-once", knows_more + "from chassis import server\nserver.run = None"), code=1
            )
            assert "APP_GREETING" not in in_force.read_text(), "for what restarts by itself"
            assert host.serving() == before
            host.deploy(host.release("knows-more", knows_more))
            assert host.serving() == {"knows-more": 20}
            host.deploy("back")
    finally:
        host.checkout = DEPLOY
    assert host.serving() == before
    assert answers.keys() == {"good"}
    assert "APP_GREETING" not in in_force.read_text()
    assert len(list((host.state / "variables").iterdir())) == 2, "of the two that `back` goes between"


def test_two_deployments_at_once_are_one(host: Host) -> None:
    with (host.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = (host.state.parent / "compose.yaml").stat()
        assert "another deployment is under way" in host.deploy(image_of("first"), code=1)
        assert (host.state.parent / "compose.yaml").stat() == before, "it is what the other one works with"


def test_looking_after_a_host_waits_for_no_deployment(host: Host) -> None:
    with (host.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = (host.state.parent / "compose.yaml").stat()
        assert re.search(r"^app-[123] \d+$", host.run("compose", "ps", "--all").stdout, re.MULTILINE)
        assert '"APP_SMOKE_EMAILS"' in host.run("run", "migrate", "chassis", "parity").stdout
        assert (host.state.parent / "compose.yaml").stat() == before, "it is not copied there"


def test_the_host_of_another_environment_is_refused(variables: dict[str, str], tmp_path: Path) -> None:
    host = Host(tmp_path, variables)
    refused = host.run(image_of("first"), code=1, environment="staging").stderr
    assert refused == "deploy: this host is that of test, and not of staging: each has a machine of its own\n"
    assert [path.name for path in host.state.parent.iterdir()] == ["host"]
    own = host.state / "host.env"
    own.write_text(own.read_text().replace("APP_ENVIRONMENT=", "# "))  # so that variables.env says it, once it is there
    for _ in range(2):
        assert "that of production, and not of staging" in host.run("back", code=1, environment="staging").stderr
    assert host.run("again", code=1, environment="production").stderr == "deploy: no release serves here yet\n"


LACKS = {
    "version *": (
        "echo 'Cannot connect to the daemon' >&2; exit 1",
        "Docker does not answer: Cannot connect to the daemon",
    ),
    "version --format*": ("echo 26.1.5", "Docker Engine 27 or later is needed, and this is 26.1.5"),
    "compose *": ("exit 1", "Docker has no Compose plugin here"),
    "compose version*": ("echo v2.16.0", "Docker's Compose plugin has to be 2.17 or later, and this is v2.16.0"),
}
"""What docker says on a host that is not fit, and what is said of that."""


@pytest.mark.parametrize("command", LACKS)
def test_nothing_is_copied_to_a_host_that_lacks_something(
    variables: dict[str, str], tmp_path: Path, command: str
) -> None:
    host, docker = Host(tmp_path, variables), tmp_path / "bin" / "docker"
    does, reason = LACKS[command]
    docker.write_text(
        docker.read_text().replace("exec", f'case "$*" in {command.replace(" ", "?")}) {does}; exit;; esac\nexec')
    )
    assert host.deploy(image_of("first"), code=1) == f"deploy: {reason}\n"
    assert [path.name for path in host.state.parent.iterdir()] == ["host"]


@pytest.mark.parametrize(
    "command", ["bakc", "image:1.0", "name@sha256:abc", f"-x@sha256:{'0' * 64}", "parity", "run", "compose"]
)
def test_what_is_neither_a_command_nor_an_image_with_its_digest_is_refused(
    variables: dict[str, str], tmp_path: Path, command: str
) -> None:
    host = Host(tmp_path, variables)
    assert host.deploy(command, code=2).startswith("usage: deploy/deploy.sh [--on user@host] IMAGE")
    assert host.run("parity", command, code=2).stdout == ""
    assert [path.name for path in host.state.parent.iterdir()] == ["host"]


def test_a_gateway_that_does_not_start_is_no_deployment(
    postgres: Postgres, variables: dict[str, str], tmp_path: Path
) -> None:
    del postgres
    host = Host(tmp_path, variables)
    with socket.create_server(("127.0.0.1", host.port)):
        try:
            said = host.deploy(host.release("first"), code=1)
        finally:
            host.stop()
    assert "[emerg]" in said, "nginx says why"
    assert said.endswith("deploy: the gateway does not start\n")


def test_nobody_else_on_the_host_leaves_metrics_there(host: Host) -> None:
    metrics = host.state / "metrics"
    assert metrics.stat().st_mode & 0o7777 == 0o755
    assert metrics.stat().st_uid == (10001 if os.geteuid() == 0 else os.geteuid())
    metrics.chmod(0o1777)  # as an earlier release left it
    host.deploy(host.release("another"))
    assert metrics.stat().st_mode & 0o7777 == 0o755


def kill(postgres: Postgres) -> None:
    """Have the server and all of its processes end where they are."""
    (server,) = map(int, (postgres.directory / "data" / "postmaster.pid").read_text().splitlines()[:1])
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for pid in (server, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5  # a busy machine takes its time to end them
    while postgres.running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def seconds_until_served(address: str, token: str, begun: float) -> float:
    """How long after `begun` a replica first reads from the database again."""
    while time.monotonic() < begun + 30:
        with socket.create_connection((address, 8000), 20) as connection:
            if answer(connection, get("/v1/orders", f"Authorization: Bearer {token}")).status == 200:
                return time.monotonic() - begun
        time.sleep(0.02)
    raise AssertionError(f"{address} does not recover")


@pytest.mark.skipif(
    not {"orders", "webhooks"} <= {module.name for module in load_app().modules},
    reason="this service has no orders any more: put a write of its own in their place",
)
def test_the_database_is_killed_under_load_and_comes_back(host: Host, postgres: Postgres) -> None:
    replicas, token, until = host.replicas(), sign_in(host), threading.Event()
    customers = [Customer(host, until, token) for _ in range(CLIENTS)]
    with under(customers, until):
        time.sleep(3)
        kill(postgres)
        time.sleep(4)
        postgres.start()
        begun = time.monotonic()
        with ThreadPoolExecutor() as threads:
            recovering = [threads.submit(seconds_until_served, address, token, begun) for address in replicas]
        recovered = max(each.result() for each in recovering)
        time.sleep(3)
    answers = sum((customer.answers for customer in customers), Counter[str]())
    slowest = max(customer.slowest for customer in customers)
    print(f"\nthe database was killed under {dict(answers)}; the slowest took {slowest:.1f} s")
    print(f"both replicas served again {recovered:.2f} s after the database took connections")
    assert answers.keys() - {"503 overloaded"} == {"200", "201", "503 database_unavailable"}
    assert slowest < 10, "APP_REQUEST_TIMEOUT_SECONDS"
    assert recovered < 5
    assert host.replicas() == replicas, "no process was started again"

    whole = """
        select o.reference, o.id::text, (select count(*) from order_items i where i.order_id = o.id),
               (select count(*) from webhook_events e where e.payload ->> 'order_id' = o.id::text)
        from orders o where o.reference like 'rehearsed-%'
    """
    placed = [each for customer in customers for each in customer.orders]
    found = sql(postgres, whole)
    assert {tuple(counts) for _, _, *counts in found} == {(3, 1)}, "an order has all of its items and its event"
    kept = {reference: made for reference, made, *_ in found}
    assert len(kept) == len(found)
    told = {each.reference: each.id for each in placed if each.id}
    assert told.items() <= kept.items(), "what was said to be there is"
    untold = [each.reference for each in placed if not each.id]
    print(f"{len(told)} orders had an answer; of {len(untold)} that had none {len(kept) - len(told)} were kept")
    for reference in (*untold, *list(told)[:10]):
        again = host.ask(order(reference, token))
        assert again.status == 201
        assert json.loads(again.body)["id"] == kept.get(reference, json.loads(again.body)["id"])
    assert sorted(reference for reference, *_ in sql(postgres, whole)) == sorted(each.reference for each in placed)


DRILL = """\
# HELP restore_drill_last_success_timestamp_seconds When a backup was last proved to restore.
# TYPE restore_drill_last_success_timestamp_seconds gauge
restore_drill_last_success_timestamp_seconds 1.7e+09
"""


def test_backups_are_made_a_day_after_the_last_one_that_worked(
    host: Host, variables: dict[str, str], tmp_path: Path
) -> None:
    compose = (DEPLOY / "compose.yaml").read_text()
    (loop,) = re.findall(r"(?m)^ +- (while .*; done)$", compose)
    (healthy,) = re.findall(r"(?m)^ +test: \[CMD-SHELL, (find .*)\]$", compose)
    metrics, kept = host.state / "metrics", tmp_path / "backups"
    made = metrics / "chassis_backup.prom"
    loop, healthy = (text.replace("/metrics", str(metrics)) for text in (loop, healthy))
    environment = variables | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "APP_BACKUP_URL": f"file://{kept}",
        "APP_BACKUP_METRICS": str(metrics),
        "APP_BACKUP_RECIPIENTS": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
    }

    def backups() -> int:
        return len(list(kept.glob("*.dump.age")))

    def turn(**more: str) -> str:
        """Start the loop, as after a restart of the host, and end it when it waits; returns what it said."""
        command = ["sh", "-c", loop.replace("sleep 3600", "exit")]
        ended = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False, timeout=60)
        return ended.stdout + ended.stderr

    def is_healthy() -> bool:
        return subprocess.run(["sh", "-c", healthy], stdout=subprocess.DEVNULL, check=False).returncode == 0

    def age(hours: float) -> None:
        then = time.time() - hours * 3600
        os.utime(made, (then, then))

    kept.mkdir()
    assert not is_healthy()
    assert "cannot be reached" not in turn(), "before the first drill the store has nothing of one"
    assert (backups(), is_healthy()) == (1, True)
    assert not (metrics / "chassis_drill.prom").exists()
    (kept / "drill.prom").write_text(f"{DRILL}backup_last_success_timestamp_seconds 9e+09\n")
    age(23)
    turn()
    assert backups() == 1, "a restart makes no backup more"
    age(24.5)
    assert "refused" in turn(BACKUP_DATABASE_URL="postgresql://nobody:nothing@127.0.0.1:1/nowhere")
    assert (backups(), is_healthy()) == (1, True)
    age(26)
    assert not is_healthy(), "it shows"
    turn()
    assert (backups(), is_healthy()) == (2, True), "the next one is tried all the same"
    found = (metrics / "chassis_drill.prom").read_text()
    assert found == DRILL, "what the drill left there, and nothing that others could put beside it"
