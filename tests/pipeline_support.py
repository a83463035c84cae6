"""A rendered repository whose workflows act runs for real, with stand-ins for all that is on the other side of them.

Every program that the pipeline calls to reach something (a registry, GitHub, a host, a cloud) is one script, which
writes down that it was called, and fails where the test wants it to; `chassis parity` alone is the real one. Actions of
others are stubs that do the same.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import yaml

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
IMAGE = f"ghcr.io/example-org/my-service@{DIGEST}"
PARITY = '{"environment": "%s", "variables": ["DATABASE_URL"], "versions": {"PostgreSQL": "18.4"}}'
PROGRAMS = ("docker", "gh", "ssh", "ssh-add", "aws", "uv", "make", "grype", "curl")

# A call is a line: the environment it is for, the program, its arguments.
_STAND_IN = f"""#!/usr/bin/env bash
call="${{ENVIRONMENT:--}} ${{0##*/}} $*"
printf '%s\\n' "$call" >>"$CALLS"
while IFS= read -r pattern; do
  # shellcheck disable=SC2053
  [[ -z $pattern || $call != $pattern ]] || {{ echo "red: $call" >&2; exit 1; }}
done <<<"$RED"
case $call in
*" docker buildx build "*)
  while [[ $1 != --metadata-file ]]; do shift; done
  echo '{{"containerimage.digest": "{DIGEST}"}}' >"$2" ;;
*" deploy.sh --on "*" parity "*)
  [[ $ENVIRONMENT == production && -n $OTHER ]] && echo "$OTHER" || printf '{PARITY}' "$ENVIRONMENT" ;;
*" chassis parity "*)
  folder=${{4%%:*}} # which the container has as /parity
  cd "${{0%/*}}/.." && PYTHONPATH=chassis \\
    {sys.executable} -m chassis.cli parity "$folder/staging.json" "$folder/production.json" ;;
*" chassis smoke "*) : "${{APP_SMOKE_EMAILS:?}}" "${{APP_SMOKE_PASSWORD:?}}" ;;
*" ssh "*" tar "*) cat >/dev/null ;;
*" gh api users/"* | *" gh api orgs/"*) echo 42 ;;
*" gh api --paginate "*/deployment-branch-policies*) printf '%s' "$POLICIES" ;;
*" gh api "*/codeowners/errors*) printf '%s' "$UNOWNED" ;;
*" gh api "*/compare/*)
  between=${{2##*/}} before=${{between%...*}} after=${{between#*...}}
  git cat-file -e "$before" || exit 1
  case $(git merge-base "$before" "$after") in
  "$after") [[ $before == "$after" ]] && echo identical || echo behind ;;
  "$before") echo ahead ;;
  *) echo diverged ;;
  esac ;;
*" gh api "*/commits/main*) git rev-parse main ;;
*" curl "*) [[ -n $SERVING ]] && printf '{{"version": "1", "revision": "%s"}}' "$SERVING" ;;
*" gh pr list "* | *" gh issue list "*) echo "$OTHER" ;;
*" --input - "*) cat >/dev/null ;;
*" --body-file "*)
  while [[ $1 != --body-file ]]; do shift; done
  cat "$2" >"$CALLS.body" ;;
*" grype "*) cp "$3" "$CALLS.grype.yaml"; echo '{{"bomFormat": "CycloneDX"}}' >sbom.cdx.json ;;
esac
"""

_ACTION = """\
name: stub
description: a stub
inputs: {{subject-name: {{}}, subject-digest: {{}}, sbom-path: {{}}, path: {{}}, role-to-assume: {{}}}}
outputs:
  cmd:
    description: of the scanner
    value: grype
runs:
  using: composite
  steps:
    - shell: bash
      run: >-
        echo "${{{{ env.ENVIRONMENT || '-' }}}} {name} ${{{{ inputs.subject-name }}}} ${{{{ inputs.subject-digest }}}}
        ${{{{ inputs.sbom-path }}}} ${{{{ inputs.role-to-assume }}}}" >>"$CALLS"
    - if: endsWith('{name}', '/upload-artifact')
      shell: bash
      run: cp -r "${{{{ inputs.path }}}}" "$CALLS.artifact"
    - if: endsWith('{name}', '/download-artifact')
      shell: bash
      run: cp -r "$CALLS.artifact" "${{{{ inputs.path }}}}"
