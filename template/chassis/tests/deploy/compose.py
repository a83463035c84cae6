"""What stands in for `docker compose` when deploy.sh is tried: the same commands, and processes for containers.

A replica in place 3 is `chassis serve` on port 8000 of an address that ends in .13, as its container's would. An image
is a folder of `releases/`, with migrations and variables of its own; a container has those of host.env as well.
Whatever deploy.sh asks for that is not known here is an error.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOST = Path("host").absolute()
PROCESSES = HOST / "processes"


def main(arguments: list[str]) -> int:
    if arguments[:3] == ["image", "inspect", "--format"]:
        print(environment_of(arguments[-1])["APP_REVISION"])  # as the Dockerfile labels it
        return 0
    assert arguments[:1] == ["compose"]
    variables: dict[str, str] = dict(os.environ)
    arguments = arguments[1:]
    while arguments[0] == "--env-file":
        variables |= values(arguments[1])
        arguments = arguments[2:]
    command = " ".join(arguments)
    PROCESSES.mkdir(exist_ok=True)
    if command.startswith("up --detach --wait postgres"):
        print("the database of the test is up")
        return 0
    if command == "up --detach gateway backups":
        return start_gateway(variables)
    if command.startswith("run --rm ") and "migrate" in arguments:
        what = arguments[arguments.index("migrate") + 1 :] or ["chassis", "migrate"]
        return run(what, variables["RELEASE"])
    if command == "ps --quiet gateway":
        print("gateway" if (HOST / "nginx.pid").exists() else "", end="")
        return 0
    if command.startswith("exec -T gateway sh -c ") and command.endswith(" -s reload"):
        os.kill(int((HOST / "nginx.pid").read_text()), signal.SIGHUP)
        return 0
    return of_place(arguments, variables)


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


def values(file: str | Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in Path(file).read_text().splitlines())


def environment_of(image: str) -> dict[str, str]:
    """The variables of a process of that release, on this host."""
    own: dict[str, str] = json.loads((HOST / "releases" / image / "environment.json").read_text())
    password = {"APP_SMOKE_PASSWORD_FILE": str(HOST / "secrets" / "app_smoke_password")}
    return os.environ | password | values("host/host.env") | own


def run(command: list[str], image: str) -> int:
    """Run a command as in a container of that release."""
    program = [sys.executable, "-m", "chassis.cli"] if command[0] == "chassis" else [command[0]]
    return subprocess.call([*program, *command[1:]], cwd=HOST / "releases" / image, env=environment_of(image))


def start(place: str, address: str, image: str) -> None:
    with (PROCESSES / f"{place}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "chassis.cli", "serve"],
            cwd=HOST / "releases" / image,
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
        subprocess.check_call(nginx(HOST), stdin=subprocess.DEVNULL, stdout=log, stderr=errors)
    while not listens("127.0.0.1", port):
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
