"""The command: exit codes, one clear line where something is wrong, what `chassis config` and docs/security.md say."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from chassis.cli import main
from chassis.config_report import Row, report
from chassis.config_report import main as print_report
from chassis.data import heads, roles
from chassis.dev.postgres import POSTGRES_MAJOR
from chassis.features import FEATURES
from chassis.settings import EX_CONFIG, Settings
from chassis.settings_reading import variables
from chassis.testing import RunningServer, TestDatabase

Chassis = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def chassis(tmp_path: Path) -> Chassis:
    """`chassis("migrate", DATABASE_URL="…")` runs the command in a process, with no other variables of ours."""

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "chassis.cli", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a service that has the migrations of this one, and no development database."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    for file in heads.service_revisions().glob("*.py"):
        (versions / file.name).write_bytes(file.read_bytes())
    return tmp_path


def problems(run: "subprocess.CompletedProcess[str]") -> list[str]:
    """The lines on stderr, all of which must be ours."""
    lines = run.stderr.splitlines()
    assert lines
    assert all(line.startswith("chassis: ") for line in lines), run.stderr
    return lines


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["migration"], ["migration", "new"], ["serve", "--port", "1"], ["parity", "a"]],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: chassis" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_refused_configuration_is_78_with_every_problem(chassis: Chassis, command: str) -> None:
    run = chassis(command, APP_ENVIRONMENT="production", APP_LGO_LEVEL="info", PORT="http")
    assert run.returncode == 78
    assert run.stdout == ""
    for variable in ("APP_LGO_LEVEL", "APP_SECRET_KEY", "DATABASE_URL", "PORT"):
        assert any(f"chassis: {variable} " in line for line in problems(run)), run.stderr


def test_without_a_database_it_says_how_to_get_one(chassis: Chassis, folder: Path) -> None:
    run = chassis("serve", cwd=folder)
    assert run.returncode == 1
    assert len(problems(run)) == 1
    assert "DATABASE_URL is not set" in run.stderr
    assert "make dev" in run.stderr


def test_to_migrate_the_app_role_is_not_enough(chassis: Chassis, database: TestDatabase) -> None:
    run = chassis("migrate", DATABASE_URL=database.app)
    assert run.returncode == 78
    assert problems(run) == ["chassis: MIGRATOR_DATABASE_URL is required to migrate: the app role cannot"]


def test_migrating_logs_json_and_no_secret(chassis: Chassis, folder: Path, empty_database: TestDatabase) -> None:
    run = chassis("migrate", cwd=folder, MIGRATOR_DATABASE_URL=empty_database.superuser)
    assert (run.returncode, run.stderr) == (0, "")
    events = [json.loads(line)["event"] for line in run.stdout.splitlines()]
    assert any("chassis_0001" in event for event in events)
    assert events[-1] == "the database is up to date"
    assert empty_database.superuser.split(":")[2].split("@")[0] not in run.stdout


def test_a_database_that_is_down_is_one_line(chassis: Chassis, folder: Path) -> None:
    run = chassis("migrate", cwd=folder, MIGRATOR_DATABASE_URL="postgresql://someone:s3cret@127.0.0.1:1/nothing")
    assert run.returncode == 1
    assert len(problems(run)) == 1
    assert "refused" in run.stderr
    assert "s3cret" not in run.stderr


def test_a_bug_is_one_line_and_a_traceback_only_for_those_who_ask(
    chassis: Chassis, folder: Path, empty_database: TestDatabase
) -> None:
    (folder / "migrations" / "versions" / "broken.py").write_text("x = 1\ndef\n")
    run = chassis("migrate", cwd=folder, MIGRATOR_DATABASE_URL=empty_database.superuser)
    assert run.returncode == 1
    assert len(problems(run)) == 1
    assert "SyntaxError" in run.stderr
    assert "broken.py" in run.stderr
    run = chassis("migrate", cwd=folder, MIGRATOR_DATABASE_URL=empty_database.superuser, APP_LOG_LEVEL="debug")
    assert run.returncode == 1
    assert "Traceback" in run.stderr


def test_the_configuration_can_be_judged_for_another_environment(chassis: Chassis) -> None:
    assert chassis("config").returncode == 0
    assert chassis("config", "--env", "production").returncode == 78


def test_the_configuration_can_be_judged_by_what_a_file_sets_and_nothing_else(chassis: Chassis, tmp_path: Path) -> None:
    (tmp_path / "its.env").write_text("# one\n\nAPP_ENVIRONMENT=production\nAPP_ALLOWED_HOSTS=api.shop.test\n")
    said = chassis("config", "--env-file", "its.env", APP_SECRET_KEY="x", APP_UNKNOWN="y").stderr
    assert "APP_SECRET_KEY is required" in said
    assert not any(name in said for name in ("APP_UNKNOWN", "APP_ALLOWED_HOSTS"))
    (tmp_path / "its.env").write_text("APP_ENVIRONMENT\n")
    run = chassis("config", "--env-file", "its.env")
    assert (run.returncode, run.stderr.splitlines()[-1].endswith("its.env has a line that is not NAME=value")) == (
        2,
        True,
    )
    assert chassis("config", "--env-file", "none.env").returncode == 2


def test_what_is_yours_to_say_in_production_has_no_value_that_would_do(chassis: Chassis) -> None:
    """Nobody goes live with somebody else's address because nobody asked."""
    file = Path(__file__).parents[2] / "deploy" / "variables.env"
    *found, verdict = chassis("config", "--env-file", str(file)).stderr.splitlines()
    assert verdict == "This configuration is refused."
    assert {line.split()[0] for line in found if "_FILE" not in line} == {
        *("APP_ALLOWED_HOSTS", "APP_PUBLIC_URL", "APP_MAIL_FROM")
    }


