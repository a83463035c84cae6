"""What stands in for `docker compose` when deploy.sh and runbooks are tried: their commands, on processes.

A replica in place 3 is `chassis serve` on port 8000 of an address that ends in .13, as its container's would. An image
is a folder of `releases/` named by its digest, with migrations and variables of its own; a container has those of
variables.env and host.env as well, and `backups` those of backup.env.
Whatever they ask for that is not known here is an error.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

HOST = Path("host").absolute()
PROCESSES = HOST / "processes"


def main(arguments: list[str]) -> int:
    if arguments[0] != "compose":
        return of_engine(arguments)
    variables: dict[str, str] = dict(os.environ)
    arguments = arguments[1:]
    while arguments[0] == "--env-file":
        variables |= values(arguments[1])
        arguments = arguments[2:]
    command = " ".join(arguments)
    assert not re.search(r"://[^/@ ]+:[^/@ ]+@|password '", command), "every user of a host sees arguments"
    PROCESSES.mkdir(exist_ok=True)
    if command == "version --short":
        print("2.17.0")
        return 0
    if command.startswith("up --detach --wait --no-recreate postgres"):
        print("the database of the test is up")
        return 0
    if command == "up --detach backups":
        return start_backups()
    if command.startswith("run --rm ") and "migrate" in arguments:
        what = arguments[arguments.index("migrate") + 1 :] or ["chassis", "migrate"]
        return run(what, variables["RELEASE"])
    if "gateway" in arguments:
        return of_gateway(command, variables)
    code = of_runbook(arguments)
    return of_place(arguments, variables) if code is None else code


def of_engine(arguments: list[str]) -> int:
    """A command that is not Compose's."""
    match arguments:
        case ["image", "inspect", "--format", _, image]:
            print(environment_of(image)["APP_REVISION"])  # as the Dockerfile labels it
        case ["version", "--format", _]:
            print("27.0.3")
        case ["run", "--rm", *_, "sh", "-c", script]:
            assert "--user=0:0" in arguments
            assert f"--volume={HOST}/metrics:/metrics" in arguments
            script = script.replace("/metrics", str(HOST / "metrics"))
            # Root in a container may give files away, and whoever runs this may not.
            return subprocess.call(["sh", "-c", script if os.geteuid() == 0 else script.partition("&&")[0]])
        case _:
            raise AssertionError(arguments)
    return 0


def of_gateway(command: str, variables: dict[str, str]) -> int:
    """A command for the gateway."""
    if command == "up --detach --wait --no-recreate gateway":
        return start_gateway(variables)
    if command == "ps --quiet gateway":
        print("gateway" if (HOST / "nginx.pid").exists() else "", end="")
    elif command == "logs --no-log-prefix --tail 20 gateway":
        print((HOST / "errors").read_text())
    else:
        assert command.startswith("exec -T gateway "), command
        assert command.endswith(" -s reload"), command
        os.kill(int((HOST / "nginx.pid").read_text()), signal.SIGHUP)
    return 0


def of_place(arguments: list[str], variables: dict[str, str]) -> int:
    """A command for the replica in one place."""
    found = re.search(r" app-([123])(?: |$)", " ".join(arguments))
    assert found, arguments
    place, address = found[1], f"{variables['GATEWAY_NETWORK']}.1{found[1]}"
    match arguments:
        case ["up", "--detach", "--force-recreate", _]:
            stop(place, 5)
            start(place, address, variables[f"IMAGE_{place}"])
        case ["exec", "-T", _, *command]:
            # The address of a container is 127.0.0.1 for who is in it.
            return run([part.replace("127.0.0.1", address) for part in command], variables[f"IMAGE_{place}"])
        case ["ps", "--all", "--format", "{{.State}}", _]:
            print("running" if process_of(place) else "exited")
        case ["logs", "--no-log-prefix", "--tail", "20", _]:
            print(*(PROCESSES / f"{place}.log").read_text().splitlines()[-20:], sep="\n")
        case ["stop", "--timeout", seconds, _]:
            stop(place, float(seconds))
        case ["stop", _]:
            stop(place, 30)
        case _:
            raise AssertionError(arguments)
    return 0


