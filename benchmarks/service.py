"""What is measured: a service rendered with default answers, its PostgreSQL, and the servers on it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import dedent

from load import Failed, Server, free_ports

ROOT = Path(__file__).resolve().parents[1]
APPS = Path(__file__).parent / "apps"
TENANTS = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002")
ORIGIN = "https://service.example.com"
MODULES, ROUTES_EACH = 10, 6
LAST_HELLO = f"/v1/m{MODULES - 1:02}/hello"

_OURS = {"VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DATABASE_URL", "PORT", "METRICS_PORT", "PYTHONPATH"}
_ROWS = 50_000  # of each tenant
_PATH = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"


def environment() -> dict[str, str]:
    """What this process was given, without what is meant for it alone."""
    inherited = (
        "VIRTUAL_ENV",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "DATABASE_URL",
        "PORT",
        "METRICS_PORT",
        "PYTHONPATH",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APP_") and name not in inherited}
    # The Python that is here, even where the answers name a newer one, unless the caller chose.
    return {"UV_PYTHON": sys.executable, **kept, "PATH": _PATH}


@dataclass(frozen=True)
class Database:
    app: str
    superuser: str
    version: str


class Service:
    """A rendered service with its packages installed; `scratch` is for what the measurements leave.

    `python` has what the service's image has, and nothing of development.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.python = scratch / "production" / "bin" / "python"
        self._scratch = scratch
        self._secret = secrets.token_urlsafe(32)
        self._numbers = count()
        self._sync()
        # As its image does it: compiled, so that the first start is like any other.
        self._sync("--no-dev", "--no-editable", "--compile-bytecode", UV_PROJECT_ENVIRONMENT=f"{scratch}/production")

    @contextmanager
    def database(self) -> Generator[Database]:
        """A PostgreSQL of its own, migrated, with many orders, for as long as the block runs."""
        process = subprocess.Popen(
            [
                self.folder / ".venv" / "bin" / "python",
                APPS / "database.py",
                self._scratch / "postgres",
                str(_ROWS),
                *TENANTS,
            ],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                raise Failed("the database did not start: see above")
            yield Database(**json.loads(line))
        finally:
            process.communicate()

    def serve(self, database: Database, *, modules: Path | None = None) -> tuple[Server, str]:
        """`chassis serve` as production runs it, and its URL; with a folder of `modules` in place of the service's own.

        But for the environment: production would not take a database without TLS, nor do without a mail server.
        """
        port, metrics_port = free_ports(2)
        variables = self._variables(database) | {"PORT": str(port), "METRICS_PORT": str(metrics_port)}
        if modules:
            variables["PYTHONPATH"] = str(modules)
        url = f"http://127.0.0.1:{port}"
        command = [self.python.with_name("chassis"), "serve"]
        return self._server(command, variables, f"{url}/readyz"), url

    def _variables(self, database: Database) -> dict[str, str]:
        return {
            "APP_ENVIRONMENT": "test",
            "APP_LOG_FORMAT": "json",
            "APP_LOG_LEVEL": "info",
            "APP_SECRET_KEY": self._secret,
            "APP_PUBLIC_URL": ORIGIN,
            "APP_DOCS": "false",
            # They count every request as always, and refuse none.
            "APP_LIMIT_PER_ADDRESS": "1000000",
            "APP_LIMIT_PER_ACCOUNT": "1000000",
            "APP_LIMIT_PER_TENANT": "1000000",
            "DATABASE_URL": database.app,
        }

    def checks(self, database: Database, rounds: int) -> dict[str, list[float]]:
        """What single checks cost a process, in µs of processor time, one figure a round."""
        printed = self._print("checks.py", str(rounds), **self._variables(database))
        return json.loads(printed)

    def _print(self, program: str, *arguments: str, **variables: str) -> str:
        """What one of `apps` prints, run by the service's own Python."""
        command = [self.python, APPS / program, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment() | variables, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    def principal(self, database: Database) -> dict[str, str]:
        """What the owner of the first tenant sends to a service that runs, for ten minutes."""
        arguments = (database.superuser, ORIGIN, TENANTS[0])
        return {"Authorization": f"Bearer {self._print('access_token.py', *arguments, APP_SECRET_KEY=self._secret)}"}

    def bare(self, name: str, database: Database, path: str) -> tuple[Server, str]:
        """One of the bare applications under uvicorn, set as the chassis sets it, and the URL of its route."""
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}{path}"
        # fmt: off
        command = [
            self.python, "-m", "uvicorn", "--app-dir", APPS, f"bare:{name}", "--port", str(port), "--loop", "uvloop",
            "--http", "httptools", "--log-level", "warning", "--no-access-log", "--no-server-header",
            "--no-proxy-headers",
        ]
        # fmt: on
        ready = f"http://127.0.0.1:{port}/openapi.json"
        return self._server(command, {"DATABASE_URL": database.superuser, "TENANT": TENANTS[0]}, ready), url

    def with_many_modules(self) -> Path:
        """A folder with a copy of the service's package, to which modules were added: 60 routes more."""
        (package,) = (file.parent for file in (self.folder / "src").glob("*/main.py"))
        folder = self._scratch / "many-modules"
        shutil.copytree(package, folder / package.name)
        names = [f"m{number:02}" for number in range(MODULES)]
        for name in names:
            (folder / package.name / name).mkdir()
            (folder / package.name / name / "__init__.py").write_text(_module(name))
        main = folder / package.name / "main.py"
        text = main.read_text()
        main.write_text(
            text.replace("from . import ", f"from . import {', '.join(names)}, ").replace(
                "modules=[", f"modules=[{', '.join(f'{name}.module' for name in names)}, "
            )
        )
        return folder

    def _sync(self, *options: str, **variables: str) -> None:
        command, log = ["uv", "sync", *options], self._scratch / "sync.log"
        with log.open("wb") as output:
            done = subprocess.run(
                command, cwd=self.folder, env=environment() | variables, stdout=output, stderr=output, check=False
            )
        if done.returncode != 0:
            raise Failed(f"uv sync failed in the rendered service: {log.read_text().strip().splitlines()[-1]}")

    def _server(self, command: list[str | Path], variables: dict[str, str], ready: str) -> Server:
        errors = self._scratch / f"server-{next(self._numbers)}.err"
        return Server(command, environment() | variables, ready, self.folder, errors)


def _module(name: str) -> str:
    """A module whose routes look like anybody's; `hello` comes last."""
    others = "".join(
        dedent(f"""
            @router.get("/{name}/things{number}/{{thing_id}}")
            async def thing{number}(thing_id: int, who: Reader) -> Hello:
                return Hello(str(thing_id))

        """)
        for number in range(ROUTES_EACH - 1)
    )
    return f'''\
"""One of many modules."""

from dataclasses import dataclass
from typing import Annotated

from chassis import Module, Principal, may
from fastapi import APIRouter

router = APIRouter()
Reader = Annotated[Principal, may("{name}:read")]


@dataclass(frozen=True, slots=True)
class Hello:
    message: str

{others}
@router.get("/{name}/hello")
async def hello(who: Reader) -> Hello:
    return Hello("hello")


module = Module(name="{name}", router=router, permissions={{"{name}:read": ("owner",)}})
'''