"""


@dataclass
class Outcome:
    """How a run of a workflow ended: its exit code, all that it printed, and what it called."""

    code: int
    output: str
    calls: list[str] = field(default_factory=list[str])

    def calls_of(self, pattern: str) -> list[str]:
        return [call for call in self.calls if re.search(pattern, call)]


@dataclass(frozen=True)
class Repository:
    """A rendered service under git, and the folder that its stand-ins are in."""

    root: Path
    beside: Path

    def workflow(self, name: str) -> dict[Any, Any]:
        return yaml.safe_load((self.root / ".github" / "workflows" / name).read_text())

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert text.count(old) >= 1, f"{path} has no {old!r}"
        (self.root / path).write_text(text.replace(old, new))
        self.commit()

    def commit(self) -> None:
        for command in (["add", "--all"], ["commit", "--quiet", "--allow-empty", "--message=Change"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)

    def head(self) -> str:
        """The commit that is checked out."""
        return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=self.root, text=True).strip()

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: nothing of the person's or the machine's but where programs are."""
        return {"PATH": f"{self.beside / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.beside / "home")}

    def act(
        self,
        event: str = "push",
        *,
        workflow: str = "deliver.yml",
        red: str = "",
        other: str = "",
        serving: str = "",
        **variables: str,
    ) -> Outcome:
        """Run a workflow. A call that matches a line of `red` fails; `other` is what production has instead.

        `serving` is the revision that is in service; without one, nothing answers.
        """
        variables = {"PUBLIC_URL": "https://api.example.com"} | variables
        smoke = ("APP_SMOKE_EMAILS", "APP_SMOKE_PASSWORD")
        secrets = ("DEPLOY_SSH_KEY", "DEPLOY_KNOWN_HOSTS", *smoke, "TEMPLATE_UPDATE_TOKEN")
        command = ["act", event, "--workflows", f".github/workflows/{workflow}", "--no-cache-server"]
        command += ["--platform=ubuntu-24.04=-self-hosted", "--actor=somebody", "--secret=GITHUB_TOKEN=token"]
        command += [f"--local-repository={action}={self.beside / 'actions' / action}" for action in self.actions()]
        command += [f"--secret={name}=secret" for name in secrets]
        command += [f"--var={name}={value}" for name, value in variables.items()]
        command += [f"--env=CALLS={self.calls}", f"--env=RED={red}", f"--env=OTHER={other}"]
        command += [f"--env=SERVING={serving}"]
        return self._run(command, {})

    def release(self, *arguments: str, **variables: str) -> Outcome:
        """Run a command of deploy/release.sh by itself, as a person would."""
        given = {
            "CALLS": str(self.calls),
            "RED": "",
            "OTHER": "",
            "SERVING": "",
            "GITHUB_REPOSITORY": "example-org/my-service",
        }
        return self._run(["deploy/release.sh", *arguments], given | variables)

    @property
    def calls(self) -> Path:
        """Where stand-ins write down that they were called."""
        return self.beside / "calls"

    def _run(self, command: list[str], variables: dict[str, str]) -> Outcome:
        self.calls.write_text("")
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout, self.calls.read_text().splitlines())

    def actions(self) -> Iterator[str]:
        """Every action of others that the workflows use, as owner/name@commit."""
        for path in (self.root / ".github" / "workflows").glob("*.yml"):
            for owner, name, commit in re.findall(r"uses: ([\w-]+)/([\w-]+)[\w/-]*@(\w+)", path.read_text()):
                yield f"{owner}/{name}@{commit}"


def prepare(rendered: Path, beside: Path) -> Repository:
    """Put a render under git, with stand-ins. What act does not know yet is written in the way that it does."""
    repository = Repository(rendered, beside)
    shutil.copytree(rendered / "chassis" / "src", beside / "chassis")
    for folder in ("chassis", "docs", "migrations", "src", "tests"):  # act copies all there is for each job
        shutil.rmtree(rendered / folder)
    (beside / "bin").mkdir(parents=True)
    (beside / "home").mkdir()
    for name in PROGRAMS:
        _script(beside / "bin" / name, _STAND_IN)
    if (rendered / "deploy" / "deploy.sh").exists():
        shutil.move(rendered / "deploy" / "deploy.sh", beside / "deploy.sh")
    _script(rendered / "deploy" / "deploy.sh", _STAND_IN)
    for path in (rendered / ".github" / "workflows").glob("*.yml"):
        path.write_text(path.read_text().replace("uses: $/", "uses: ./"))
    for action in repository.actions():
        folder = beside / "actions" / action
        for place in (folder, folder / "download-grype"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "action.yml").write_text(_ACTION.format(name=action.partition("@")[0]))
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=rendered, check=True)
    origin = "https://github.com/example-org/my-service.git"
    subprocess.run(["git", "remote", "add", "origin", origin], cwd=rendered, check=True)
    repository.commit()
    return repository


def copy(repository: Repository, target: Path) -> Repository:
    """The same once more, to change."""
    shutil.copytree(repository.root, target / "service", symlinks=True)
    shutil.copytree(repository.beside, target / "beside", ignore=shutil.ignore_patterns("home"))
    (target / "beside" / "home").mkdir()
    return Repository(target / "service", target / "beside")


class Answering(BaseHTTPRequestHandler):
    """What stands in for somebody's HTTP service: its methods `answer`, and nothing is printed.

    A class of it names BaseHTTPRequestHandler too, by which ruff knows whose names do_GET and do_POST are.
    """

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as it is called there)
        pass


@contextmanager
def served(server: BaseServer) -> Generator[None]:
    """Have it answer for the length of the block."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
