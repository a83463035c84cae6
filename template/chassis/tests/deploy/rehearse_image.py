"""The image, built by a real Docker from a folder full of secrets, and run as it is in production.

`make rehearse` runs it where there is a Docker. PYTHON_IMAGE names another base image than the Dockerfile does.
"""

import asyncio
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chassis.data.tenancy import tenant_table
from chassis.dev.postgres import Postgres
from chassis.dev.processes import free_port, get
from chassis.features import FEATURES
from chassis.testing import TestDatabase, new_database

PROJECT = Path(__file__).parents[3]
IMAGE = "rehearsed:image"
CANARY = uuid4().hex
PACKAGE = next((PROJECT / "src").glob("*/main.py")).parent.relative_to(PROJECT)
SECRETS = (
    *(".env", ".git/config", "deploy/host/secrets/key", "tests/a.py", "chassis/tests/a.py", "migrations/a.key"),
    *(f"{PACKAGE}/{name}" for name in (".env.production", "tls.pem", "tls.key", "tests/a.py")),
)
HARDENED = (
    *("--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--memory=256m", "--memory-swap=256m", "--pids-limit=200"),
)


def docker(*arguments: str) -> str:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
    pytest.skip("there is no Docker here", allow_module_level=True)


def built(context: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """What came of building the image from `context`."""
    base = [f"--build-arg=PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"] if "PYTHON_IMAGE" in os.environ else []
    command = ["docker", "build", "--network=host", "--progress=plain", f"--file={context}/deploy/Dockerfile"]
    return subprocess.run([*command, *base, *options, context], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, full of secrets, that the image is built from."""
    context = tmp_path_factory.mktemp("context") / "project"
    shutil.copytree(PROJECT, context, ignore=shutil.ignore_patterns(".venv", ".dev", ".git", "__pycache__"))
    for name in SECRETS:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(CANARY)
    done = built(context, "--build-arg=REVISION=abc123", "--build-arg=VERSION=1.2.3", f"--tag={IMAGE}")
    assert done.returncode == 0, done.stdout + done.stderr
    return context


@pytest.fixture
def run(empty_database: TestDatabase, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """`run("--detach", command=["chassis", "serve"])`: a container of the image, configured as in production."""
    secrets = {
        "database_url": empty_database.app,
        "migrator_database_url": empty_database.superuser,
        "app_secret_key": uuid4().hex + uuid4().hex,
        "app_smtp_url": "smtp://localhost:2525",
    }
    if "valkey" in FEATURES:
        secrets["app_valkey_url"] = request.getfixturevalue("valkey_url")
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)  # for the user of the image, who is none of this machine
    for name, value in secrets.items():
        (folder / name).write_text(value)
    variables = {f"{name.upper()}_FILE": f"/run/secrets/{name}" for name in secrets} | {
        "APP_ENVIRONMENT": "production",
        "APP_ALLOWED_HOSTS": "127.0.0.1",
        "APP_PUBLIC_URL": "https://api.example.com",
        "APP_MAIL_FROM": "no-reply@example.com",
        "APP_SECURITY_CONTACT": "mailto:security@example.com",
        "APP_DRAIN_SECONDS": "1",
    }
    name = f"rehearsed-{uuid4().hex[:8]}"

    def start(*options: str, command: tuple[str, ...] = (), **more: str) -> str:
        environment = [f"--env={key}={value}" for key, value in (variables | more).items()]
        mount = f"--volume={folder}:/run/secrets:ro"
        return docker("run", f"--name={name}", *HARDENED, mount, *environment, *options, IMAGE, *command).strip()

    yield start
    subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


def test_it_migrates_serves_is_healthy_by_itself_and_ends_well(run: Callable[..., str]) -> None:
    run("--rm", command=("chassis", "migrate"))
    port = free_port()
    container = run("--detach", PORT=str(port), METRICS_PORT=str(free_port()))
    until(lambda: inspected(container)["State"]["Health"]["Status"] == "healthy")
    until(lambda: get("127.0.0.1", port, "/readyz")[0] == 200)
    assert json.loads(get("127.0.0.1", port, "/version")[1])["revision"] == "abc123"
    status = dict(line.split(":\t") for line in in_container(container, "/proc/1/status").splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["10001"] * 4
    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1"
    docker("stop", container)
    assert inspected(container)["State"]["ExitCode"] == 0
    assert not inspected(container)["State"]["OOMKilled"]


def in_container(container: str, path: str) -> str:
    return docker("exec", container, "python", "-c", f"print(open({path!r}).read())")


def inspected(container: str) -> dict[str, Any]:
    return json.loads(docker("inspect", container))[0]


@pytest.fixture
def tls(postgres: Postgres, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Adds TLS to the PostgreSQL of the tests, which has none: the port, and the file with who signs for localhost."""
    port, authority = free_port(), tmp_path / "authority.crt"
    context = _certified(tmp_path, authority)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # it asks whether there is TLS
        writer.write(b"S")
        await writer.start_tls(context)
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", postgres.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    loop, ready = asyncio.new_event_loop(), threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(connected, "127.0.0.1", port):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    ready.wait(10)
    yield port, authority
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def _certified(folder: Path, authority: Path) -> ssl.SSLContext:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    building = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    building = building.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    building = building.not_valid_after(now + timedelta(days=1))
    building = building.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    authority.write_bytes(building.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, folder / "tls.key")
    return context


def test_it_backs_up_and_restores_a_database_that_wants_tls(
    run: Callable[..., str], empty_database: TestDatabase, postgres: Postgres, tls: tuple[int, Path], tmp_path: Path
) -> None:
    """As confined as it serves, with only /tmp to write to: the programs of PostgreSQL are there, and speak TLS."""
    port, authority = tls
    run("--rm", command=("chassis", "migrate"), BACKUP_DATABASE_URL=empty_database.backup)
    with psycopg.connect(empty_database.superuser) as connection:
        table = "create table things (tenant_id uuid not null default gen_random_uuid() primary key);"
        connection.execute(f"{table} {tenant_table('things')}".encode())
        connection.execute("insert into things select from generate_series(1, 3)")
    store, key = tmp_path / "store", pyrage.x25519.Identity.generate()
    store.mkdir(mode=0o777)
    store.chmod(0o777)  # for the user of the image
    options = ("--rm", f"--volume={store}:/backups", f"--volume={authority}:/authority.crt:ro")

    def with_tls(url: str) -> str:
        there = url.replace(f"127.0.0.1:{postgres.port}", f"localhost:{port}")
        return f"{there}?sslmode=verify-full&sslrootcert=/authority.crt"

    variables = {
        "BACKUP_DATABASE_URL": with_tls(empty_database.backup),
        "APP_BACKUP_URL": "file:///backups",
        "APP_BACKUP_RECIPIENTS": str(key.to_public()),
    }
    said = run(*options, command=("chassis", "backup"), **variables)
    assert re.search(r'"event":"backup made"', said)
    (manifest,) = (json.loads(file.read_text()) for file in store.glob("*.json"))
    assert manifest["tables"]["public.things"]["rows"] == 3
    with new_database(postgres) as target:
        restoring = ("chassis", "restore", "--to", with_tls(target.superuser))
        run(*options, command=restoring, APP_BACKUP_IDENTITY=str(key), **variables)
        with psycopg.connect(target.superuser) as connection:
            assert connection.execute("select count(*) from things").fetchone() == (3,)


def test_what_is_not_in_the_lock_is_not_in_the_image(context: Path, tmp_path: Path) -> None:
    changed = tmp_path / "project"
    shutil.copytree(context, changed)
    lock = changed / "uv.lock"
    locked = lock.read_text()

    lock.write_text(re.sub(r'(/structlog-[^"]+py3-none-any\.whl", hash = "sha256:)\w{8}', r"\g<1>00000000", locked))
    assert "Hash mismatch for `structlog" in built(changed, "--target=build").stderr

    lock.write_text(locked)
    project = changed / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [", 'dependencies = ["httpx",', 1))
    assert "uv.lock` needs to be updated" in built(changed, "--target=build").stderr


def test_it_says_what_it_is(run: Callable[..., str]) -> None:
    config = json.loads(docker("inspect", IMAGE))[0]["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    repository = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert labels == {"source": repository, "revision": "abc123", "version": "1.2.3"}
    assert config["User"] == "10001:10001"
    assert list(config["Volumes"]) == ["/tmp"], "where Terraform mounts a folder, which gets the rights of this one"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_no_layer_has_a_secret_or_a_test_in_it() -> None:
    saved = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
    names: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(saved)) as image:
        for blob in filter(None, map(image.extractfile, image)):
            if tarfile.is_tarfile(blob):
                with tarfile.open(fileobj=blob) as layer:
                    for member in layer:
                        names.append(member.name)
                        if member.isfile() and member.name.startswith("app/"):
                            content = layer.extractfile(member)
                            assert content is not None
                            assert CANARY.encode() not in content.read(), member.name
            else:
                blob.seek(0)
                assert CANARY.encode() not in blob.read(), "what the image was built with is in its history"
    assert any(name.endswith("/site-packages/chassis/server.py") for name in names)
    assert [name for name in names if name.endswith(("/bin/uv", "/site-packages/pytest"))] == []


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