def test_a_reader_that_leaves_early_is_no_error_worth_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "chassis.cli", "config"], env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""


def test_a_new_migration_prints_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["migration", "new", "add invoices"]) == 0
    assert (folder / capsys.readouterr().out.strip()).is_file()


def test_the_migrations_of_this_service_may_run_on_a_database_in_use() -> None:
    assert main(["migration", "lint"]) == 0


def test_serve_ends_well_when_told_to(server: RunningServer) -> None:
    assert server.stop() == 0
    assert {line["service"] for line in server.logs()}


KEY = "qK3vZ9xT1mB7rW5yN8pL2sD4fG6hJ0aC"
URL = "postgresql://shop_app:vT4kQ9zLx2WmR7@127.0.0.1/shop"


def test_every_variable_has_a_row_with_its_source_and_what_may_be_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    environ = {
        "APP_SECRET_KEY_FILE": str(file),
        "DATABASE_URL": URL,
        "PORT": "9000",
        "APP_CORS_ORIGINS": "http://a.test",
    }
    rows, problems = report(Settings, environ)
    assert problems == []
    assert [row.variable for row in rows] == list(variables(Settings))
    assert {
        Row("APP_ENVIRONMENT", "default", "development"),
        Row("APP_HOST", "default", "127.0.0.1"),
        Row("PORT", "environment", "9000"),
        Row("METRICS_PORT", "default", "9001"),
        Row("DATABASE_URL", "environment", "[redacted]"),
        Row("MIGRATOR_DATABASE_URL", "default", "-"),
        Row("APP_SECRET_KEY", "file", "[redacted]"),
        Row("APP_ALLOWED_HOSTS", "default", "localhost,127.0.0.1,[::1]"),
        Row("APP_CORS_ORIGINS", "environment", "http://a.test"),
        Row("APP_REQUEST_TIMEOUT_SECONDS", "default", "10"),
        Row("APP_DOCS", "default", "true"),
    } <= set(rows)


