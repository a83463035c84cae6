"""The `chassis` command.

Exit codes: 0 good; 1 what was asked for failed; 2 wrong usage; 78 the configuration is refused. A command imports what
it needs when it runs: `serve` must not wait for Alembic.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chassis.failure import Failure
from chassis.features import FEATURES

if TYPE_CHECKING:
    from chassis.app import Service
    from chassis.settings import Settings

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code. A person never sees a traceback, unless APP_LOG_LEVEL is debug."""
    options = _parser().parse_args(arguments)
    run: Command = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has seen enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _say(error)


def serve(_: argparse.Namespace) -> int:
    """Serve on PORT, and metrics on METRICS_PORT, until SIGTERM."""
    service, settings = _service()
    settings = _with_shared_store(_with_database(settings))
    from chassis.server import run

    return run(service, settings)


def migrate(_: argparse.Namespace) -> int:
    """Bring the database to this release. Any number of replicas may do so at the same time."""
    settings = _service()[1]
    if settings.migrator_database_url is None:
        settings = _with_database(settings)
    from chassis.data.migrate import migrate_for
    from chassis.observe import logs

    logs.configure(settings)
    migrate_for(settings)
    return 0


def migration_new(options: argparse.Namespace) -> int:
    """Write an empty migration of the service."""
    from chassis.data.migrate import new_revision

    print(os.path.relpath(new_revision(options.name)))
    return 0


def migration_lint(_: argparse.Namespace) -> int:
    """Check what the migrations would do to a database in use."""
    from chassis.dev.migration_lint import lint

    return lint()


def module_new(options: argparse.Namespace) -> int:
    """Write a module: its table, queries, routes and a test, and list it in main.py."""
    from chassis.app import load_app
    from chassis.dev.new_module import new_module
    from chassis.identity.module import write_permissions

    for path in new_module(options.name):
        print(os.path.relpath(path))
    print(os.path.relpath(write_permissions(load_app())))
    print(f"Now make it yours. A running 'make dev' migrates and serves it: /v1/{options.name.replace('_', '-')}")
    return 0


def permissions(options: argparse.Namespace) -> int:
    """Show who may call which route."""
    from chassis.app import load_app
    from chassis.identity.module import permissions_page, write_permissions

    if options.write:
        print(os.path.relpath(write_permissions(load_app())))
    else:
        print(permissions_page(load_app()), end="")
    return 0


def config(options: argparse.Namespace) -> int:
    """Show every variable, where its value is from, and the verdict that boot would give."""
    from chassis.app import load_app
    from chassis.config_report import main as report

    return report(load_app().settings_class, options.env_file, environment=options.env)


def keys_rotate(_: argparse.Namespace) -> int:
    """Change the key that signs access tokens. No request fails, and nobody has to sign in again."""
    from chassis.identity.commands import rotate_keys

    return rotate_keys(*_with_identity())


def accounts_disable(options: argparse.Namespace) -> int:
    """Sign somebody out everywhere, and let them in no more."""
    from chassis.identity.commands import set_disabled

    return set_disabled(*_with_identity(), options.email, disabled=True)


def accounts_enable(options: argparse.Namespace) -> int:
    """Let somebody in again who was disabled."""
    from chassis.identity.commands import set_disabled

    return set_disabled(*_with_identity(), options.email, disabled=False)


def accounts_smoke(_: argparse.Namespace) -> int:
    """Make the two accounts that `chassis smoke` signs in with, unless they are there."""
    service, settings = _with_identity()
    from chassis.identity.commands import make_accounts
    from chassis.smoke import given_accounts

    return make_accounts(service, settings, given_accounts(settings))


def audit_verify(_: argparse.Namespace) -> int:
    """Check that nobody has changed the audit trail of any tenant, and name the first row that was touched."""
    from chassis.identity.commands import verify_audit

    return verify_audit(_with_identity()[1])


