"""What is rendered to deploy with, as the programs that read it see it; the rendered service rehearses the rest."""

import os
import re
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml
from conftest import Render

STORES = ("gateway", "postgres", "valkey")
IMAGE = f"registry.example.com/my-service@sha256:{'0' * 64}"


@pytest.fixture(params=["none", "valkey"])
def deploy(render: Render, request: pytest.FixtureRequest) -> Path:
    """The folder deploy/ of a render, with the least that a host adds."""
    folder = render(shared_store=request.param) / "deploy"
    (folder / "host").mkdir()
    (folder / "host" / "host.env").write_text("GATEWAY_HOST=api.example.com\n")
    (folder / "host" / "backup.env").write_text("AWS_ACCESS_KEY_ID=of-the-store\n")
    return folder


def compose(deploy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker-compose", "--env-file=host/host.env", *arguments, "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(deploy)}
    return subprocess.run(command, cwd=deploy, env=environment, capture_output=True, text=True, check=False)


def test_compose_takes_the_file_and_every_container_is_confined(deploy: Path):
    resolved = compose(deploy)
    assert resolved.returncode == 0, resolved.stderr
    services = yaml.safe_load(resolved.stdout)["services"]
    assert {"app-1", "app-2", "app-3", "gateway", "postgres", "backups"} <= services.keys()
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert service["restart"] == "unless-stopped", name
        assert "docker.sock" not in str(service), name
        assert service.get("user", "10001:10001").split(":")[0] not in ("0", "root"), name
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]
    holders = [name for name, service in services.items() if "migrator" in str(service)]
    assert holders == [], "what serves has no way to change the schema"