def test_a_configuration_that_boots_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_report(Settings, {"APP_SECRET_KEY": KEY}) == 0
    out, err = capsys.readouterr()
    assert out.endswith("This configuration is accepted.\n")
    assert err == ""
    assert KEY not in out


def test_the_verdict_of_production_can_be_had_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"DATABASE_URL": URL, "APP_DOCS": "hunter2", "APP_SECRT_KEY": KEY}
    assert print_report(Settings, environ, environment="production") == EX_CONFIG == 78
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "APP_SECRET_KEY is required in staging and production",
        "APP_ALLOWED_HOSTS is required in staging and production",
        "APP_PUBLIC_URL is required in staging and production",
        "APP_SMTP_URL is required in staging and production: people verify their addresses by mail",
        "APP_MAIL_FROM is required in staging and production",
        "APP_SECURITY_CONTACT is required in staging and production: /.well-known/security.txt says it",
        *(["APP_VALKEY_URL is required in staging and production"] if "valkey" in FEATURES else []),
        "APP_DOCS must be a valid boolean",
        "APP_SECRT_KEY is not a variable of this service: did you mean APP_SECRET_KEY?",
        "This configuration is refused.",
    ]
    assert len(out.splitlines()) == len(variables(Settings))
    for secret in (KEY, "vT4kQ9zLx2WmR7", "hunter2"):
        assert secret not in out + err


def one_environment(chassis: Chassis, database: TestDatabase, file: Path, **more: str) -> str:
    """What `chassis parity` prints with these variables; also in that file."""
    environment = {"DATABASE_URL": database.app, "MIGRATOR_DATABASE_URL": database.superuser} | more
    run = chassis("parity", cwd=Path.cwd(), **environment)
    assert (run.returncode, run.stderr) == (0, "")
    file.write_text(run.stdout)
    return run.stdout


def test_what_environments_share_is_named_and_never_a_value(
    chassis: Chassis, database: TestDatabase, tmp_path: Path
) -> None:
    zone = {"TZ": "UTC", "LC_ALL": "C.UTF-8"}
    printed = one_environment(chassis, database, tmp_path / "a", APP_SECRET_KEY=KEY, APP_CORS_ORIGINS="", **zone)
    shown = json.loads(printed)
    assert shown["environment"] == "development"
    assert shown["variables"] == ["APP_SECRET_KEY", "DATABASE_URL", "LC_ALL", "MIGRATOR_DATABASE_URL", "TZ"]
    assert KEY not in printed
    assert "postgresql://" not in printed
    versions = shown["versions"]
    assert versions["Python"] == platform.python_version()
    assert versions["operating system"]
    assert versions["time zone"] == versions["PostgreSQL time zone"] == "UTC"
    assert re.fullmatch(rf"{POSTGRES_MAJOR}\.\d+", versions["PostgreSQL"])
    assert versions["PostgreSQL extension plpgsql"]
    assert versions["PostgreSQL encoding"] == "UTF8"
    assert versions["PostgreSQL locale"] == "builtin C C C.UTF-8 1"
    assert versions["migrations"]
    assert "migrations of another release" not in versions


def test_migrations_that_are_still_to_come_are_no_difference_but_unknown_ones_are(
    chassis: Chassis, database: TestDatabase, empty_database: TestDatabase, tmp_path: Path
) -> None:
    files = one, other = tmp_path / "one", tmp_path / "other"
    one_environment(chassis, database, one, APP_ENVIRONMENT="test")
    before_any = {"DATABASE_URL": empty_database.app.replace(roles.APP, "not_there_yet")}
    one_environment(chassis, empty_database, other, APP_ENVIRONMENT="development", **before_any)
    assert main(["parity", *map(str, files)]) == 0
    with psycopg.connect(database.superuser) as connection:
        connection.execute("insert into chassis.alembic_version values ('of_tomorrow')")
    one_environment(chassis, database, one, APP_ENVIRONMENT="test", APP_DOCS="true")
    run = chassis("parity", *map(str, files))
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        "test sets APP_DOCS and development does not",
        "migrations of another release: test has of_tomorrow and development has none",
    ]
    assert problems(run) == ["chassis: 2 differences between test and development"]