def backup(_: argparse.Namespace) -> int:
    """Back the database up, encrypted, to where APP_BACKUP_URL says."""
    settings = _for_backups(source=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C, and leave nothing half-made
    from chassis.backup.dump import backup as back_up

    back_up(settings)
    return 0


def restore(options: argparse.Namespace) -> int:
    """Restore a backup into an empty database, and check that it is what was backed up."""
    settings = _for_backups()
    from chassis.backup.restore import restore as bring_back

    bring_back(settings, options.to, options.name)
    return 0


def drill(options: argparse.Namespace) -> int:
    """Prove that the latest backup restores: into a scratch server, with the service on it, and measure how long."""
    settings = _for_backups()
    from chassis.backup.drill import drill as prove

    return prove(settings, options.to, options.report)


def smoke(options: argparse.Namespace) -> int:
    """Try the service at URL as its users would, and leave nothing behind."""
    service, settings = _service()
    from chassis.smoke import main as try_out

    return try_out(service, settings, options.url, options.revision)


def parity(options: argparse.Namespace) -> int:
    """Print what staging and production have to share, or what differs between two files of that."""
    if len(options.files) not in (0, 2):
        options.refuse("compare two files, or name none")
    if options.files:
        from chassis.parity import compare

        return compare(*options.files)
    settings = _service()[1]
    if settings.migrator_database_url is None:
        settings = _with_database(settings)
    from chassis.parity import show

    return show(settings)


def dev(_: argparse.Namespace) -> int:
    """Start a PostgreSQL in .dev/, migrate, serve, and start again on every change; Ctrl-C stops all of it."""
    service, settings = _service()
    from chassis.dev.dev import develop

    return develop(service, settings)


def stop(_: argparse.Namespace) -> int:
    """Stop what a `chassis dev` that crashed left running."""
    from chassis.dev.dev import stop_leftovers

    return stop_leftovers()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chassis", description="Run, migrate and look after this service.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(parent: Any, name: str, run: Command) -> argparse.ArgumentParser:  # argparse's type for it is private
        text = (run.__doc__ or "").split("\n", 1)[0]
        command = parent.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    def group(name: str, text: str) -> Any:
        return commands.add_parser(name, help=text).add_subparsers(metavar="COMMAND", required=True)

    add(commands, "serve", serve)
    add(commands, "migrate", migrate)
    migration = group("migration", "Write and check migrations.")
    add(migration, "new", migration_new).add_argument("name", metavar="NAME", help="what it does, as in add_invoices")
    add(migration, "lint", migration_lint)
    module = commands.add_parser("module", help="Write modules.").add_subparsers(metavar="COMMAND", required=True)
    add(module, "new", module_new).add_argument("name", metavar="NAME", help="most often a plural, as in invoices")
    page = add(commands, "permissions", permissions)
    page.add_argument("--write", action="store_true", help="into docs/permissions.md, which a test compares")
    environment = add(commands, "config", config)
    environment.add_argument(
        "--env", choices=["development", "test", "staging", "production"], help="as if APP_ENVIRONMENT were this"
    )
    environment.add_argument(
        "--env-file", metavar="FILE", type=_env_file, help="as `docker run` would have it: only what FILE sets"
    )
    add(group("keys", "The keys that sign access tokens."), "rotate", keys_rotate)
    people = group("accounts", "People who sign in.")
    for name, run in (("disable", accounts_disable), ("enable", accounts_enable)):
        add(people, name, run).add_argument("email", metavar="EMAIL", help="the address that they sign in with")
    add(people, "smoke", accounts_smoke)
    add(group("audit", "The record of what people did."), "verify", audit_verify)
    add(commands, "backup", backup)
    bringing_back = add(commands, "restore", restore)
    bringing_back.add_argument("name", metavar="NAME", nargs="?", help="the backup; the latest one unless given")
    bringing_back.add_argument("--to", metavar="DSN", required=True, type=_dsn, help="the URL of an empty database")
    proving = add(commands, "drill", drill)
    proving.add_argument(
        "--to", metavar="DSN", type=_dsn, help="a server on which to make a database for it, and drop it again"
    )
    proving.add_argument("--report", metavar="FILE", help="where to write the HTML report; beside the backups anyway")
    trying = add(commands, "smoke", smoke)
    trying.add_argument("url", metavar="URL", type=_address, help="such as https://api.example.com")
    trying.add_argument("--revision", metavar="SHA", help="the commit that must be running there")
    sharing = add(commands, "parity", parity)
    sharing.add_argument("files", metavar="FILE", nargs="*", help="two of what this prints; none to print one")
    sharing.set_defaults(refuse=sharing.error)
    add(commands, "dev", dev)
    add(commands, "stop", stop)
    return parser


def _env_file(path: str) -> dict[str, str]:
    """The variables of a file as Docker reads it: everything after the first = is the value."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot be read: {error}") from None
    given = [line.partition("=") for line in lines if line and not line.startswith("#")]
    if not all(equals for _, equals, _ in given):
        raise argparse.ArgumentTypeError(f"{path} has a line that is not NAME=value")
    return {name: value for name, _, value in given}


def _dsn(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise argparse.ArgumentTypeError("must be a URL that begins with postgresql://")
    return text


def _address(text: str) -> str:
    if not (text.startswith(("http://", "https://")) and urlsplit(text).hostname):
        raise argparse.ArgumentTypeError("must be a URL that begins with http:// or https://")
    return text


def _service() -> "tuple[Service, Settings]":
    from chassis.app import load_app
    from chassis.settings import load

    service = load_app()
    return service, load(service.settings_class)


def _with_identity() -> "tuple[Service, Settings]":
    """The service on its database, with only what goes wrong in the log: the command itself says what it did."""
    service, settings = _service()
    settings = _with_database(settings)
    from chassis.observe import logs

    logs.configure(settings, stream=sys.stderr.buffer)
    return service, settings


def _for_backups(*, source: bool = False) -> "Settings":
    """The settings, and the log set up; with the URL of the database that is backed up, if that is wanted."""
    settings = _service()[1]
    if source and settings.backup_database_url is None and settings.database_url is None and not settings.deployed:
        settings = _with_database(settings)
    from chassis.observe import logs

    logs.configure(settings)
    return settings


def _with_database(settings: "Settings") -> "Settings":
    if settings.database_url is not None:
        return settings
    from chassis.dev.database import with_database

    return with_database(settings)


def _with_shared_store(settings: "Settings") -> "Settings":
    if "valkey" not in FEATURES:
        return settings
    return import_module("chassis.dev.valkey").with_valkey(settings)


def _say(error: Exception) -> int:
    """Say in a line for each problem why a command failed; returns the exit code."""
    from chassis.app import BootRefused
    from chassis.settings import EX_CONFIG, ConfigurationRefused

    if os.environ.get("APP_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    if isinstance(error, ConfigurationRefused | BootRefused):
        problems = error.problems
    elif isinstance(error, Failure):
        problems = [str(error)]
    else:
        problems = [f"{type(error).__name__}: {error} ({_place(error)}; APP_LOG_LEVEL=debug shows how it came to that)"]
    for problem in problems:
        print("chassis:", " ".join(problem.split()), file=sys.stderr)
    return EX_CONFIG if isinstance(error, ConfigurationRefused) else 1


def _place(error: Exception) -> str:
    """The innermost line that is not of a library, or of all if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<frozen" not in frame.filename]
    if not (own or frames):
        return "nowhere"
    frame = (own or frames)[-1]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename)}:{error.lineno}"
    return f"{os.path.relpath(frame.filename)}:{frame.lineno}"


if __name__ == "__main__":
    sys.exit(main())
