"""The image, built by a real Docker from a folder full of secrets, and run as compose.yaml runs it.

`make rehearse` runs it where there is a Docker. PYTHON_IMAGE names another base image than the Dockerfile does.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chassis.dev.processes import free_port, get
from chassis.features import FEATURES
from chassis.testing import TestDatabase

PROJECT = Path(__file__).parents[3]
IMAGE = "rehearsed:image"
CANARY = uuid4().hex
PACKAGE = next((PROJECT / "src").glob("*/main.py")).parent.relative_to(PROJECT)
SECRETS = (
    *(".env", ".git/config", "deploy/host/secrets/key", "tests/a.py", "chassis/tests/a.py", "migrations/a.key"),
    *(f"{PACKAGE}/{name}" for name in (".env.production", "tls.pem", "tls.key", "tests/a.py")),
)
HARDENED = (
    *("--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--memory=256m", "--memory-swap=256m", "--pids-limit=200"),
)


def docker(*arguments: str) -> str:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
    pytest.skip("there is no Docker here", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def image(tmp_path_factory: pytest.TempPathFactory) -> None:
    context = tmp_path_factory.mktemp("context") / "project"
    shutil.copytree(PROJECT, context, ignore=shutil.ignore_patterns(".venv", ".dev", ".git", "__pycache__"))
    for name in SECRETS:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(CANARY)
    base = [f"--build-arg=PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"] if "PYTHON_IMAGE" in os.environ else []
    arguments = ["--build-arg=REVISION=abc123", "--build-arg=VERSION=1.2.3", "--network=host", *base]
    docker("build", "--quiet", "--file", f"{context}/deploy/Dockerfile", "--tag", IMAGE, *arguments, str(context))


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
        "APP_DRAIN_SECONDS": "1",
    }
    name = f"rehearsed-{uuid4().hex[:8]}"

    def start(*options: str, command: tuple[str, ...] = (), **more: str) -> str:
        environment = [f"--env={key}={value}" for key, value in (variables | more).items()]
        mount = f"--volume={folder}:/run/secrets:ro"
        return docker("run", f"--name={name}", *HARDENED, mount, *environment, *options, IMAGE, *command).strip()

    yield start
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


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


def test_it_says_what_it_is(run: Callable[..., str]) -> None:
    config = json.loads(docker("inspect", IMAGE))[0]["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    repository = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert labels == {"source": repository, "revision": "abc123", "version": "1.2.3"}
    assert config["User"] == "10001:10001"
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