@pytest.mark.skipif("valkey" not in FEATURES, reason="this service has no Valkey")
def test_the_version_of_valkey_is_shared_too(
    chassis: Chassis, database: TestDatabase, valkey_url: str, tmp_path: Path
) -> None:
    printed = one_environment(chassis, database, tmp_path / "a", APP_VALKEY_URL=valkey_url)
    assert re.fullmatch(r"\d+\.\d+\.\d+", json.loads(printed)["versions"]["Valkey"])
    down = chassis("parity", cwd=Path.cwd(), DATABASE_URL=database.app, APP_VALKEY_URL="redis://127.0.0.1:1")
    assert down.returncode == 1
    assert problems(down)[0].startswith("chassis: APP_VALKEY_URL: ")


A = {"environment": "staging", "variables": ["A", "B"], "versions": {"Python": "3.13.1", "extension": "1"}}
B = {"environment": "production", "variables": ["B", "C"], "versions": {"Python": "3.13.2"}}


def test_every_difference_between_two_environments_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / name) for name in ("a", "b")]
    for file, of in zip(files, (A, B), strict=True):
        Path(file).write_text(json.dumps(of))
    assert main(["parity", *files]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "staging sets A and production does not",
        "production sets C and staging does not",
        "Python: staging has 3.13.1 and production has 3.13.2",
        "extension: staging has 1 and production has none",
    ]
    assert main(["parity", files[0], files[0]]) == 0
    Path(files[1]).write_text(json.dumps(B | {"environment": "staging"}))
    assert main(["parity", *files]) == 1
    assert f"{files[0]} sets A and {files[1]} does not" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{", '{"environment": "staging"}', json.dumps(A | {"more": 1}), None])
def test_a_file_of_something_else_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    file = tmp_path / "a"
    if content is not None:
        file.write_text(content)
    assert main(["parity", str(file), str(file)]) == 1
    said = "is not what `chassis parity` prints" if content is not None else "cannot read"
    assert said in capsys.readouterr().err


def test_a_database_that_does_not_answer_has_no_parity(chassis: Chassis) -> None:
    run = chassis("parity", cwd=Path.cwd(), DATABASE_URL="postgresql://someone:s3cret@127.0.0.1:1/nothing")
    assert (run.returncode, run.stdout) == (1, "")
    assert len(problems(run)) == 1
    assert "s3cret" not in run.stderr


COLLECT = """
import inspect, sys, pytest

class Named:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            skips = [mark.args or [True] for mark in item.iter_markers() if mark.name in ("skip", "skipif")]
            if any(map(any, skips)) or "pytest.skip(" in inspect.getsource(item.function):
                print(f"skipped: {item.nodeid}")

options = ["--collect-only", "--quiet", "--capture=no", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, *sys.argv[1:]], plugins=[Named()]))
"""


def test_every_test_that_the_page_on_security_names_is_there_and_runs() -> None:
    root = Path(__file__).parents[2]
    rows = re.findall(r"^\| (?!who \||practice \|).+", (root / "docs" / "security.md").read_text("utf-8"), re.MULTILINE)
    named = {row: re.findall(r"`([\w/]+\.py::\w+)`", row) for row in rows}
    assert [row for row, tests in named.items() if not tests] == []
    tests = sorted({test for tests in named.values() for test in tests})
    assert len(tests) > 1
    collect = [sys.executable, "-c", COLLECT, *tests]
    run = subprocess.run(collect, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(("ERROR", "skipped"))]
    assert (lines, run.returncode) == ([], 0), "docs/security.md names a test that is skipped or has another name"