def of_runbook(arguments: list[str]) -> int | None:
    """A command that an operator types; None for all others."""
    match arguments:
        case ["ps", "--all"]:
            print(*(f"app-{place} {process_of(place)}" for place in "123"), sep="\n")
        case ["logs", "--no-log-prefix", "--since=15m", *services]:
            logs = [PROCESSES / f"{service[-1]}.log" for service in services]
            print(*(log.read_text() for log in logs if log.exists()), sep="")
        case ["stop", "backups"] | ["up", "--detach", "--force-recreate", "backups"]:
            assert os.environ["RELEASE"]
        case ["stop", *services] if len(services) > 1 and "--timeout" not in services:
            for service in services:
                stop(service[-1], 30)
        case ["exec", "-T", "postgres", "sh", "-c", script, *rest]:
            return subprocess.call(["sh", "-c", script.replace("/run/secrets/", "host/secrets/"), *rest])
        case ["run", "--rm", *rest] if "backups" in rest:
            return run_once(rest)
        case _:
            return None
    return 0


def run_once(arguments: list[str]) -> int:
    """A command in a container of its own, where a file of the host has another name."""
    mounted, more = dict[str, str](), dict[str, str]()
    while arguments[0].startswith("-"):
        if arguments[0] == "-T":
            del arguments[0]
            continue
        option, _, value = arguments.pop(0).partition("=")
        if option == "--volume":
            outside, inside, _ = value.split(":")
            mounted[inside] = outside
        else:
            assert option == "--env", option
            variable, has_value, path = value.partition("=")
            more[variable] = mounted[path] if has_value else os.environ[variable]
    return run(arguments[1:], os.environ["RELEASE"], values("host/backup.env") | more)


def start_backups() -> int:
    """The first turn of its loop, where backups have a store."""
    (loop,) = re.findall(r"(?m)^ +- (while .*; done)$", Path("compose.yaml").read_text())
    metrics, own = str(HOST / "metrics"), values("host/backup.env")
    if "APP_BACKUP_URL" not in own:
        return 0
    command = ["sh", "-c", loop.replace("/metrics", metrics).replace("sleep 3600", "exit")]
    return run(command, os.environ["RELEASE"], own | {"APP_BACKUP_METRICS": metrics})


def values(file: str | Path) -> dict[str, str]:
    lines = Path(file).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def release_of(image: str) -> Path:
    return HOST / "releases" / image.partition("@")[2]


def environment_of(image: str) -> dict[str, str]:
    """The variables of a process of that release, on this host."""
    own: dict[str, str] = json.loads((release_of(image) / "environment.json").read_text())
    password = {"APP_SMOKE_PASSWORD_FILE": str(HOST / "secrets" / "app_smoke_password")}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}  # psql's, on the host
    # Secrets are not where variables.env says, and what it leaves open host.env has.
    common = {name: value for name, value in values("variables.env").items() if value and not name.endswith("_FILE")}
    return outside | common | password | values("host/host.env") | own


def run(command: list[str], image: str, more: Mapping[str, str] = MappingProxyType({})) -> int:
    """Run a command as in a container of that release, which may have variables more."""
    program = [sys.executable, "-m", "chassis.cli"] if command[0] == "chassis" else [command[0]]
    environment = environment_of(image) | {**more}
    return subprocess.call([*program, *command[1:]], cwd=release_of(image), env=environment)


def start(place: str, address: str, image: str) -> None:
    with (PROCESSES / f"{place}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "chassis.cli", "serve"],
            cwd=release_of(image),
            env=environment_of(image)
            | {
                "APP_HOST": address,
                "PORT": "8000",
                "METRICS_PORT": "8001",
                "APP_ALLOWED_HOSTS": f"localhost,{address}",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (PROCESSES / f"{place}.pid").write_text(str(process.pid))


def process_of(place: str) -> int | None:
    """The process in that place, while it runs."""
    try:
        pid = int((PROCESSES / f"{place}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if state == "Z" else pid


def stop(place: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    pid = process_of(place)
    if pid:
        os.kill(pid, signal.SIGTERM)
    while pid and process_of(place):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def start_gateway(variables: dict[str, str]) -> int:
    if (HOST / "nginx.pid").exists():
        return 0
    from gateway import listens, nginx, prepare  # which takes a second, and is needed once

    port, plain_port = int(variables["GATEWAY_PORT"]), int(variables["GATEWAY_PLAIN_PORT"])
    prepare(HOST, port, plain_port, rate=100_000)
    with (HOST / "log").open("wb") as log, (HOST / "errors").open("wb") as errors:
        if subprocess.call(nginx(HOST), stdin=subprocess.DEVNULL, stdout=log, stderr=errors):
            return 1
    while not listens("127.0.0.1", port):
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
