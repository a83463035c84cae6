"""The pages of a rendered service, followed to the letter: the first request, and the commands of every page."""

import os
import re
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Render
from copier import run_copy
from pythons import NEWEST, python
from test_demo import free_port, wait_for
from test_documentation import blocks, every_link_leads_somewhere
from test_service import run


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "my-service"
    run_copy(str(template), folder, defaults=True, unsafe=True, quiet=True)
    run(folder, "uv", "sync", "--quiet", "--python", str(python(NEWEST)))
    return folder


@pytest.fixture
def running(service: Path, tmp_path: Path) -> Iterator[int]:
    """The port on which `make dev` serves."""
    with serving(service, tmp_path / "log") as port:
        yield port


@contextmanager
def serving(service: Path, log: Path) -> Generator[int]:
    """Have `make dev` serve for the length of the block, on the port that it gives."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    environment |= {"PORT": str(port), "UV_PYTHON": str(service / ".venv" / "bin" / "python")}
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "dev"], cwd=service, env=environment, stdout=output, stderr=output, process_group=0
        )
    try:
        wait_for("Ctrl-C stops all of it", log, server)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=60)


def test_the_readme_takes_one_to_the_first_request(service: Path, running: int):
    start, requests = blocks(service / "README.md", "sh")
    assert start == "make dev\n"
    sign_in, place, page = requests.replace(":8000", f":{running}").split("\n\n")
    answers = [run(service, "bash", "-euc", f"{sign_in}\n{command}") for command in (place, page, place)]
    assert '"reference":"A-1"' in answers[0]
    assert answers[1].count('"reference":"A-1"') == 1
    assert answers[2].splitlines()[-1] == answers[0].splitlines()[-1], "the same key, the same answer"


@pytest.mark.usefixtures("running")
def test_backups_are_made_and_drilled_beside_make_dev(service: Path):
    for block in blocks(service / "docs" / "backups.md", "sh"):
        run(service, "bash", "-euc", block)
    assert "does not restore" not in (service / "drill.html").read_text()


def test_the_runbooks_run_beside_make_dev(service: Path, running: int):
    """What they have for other places than this one runs there: see test_runbooks.py."""
    pages = sorted((service / "docs" / "runbooks").glob("*.md"))
    commands = "\n".join(block for page in pages for block in blocks(page, "sh"))
    assert {page.name for page in pages if blocks(page, "sh")} == {"alerts.md", "deploy.md", "keys.md", "restore.md"}
    ports = {":8000": f":{running}", ":8001": f":{running + 1}"}
    said = run(service, "bash", "-euo", "pipefail", "-c", re.sub(":800[01]", lambda port: ports[port[0]], commands))
    for text in ('{"status":"ok"}', "service_ready 1.0", "drill passed", "signs from", "restore checked"):
        assert text in said


@pytest.fixture(params=[{}, {"shared_store": "valkey", "deploy_target": "aws-ecs"}], ids=["default", "other"])
def rendered(render: Render, request: pytest.FixtureRequest) -> Path:
    return render(**request.param)


def test_every_link_of_a_page_leads_to_a_file_and_a_heading(rendered: Path):
    for page in [*rendered.glob("*.md"), *rendered.glob("docs/**/*.md")]:
        every_link_leads_somewhere(page)


@pytest.mark.parametrize("page", ["data.md", "production.md"])
def test_the_commands_of_a_page_run(page: str, service: Path):
    for block in blocks(service / "docs" / page, "sh"):
        run(service, "bash", "-euc", block)


def test_the_server_imports_nothing_that_only_migrations_need(service: Path):
    code = "import my_service.main, sys; print(sorted({'alembic', 'psycopg', 'sqlalchemy'} & set(sys.modules)))"
    assert run(service, ".venv/bin/python", "-c", code) == "[]\n"
