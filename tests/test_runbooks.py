"""Every block of a runbook is run: `sh` in test_service_pages.py, `sh host` in rehearse_runbooks.py, the others here.

`sh aws` has the real AWS CLI against moto, in a place that is called what Terraform calls it; what is stood in for is
said in test_deploy_aws.py. `sh github` has the real gh against a stand-in for GitHub.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
import yaml
from conftest import Render, copy_template
from pipeline_support import Answering, served
from pythons import NEWEST, python
from test_deploy_aws import DIGESTS, FIRST, SECOND, Account, moto
from test_documentation import blocks
from test_monitoring import program
from test_service import run
from test_service_pages import serving
from test_terraform import DATABASE, ask, tools

__all__ = ["moto", "tools"]

TERRAFORM = """#!{python}
import json, sys
from pathlib import Path
folder, *arguments = sys.argv[1:]
assert Path(folder.removeprefix("-chdir="), "main.tf").is_file()
with Path({here!r}, "asked").open("a") as asked:
    print("terraform", *arguments, file=asked)
if arguments == ["output", "-json", "service"]:
    print(Path({here!r}, "output").read_text())
else:
    assert arguments in {known!r}
"""


@pytest.fixture(params=[{}, {"shared_store": "valkey", "deploy_target": "aws-ecs"}], ids=["default", "other"])
def rendered(render: Render, request: pytest.FixtureRequest) -> Path:
    return render(**request.param)


def test_every_block_of_a_runbook_is_of_a_kind_that_is_run(rendered: Path):
    kinds = {"sh", "sh github", "sh host" if (rendered / "deploy" / "compose.yaml").exists() else "sh aws"}
    found = set[str]()
    for page in (rendered / "docs" / "runbooks").glob("*.md"):
        fences = re.findall(r"^\s*(?:```|~~~)(.*)$", page.read_text(), re.MULTILINE)
        assert fences[1::2] == [""] * (len(fences) // 2), page.name
        found |= set(fences[::2])
    assert found == kinds


class TestOnAws:
    """A service whose name is longer than those of AWS may be."""

    @pytest.fixture(scope="class")
    @classmethod
    def project(cls, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("runbooks") / "service"
        return copy_template(template, folder, deploy_target="aws-ecs", package_name="a_service_of_many_words")

    @pytest.fixture
    def account(self, project: Path, tools: Path, moto: str, tmp_path: Path) -> Account:
        ask(moto, "POST", "/moto-api/reset")
        account = Account(tmp_path, project / "deploy", tools, moto, "production")
        (tmp_path / "output").write_text(json.dumps({"deployment": account.deployment}))
        known = [["state", "rm", DATABASE], ["import", DATABASE, account.deployment["cluster"]], ["apply"]]
        text = TERRAFORM.format(python=sys.executable, here=str(tmp_path), known=known)
        (tmp_path / "terraform").write_text(text)
        (tmp_path / "terraform").chmod(0o755)
        return account

    def follow(self, account: Account, page: Path, *, only: slice = slice(None)) -> str:
        """Run every block of a page, or only some, from the top; returns what that printed."""
        commands = "".join(blocks(page, "sh aws")[only])
        assert commands
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", commands],
            cwd=page.parents[2],
            env=account.environment | {"IMAGE": SECOND},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def test_every_page_with_commands_is_followed(self, project: Path):
        pages = {page.name for page in (project / "docs" / "runbooks").glob("*.md") if blocks(page, "sh aws")}
        assert pages == {"alerts.md", "deploy.md", "keys.md", "restore.md"}

    def test_a_release_is_deployed_and_the_one_before_comes_back(self, account: Account, project: Path):
        account.deployed(DIGESTS[0])
        said = self.follow(account, project / "docs" / "runbooks" / "deploy.md")
        assert f"{account.in_repository(DIGESTS[1])} serves alone" in said
        assert account.serving == account.in_repository(DIGESTS[0])

    @pytest.mark.parametrize(
        ("page", "families"), [("alerts.md", ["migrate", "backup"]), ("keys.md", ["migrate", "migrate"])]
    )
    def test_tasks_do_what_they_are_told(
        self, account: Account, project: Path, page: str, families: list[str], beside_make_dev: dict[str, str]
    ):
        account.will(says=("said by the task",))
        assert "said by the task" in self.follow(account, project / "docs" / "runbooks" / page)
        started = re.findall(r"^ecs run-task .* --task-definition (\S+)", account.asked, re.MULTILINE)
        assert started == [account.deployment["families"][name] for name in families]
        assert len(account.told) == len(families)
        for command in account.told:
            done = subprocess.run(command, cwd=project, env=beside_make_dev, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()

    @pytest.fixture(scope="class")
    @classmethod
    def beside_make_dev(cls, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str]]:
        """The environment of a task whose database is the one of `make dev`."""
        run(project, "uv", "sync", "--quiet", "--python", str(python(NEWEST)))
        with serving(project, tmp_path_factory.mktemp("dev") / "log"):
            password, port = (
                (project / ".dev" / "postgres" / name).read_text().strip() for name in ("password", "port")
            )
            url = f"postgresql://postgres:{password}@127.0.0.1:{port}/a_service_of_many_words"
            yield os.environ | {"PATH": f"{project}/.venv/bin:{os.environ['PATH']}", "MIGRATOR_DATABASE_URL": url}

    def test_the_database_of_before_takes_the_place_of_the_one_that_is(self, account: Account, project: Path):
        assert account.run("--on", "production", FIRST).returncode == 0
        self.follow(account, project / "docs" / "runbooks" / "restore.md", only=slice(3))
        place = account.deployment["cluster"]
        found = "boto3.client('rds').describe_db_instances()['DBInstances']"
        instances = json.loads(account.python(f"import boto3, json; print(json.dumps({found}, default=str))"))
        new, old = sorted(instances, key=lambda instance: instance["DBInstanceIdentifier"])
        assert (old["DBInstanceIdentifier"], new["DBInstanceIdentifier"]) == (f"{place}-before", place)
        assert new["DBParameterGroups"][0]["DBParameterGroupName"] == place, "the one that forces TLS"
        assert new["VpcSecurityGroups"] == old["VpcSecurityGroups"]
        assert (new["MultiAZ"], new["DeletionProtection"], new.get("PubliclyAccessible", False)) == (True, True, False)
        told = account.asked
        order = [
            "--desired-count 0",
            "restore-db-instance-to",
            "state rm",
            "import",
            "terraform apply",
            "--desired-count 2",
        ]
        assert sorted(order, key=told.index) == order
        assert account.serving == account.in_repository(DIGESTS[0])

    def test_a_backup_is_restored_with_a_key_that_does_not_stay(self, account: Account, project: Path):
        assert account.run("--on", "production", FIRST).returncode == 0
        account.python("import boto3; boto3.client('secretsmanager').create_secret(Name='identity')")
        output = {"deployment": account.deployment, "backup_identity_secret": "identity"}
        (account.folder / "output").write_text(json.dumps(output))
        (account.folder / "key").write_text("AGE-SECRET-KEY-1")
        account.environment["KEY"] = str(account.folder / "key")
        account.will(says=("restored",))
        said = self.follow(account, project / "docs" / "runbooks" / "restore.md", only=slice(3, None))
        assert "restored\n" in said
        place = account.deployment["cluster"]
        assert account.image("restore") == account.in_repository(DIGESTS[0])
        told = account.asked
        order = [
            "--desired-count 0",
            f"--new-db-instance-identifier {place}-lost",
            "terraform state rm",
            "terraform apply",
            "put-secret-value --secret-id identity",
            f":task-definition/{place}-restore:",
            "delete-secret",
        ]
        assert sorted(order, key=told.index) == order
        assert told.endswith("terraform apply\n"), "which makes the secret again, and empty"
        left = account.python("import boto3; print(boto3.client('secretsmanager').list_secrets()['SecretList'])")
        assert left == "[]\n"


class TestOnGitHub:
    @contextmanager
    def github(self, project: Path, address: Path) -> Generator[list[str]]:
        """What is asked of GitHub, which has the workflows of this project and lets them be run by hand."""
        asked: list[str] = []

        class GitHub(Answering, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path}")
                status = 404
                answer: dict[str, Any] = {}
                if found := re.search(r"/actions/workflows/([^/?]+\.yml)$", self.path):
                    if (project / ".github" / "workflows" / found[1]).is_file():
                        status, answer = 200, {"id": 1, "name": found[1], "path": found[1], "state": "active"}
                elif self.path.partition("?")[0].endswith("/actions/workflows/1/runs"):
                    status, answer = 200, {"total_count": 0, "workflow_runs": list[Any]()}
                elif self.path == "/repos/example-org/my-service":
                    status, answer = 200, {"name": "my-service", "default_branch": "main"}
                self.answer(json.dumps(answer).encode(), status)

            def do_POST(self) -> None:
                asked.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/graphql":
                    repository = {"id": "1", "name": "my-service", "defaultBranchRef": {"name": "main"}}
                    self.answer(json.dumps({"data": {"repository": repository}}).encode())
                else:
                    self.answer(b"", 204 if json.loads(body)["ref"] == "main" else 422)

        with served(UnixStreamServer(str(address), GitHub)):
            yield asked

    def test_a_drill_is_started_by_hand(self, render: Render, tmp_path: Path):
        gh, project = program("gh"), render()
        (commands,) = blocks(project / "docs" / "runbooks" / "alerts.md", "sh github")
        (tmp_path / "config.yml").write_text(f"http_unix_socket: {tmp_path / 'socket'}\n")
        environment = {
            "PATH": f"{Path(gh).parent}:{os.environ['PATH']}",
            "GH_CONFIG_DIR": str(tmp_path),
            "GH_TOKEN": "of nobody",
            "GH_REPO": "example-org/my-service",
        }
        with self.github(project, tmp_path / "socket") as asked:
            done = subprocess.run(
                ["bash", "-euc", commands], cwd=project, env=environment, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, done.stderr
        begun = [line for line in asked if line.endswith("/dispatches")]
        assert begun == ["POST /repos/example-org/my-service/actions/workflows/1/dispatches"]
        assert any("/workflows/1/runs" in line for line in asked)
        for name in re.findall(r"\S+\.yml", commands):
            triggers = yaml.safe_load((project / ".github" / "workflows" / name).read_text())[True]  # `on`, to YAML
            assert "workflow_dispatch" in triggers