def test_the_file_is_what_the_specification_says(deploy: Path):
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    checked = subprocess.run(command, cwd=deploy, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_nobody_is_given_an_address_that_another_one_has_to_have(deploy: Path):
    resolved = compose(deploy, "--profile=once").stdout
    fixed = re.findall(r"ipv4_address: (\S+)", resolved)
    assert len(set(fixed)) == len(fixed) == 4
    (pool,) = yaml.safe_load(resolved)["networks"]["edge"]["ipam"]["config"]
    for address in fixed:
        assert ip_address(address) in ip_network(pool["subnet"])
        assert ip_address(address) not in ip_network(pool["ip_range"])


def test_what_clients_send_cannot_fill_the_memory_of_the_gateway(deploy: Path):
    """Nor can fewer than 32 of them fill its folder for bodies."""
    gateway = yaml.safe_load(compose(deploy).stdout)["services"]["gateway"]
    conf = (deploy / "gateway" / "nginx.conf.template").read_text()

    def value(directive: str) -> int:
        (found,) = re.findall(rf"(?m)^ *{directive}[ =](\d+[km]?)\b", conf)
        return size(found)

    folders = {path: size(found) for path, found in re.findall(r"(\S+):\S*size=(\d+m)", " ".join(gateway["tmpfs"]))}
    assert folders.keys() == {"/run/gateway", "/run/gateway/answers", "/run/gateway/bodies"}
    assert folders["/run/gateway/bodies"] >= 32 * value("limit_conn bodies") * value("client_max_body_size")
    connections = value("worker_processes") * value("worker_connections")
    # Measured with nginx 1.31 and TLS 1.3: 29 kB that asks nothing, 50 kB more with all of the headers it may have.
    each = 80_000 + value("client_body_buffer_size")
    shared = sum(size(found) for found in re.findall(r"(?:zone|shared)[ =:]\w+[: ](\d+[km])", conf))
    assert shared > size("40m")
    assert connections * each + sum(folders.values()) + shared <= int(gateway["mem_limit"])


def size(text: str) -> int:
    return int(text.rstrip("km")) * {"k": 1024, "m": 1024**2}.get(text[-1], 1)


def test_an_image_of_others_is_named_with_its_digest(deploy: Path):
    """And a host cannot name another one, which Dependabot would never renew."""
    images = {
        name: service["image"]
        for name, service in yaml.safe_load((deploy / "compose.yaml").read_text())["services"].items()
    }
    ours = {name for name, image in images.items() if image.endswith(":-unused}")}
    assert ours == {"app-1", "app-2", "app-3", "migrate", "backups"}
    for name in images.keys() - ours:
        assert re.fullmatch(r"[a-z/]+:[0-9][a-z0-9.-]*@sha256:[0-9a-f]{64}", images[name]), name


def test_a_host_has_to_say_its_name(deploy: Path):
    (deploy / "host" / "host.env").write_text("")
    refused = compose(deploy)
    assert refused.returncode != 0
    assert "GATEWAY_HOST" in refused.stderr


@pytest.mark.parametrize(("process", "healthy"), [("postgres", 0), ("docker-entrypoint.sh", 1)])
def test_a_database_that_is_still_being_made_is_not_healthy(deploy: Path, tmp_path: Path, process: str, healthy: int):
    """The official image makes it with a server that it stops again, and becomes the one to use afterwards."""
    health = yaml.safe_load(compose(deploy).stdout)["services"]["postgres"]["healthcheck"]
    kind, check = health["test"]
    assert kind == "CMD-SHELL"
    for name, does in (("pg_isready", "exit 0"), (process, 'sh -c "$1"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    as_process_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", tmp_path / process]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    checked = subprocess.run([*as_process_1, check], env=environment, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (healthy, "")


@pytest.mark.parametrize("command", [["shellcheck", "deploy.sh"], ["hadolint", "Dockerfile"]], ids=lambda each: each[0])
def test_a_linter_finds_nothing(deploy: Path, command: list[str]):
    found = subprocess.run(command, cwd=deploy, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_deploy_can_be_run_and_says_how(deploy: Path):
    said = subprocess.run([deploy / "deploy.sh"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.startswith("usage: deploy/deploy.sh [--on user@host] IMAGE")


def test_whoever_has_a_variable_of_a_secret_has_its_file(deploy: Path):
    services = yaml.safe_load(compose(deploy, "--profile=once").stdout)["services"]
    for name, service in services.items():
        wanted = {
            value.removeprefix("/run/secrets/")
            for value in service.get("environment", {}).values()
            if str(value).startswith("/run/secrets/")
        }
        given = {secret["source"] for secret in service.get("secrets", [])}
        assert wanted <= given, name
        assert name in STORES or "app_smoke_password" in wanted, name


def test_nothing_but_backups_has_the_credentials_of_their_store(deploy: Path):
    services = yaml.safe_load(compose(deploy, "--profile=once").stdout)["services"]
    assert "migrate" in services
    assert [name for name, service in services.items() if "of-the-store" in str(service)] == ["backups"]
    assert services["backups"]["environment"]["AWS_ACCESS_KEY_ID"] == "of-the-store"


@pytest.mark.parametrize("file", ["host.env", "backup.env"])
def test_a_file_that_a_host_lacks_is_named_in_a_line(deploy: Path, file: str):
    (deploy / "host" / file).unlink()
    refused = subprocess.run([deploy / "deploy.sh", IMAGE], capture_output=True, text=True, check=False)
    missing = f"{deploy}/host/{file} is missing: docs/production.md says what belongs there"
    assert (refused.returncode, refused.stderr) == (1, f"deploy: {missing}\n")


def test_backups_leave_their_metrics_on_the_host_and_are_healthy_by_themselves(deploy: Path):
    backups = yaml.safe_load(compose(deploy).stdout)["services"]["backups"]
    (metrics,) = [
        volume for volume in backups["volumes"] if volume["target"] == backups["environment"]["APP_BACKUP_METRICS"]
    ]
    assert metrics["source"] == str(deploy / "host" / "metrics")
    assert not metrics.get("read_only")
    assert "chassis_backup.prom" in str(backups["healthcheck"]["test"]), (
        "the image's own asks a server that is not there"
    )
