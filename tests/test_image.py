"""The image, built and run by a Docker Engine that these tests start, on a base that stands in for python:slim.

No registry is asked for anything: the base is Debian of this machine's release, with the Python that runs the tests and
the certificates that this machine trusts. So this proves what the Dockerfile does, and nothing about python:slim.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from pythons import NEWEST, python
from test_demo import wait_for
from test_modules import made
from test_service import run

BASE = "python:stand-in"
# Debian's client knows BuildKit; another one on PATH may lack the plug-in for it.
DEBIAN = "/usr/bin:/usr/sbin"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of the stand-in: what `FROM python:slim` finds in the real one."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker Engine")
    missing = [name for name in ("dockerd", "docker", "mmdebstrap") if not shutil.which(name, path=DEBIAN)]
    if missing:
        pytest.skip(f"{', '.join(missing)} of Debian's packages docker.io and mmdebstrap is not installed")
    folder = tmp_path_factory.mktemp("base")
    prefix = Path(subprocess.check_output([python(NEWEST), "-c", "import sys; print(sys.base_prefix)"], text=True)[:-1])
    library = prefix / "lib" / f"python{NEWEST}"
    files = [prefix / "bin" / f"python{NEWEST}", library, *prefix.glob(f"lib/libpython{NEWEST}.so*")]
    linked = subprocess.run(
        ["ldd", files[0], *library.glob("lib-dynload/*.so")], capture_output=True, text=True, check=False
    )
    libraries = sorted(set(re.findall(r"=> (/(?:usr/)?lib/\S+)", linked.stdout)))
    listing = folder / "libraries"
    listing.write_text("\n".join(name.removeprefix("/usr").lstrip("/") for name in libraries))
    leave_out = ["--exclude=test", "--exclude=__pycache__", "--exclude=*.a", "--exclude=site-packages/[!p]*"]
    names = " ".join(str(file.relative_to(prefix)) for file in files)
    hooks = (
        f'tar -C {prefix} -c {" ".join(leave_out)} {names} | tar -C "$1/usr/local" -x',
        f'for name in python python3; do ln -s python{NEWEST} "$1/usr/local/bin/$name"; done',
        f'tar -C / -c -h -T {listing} | tar -C "$1" -x --skip-old-files --keep-directory-symlink',
        'cat /etc/ssl/certs/ca-certificates.crt >"$1/etc/ssl/certs/ca-certificates.crt"; chroot "$1" ldconfig',
        'mkdir "$1/etc/uv"; echo "system-certs = true" >"$1/etc/uv/uv.toml"',
    )
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    sources = [*Path("/etc/apt").glob("sources.list.d/debian.sources"), *Path("/etc/apt").glob("sources.list")]
    command = ["mmdebstrap", "--quiet", "--variant=essential", "--include=ca-certificates,tzdata"]
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
    without += ["--dpkgopt=force-unsafe-io"]
    customized = [f"--customize-hook={hook}" for hook in hooks]
    target = folder / "base.tar"
    subprocess.run([*command, *without, *customized, release["VERSION_CODENAME"], target, *sources], check=True)
    return target


@pytest.fixture(scope="module")
def engine(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of a Docker Engine that has the stand-in, for as long as these tests run."""
    folder = tmp_path_factory.mktemp("docker")
    address = f"unix://{folder}/socket"
    command = [
        *("dockerd", f"--host={address}", f"--data-root={folder}/data", f"--exec-root={folder}/exec"),
        *(f"--pidfile={folder}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"),
        "--default-ulimit=nofile=20000:20000",  # with this machine's, Python would close a billion files
    ]
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PATH": f"{DEBIAN}:/bin:/sbin"})
    try:
        wait_for("API listen on", folder / "log", daemon)
        as_in_python_slim = ["--change=ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"]
        docker = ["docker", f"--host={address}", "import", *as_in_python_slim, "--change=ENV LANG=C.UTF-8"]
        subprocess.run([*docker, base, BASE], env={"PATH": DEBIAN}, check=True, stdout=subprocess.DEVNULL)
        yield address
    finally:
        daemon.terminate()
        daemon.wait(60)
        for mount in re.findall(rf"(?m)^\S+ ({re.escape(str(folder))}\S*)", Path("/proc/self/mounts").read_text()):
            subprocess.run(["umount", mount], check=True)  # or nobody could remove the folder


def test_the_image_is_built_and_keeps_every_promise(
    template: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The rendered service's own rehearsal of its image; of the renders, the one whose image has most in it."""
    folder = made(template, tmp_path / "my-service", deploy_target="aws-ecs", shared_store="valkey")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{DEBIAN}:/bin")
    monkeypatch.setenv("DOCKER_HOST", engine)
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    monkeypatch.setenv("PYTHON_IMAGE", BASE)
    said = run(folder, ".venv/bin/pytest", "-n0", "-rs", "chassis/tests/deploy/rehearse_image.py")
    assert re.search(r"^=+ \d+ passed in [^,]*$", said, re.MULTILINE), said
