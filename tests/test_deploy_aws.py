"""deploy.sh of aws-ecs, with the real AWS CLI against moto, which knows what ECS and ECR take and runs nothing.

What is stood in for: tasks end as a test says, what they say is in no log group, a service changes over as a test says,
and docker only puts a manifest into ECR. All else that the script asks of AWS, moto takes or refuses.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_template
from test_terraform import ask, moto_server, names, tools

__all__ = ["tools"]

MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
RELEASES = [json.dumps(MANIFEST | {"config": {"digest": name}}) for name in ("one", "two")]
DIGESTS = [f"sha256:{hashlib.sha256(release.encode()).hexdigest()}" for release in RELEASES]
FIRST, SECOND = (f"ghcr.io/example-org/my-service@{digest}" for digest in DIGESTS)
CHANGED = f"ghcr.io/example-org/changed@sha256:{'0' * 64}"

# What Terraform leaves behind, in as far as deployments and runbooks touch it. Its argument: what things are called.
MADE = """
import boto3, json, sys
made = json.loads(sys.argv[1])
ecs, ecr, ec2, rds, logs = (boto3.client(name) for name in ("ecs", "ecr", "ec2", "rds", "logs"))
subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
network = dict(subnets=subnets[:1], securityGroups=[group], assignPublicIp="DISABLED")
place = made["cluster"]
repository = ecr.create_repository(repositoryName=place)["repository"]["repositoryUri"]
ecs.create_cluster(clusterName=place)
for name, family in made["families"].items():
    container = dict(name="service", image=repository + ":none", command=["chassis", name], cpu=256, memory=512)
    ecs.register_task_definition(
        family=family, containerDefinitions=[container], networkMode="awsvpc", cpu="256", memory="512",
        requiresCompatibilities=["FARGATE"], taskRoleArn="arn:aws:iam::123456789012:role/task",
        tags=[dict(key="Service", value="my-service")],
    )
ecs.create_service(
    cluster=place, serviceName=made["service"], taskDefinition=made["families"]["serve"], desiredCount=1,
    launchType="FARGATE", networkConfiguration=dict(awsvpcConfiguration=network),
)
for group in (made["log_group"], f"/{place}/tasks"):
    logs.create_log_group(logGroupName=group)
rds.create_db_subnet_group(DBSubnetGroupName=place, DBSubnetGroupDescription="-", SubnetIds=subnets)
rds.create_db_parameter_group(DBParameterGroupName=place, DBParameterGroupFamily="postgres18", Description="-")
rds.create_db_instance(
    DBInstanceIdentifier=place, Engine="postgres", DBInstanceClass="db.t4g.micro", AllocatedStorage=20,
    MasterUsername="migrator", MasterUserPassword="a long password", DBSubnetGroupName=place,
    VpcSecurityGroupIds=[group],
)
made |= dict(repository=repository, subnets=network["subnets"], security_group=group)
print(json.dumps(made))
"""

AWS = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
here, real, arguments = Path({here!r}), {real!r}, sys.argv[1:]
with (here / "asked").open("a") as asked:
    print(*arguments, file=asked)
scenario = json.loads((here / "scenario").read_text())
if arguments[:2] == ["ecs", "run-task"]:
    with (here / "tasks").open("a") as tasks:
        print(arguments[arguments.index("--overrides") + 1], file=tasks)
match arguments[:2]:
    case ["ecs", "describe-tasks"]:
        codes, begun = scenario["exit"], (here / "asked").read_text().count("ecs run-task")
        code = codes[min(begun, len(codes)) - 1]
        print(json.dumps(dict(lastStatus="STOPPED", stoppedReason="Essential container exited",
                              containers=[dict(exitCode=code) if code is not None else dict(reason="CannotPull")])))
    case ["logs", "get-log-events"]:
        print(json.dumps(dict(events=[dict(message=line) for line in scenario["says"]])))
    case ["ecs", "update-service"] if scenario["rollout"] != "good":
        (here / "refused").write_text(arguments[arguments.index("--task-definition") + 1])
    case ["ecs", "describe-services"] if arguments[-1] == "services[0]":  # as deploy.sh asks
        service = json.loads(subprocess.check_output([real, *arguments]))
        serving = dict(rolloutState="COMPLETED", taskDefinition=service["taskDefinition"])
        service["deployments"] = [serving]
        service["events"] = [dict(message="(service serve) deployment failed: tasks failed to start.")]
        if (here / "refused").exists():
            new = (here / "refused").read_text()
            if scenario["rollout"] == "stuck":
                service["deployments"] = [dict(rolloutState="FAILED", taskDefinition=new), serving]
            elif new not in (here / "asked").read_text().rpartition("update-service")[2]:
                pass
            elif not (here / "seen").exists():
                (here / "seen").touch()
                service["deployments"] = [dict(rolloutState="IN_PROGRESS", taskDefinition=new), serving]
        print(json.dumps(service))
    case _:
        os.execv(real, [real, *arguments])
"""

DOCKER = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
here, real, arguments = Path({here!r}), {real!r}, sys.argv[1:]
with (here / "asked").open("a") as asked:
    print("docker", *arguments, file=asked)
if arguments[0] == "login":
    sys.exit(not sys.stdin.read())
assert arguments[:3] == ["buildx", "imagetools", "create"], arguments
manifests = json.loads((here / "manifests").read_text())
name, tag = arguments[arguments.index("--tag") + 1].split("/", 1)[1].rsplit(":", 1)
put = ["ecr", "put-image", "--repository-name", name, "--image-tag", tag]
digest, manifest = manifests[arguments[-1]]
put += ["--image-digest", digest, "--image-manifest", manifest]
sys.exit(subprocess.call([real, *put], stdout=subprocess.DEVNULL))
"""


class Account:
    """An account of AWS in which a service is, and `deploy.sh` on a machine that is signed in to it."""

    def __init__(self, folder: Path, deploy: Path, tools: Path, endpoint: str, environment: str = "staging") -> None:
        self.folder, self._deploy, self._tools = folder, deploy, tools
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "AWS_ENDPOINT_URL": f"http://{endpoint}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "NO_PROXY": "127.0.0.1",
            "AWS_MAX_ATTEMPTS": "1",
            "POLL_SECONDS": "0",
            "LOG_SECONDS": "2",
        }
        for name, script in {"aws": AWS, "docker": DOCKER}.items():
            real = {"here": str(folder), "real": str(tools / "aws"), "python": sys.executable}
            text = script
            for key, value in real.items():
                text = text.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", value)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        copies = dict(zip((FIRST, SECOND), zip(DIGESTS, RELEASES, strict=True), strict=True))
        copies[CHANGED] = copies[SECOND]
        (folder / "manifests").write_text(json.dumps(copies))
        self.will()
        called = names(deploy / "terraform", environment)
        self.deployment: dict[str, Any] = json.loads(self.python(MADE, json.dumps(called)))
        self._cluster, self._families = called["cluster"], called["families"]

    def will(self, *codes: int | None, says: tuple[str, ...] = (), rollout: str = "good") -> None:
        """What services do from now on, and how one task after the other ends."""
        (self.folder / "scenario").write_text(json.dumps({"exit": codes or (0,), "says": says, "rollout": rollout}))
        for name in ("asked", "refused", "seen", "tasks"):
            (self.folder / name).unlink(missing_ok=True)

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = self.environment | {"DEPLOYMENT": json.dumps(self.deployment)} | variables
        command = [self._deploy / "deploy.sh", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    def deployed(self, digest: str) -> None:
        """Make the image with this digest the one that serves, without `deploy.sh`, whose every call takes a second."""
        image = self.in_repository(digest)
        container = {"name": "service", "image": image, "cpu": 256, "memory": 512}
        code = f"import boto3; ecs = boto3.client('ecs'); container = {container!r}"
        for name in ("serve", "backup"):
            family = f"family='{self._families[name]}', networkMode='awsvpc', cpu='256', memory='512'"
            code += f"; ecs.register_task_definition({family}, containerDefinitions=[container])"
        serving = f"{self._families['serve']}:2"
        code += f"; ecs.update_service(cluster='{self._cluster}', service='serve', taskDefinition='{serving}')"
        self.python(code)

    def applied(self, **variables: str) -> None:
        """What `terraform apply` does with other variables: a revision of each task definition, with no image."""
        environment = [{"name": name, "value": value} for name, value in variables.items()]
        container = {"name": "service", "cpu": 256, "memory": 512, "environment": environment}
        container |= {"image": f"{self.deployment['repository']}:none"}
        code = f"import boto3; ecs = boto3.client('ecs'); container = {container!r}"
        for family in self._families.values():
            more = "networkMode='awsvpc', cpu='256', memory='512'"
            code += f"; ecs.register_task_definition(family='{family}', {more}, containerDefinitions=[container])"
        self.python(code)

    @property
    def asked(self) -> str:
        return (self.folder / "asked").read_text()

    @property
    def told(self) -> list[list[str]]:
        """What tasks were to run in place of their own command."""
        overrides = map(json.loads, (self.folder / "tasks").read_text().splitlines())
        return [each["command"] for override in overrides for each in override.get("containerOverrides", [])]

    def image(self, family: str) -> str:
        """Of the newest revision."""
        return self._newest(family)["image"]

    @property
    def serving(self) -> str:
        return self._service["image"]

    @property
    def variables(self) -> list[set[str]]:
        """Of what serves, and of what makes the next backup."""
        return [{each["name"] for each in found["environment"]} for found in (self._service, self._newest("backup"))]

    @property
    def _service(self) -> dict[str, Any]:
        found = f"describe_services(cluster={self._cluster!r}, services=['serve'])['services'][0]['taskDefinition']"
        return self._container(f"describe_task_definition(taskDefinition=ecs.{found})")

    def _newest(self, family: str) -> dict[str, Any]:
        return self._container(f"describe_task_definition(taskDefinition={self._families[family]!r})")

    def in_repository(self, digest: str) -> str:
        return f"{self.deployment['repository']}@{digest}"

    def _container(self, call: str) -> dict[str, Any]:
        code = f"import boto3, json; ecs = boto3.client('ecs'); found = ecs.{call}['taskDefinition']"
        return json.loads(self.python(f"{code}; print(json.dumps(found['containerDefinitions'][0]))"))

    def python(self, code: str, *arguments: str) -> str:
        command = [self._tools / "python", "-c", code, *arguments]
        return subprocess.check_output(command, env=self.environment, text=True)


@pytest.fixture(scope="module")
def deploy(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ecs") / "service"
    return copy_template(template, folder, deploy_target="aws-ecs") / "deploy"


@pytest.fixture(scope="module")
def moto(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with moto_server(tools, tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture
def account(deploy: Path, tools: Path, moto: str, tmp_path: Path) -> Account:
    ask(moto, "POST", "/moto-api/reset")
    return Account(tmp_path, deploy, tools, moto)


def test_the_first_release_goes_into_service(account: Account):
    none = account.run("back")
    assert (none.returncode, none.stderr) == (1, "deploy: there is no release before this one\n")

    done = account.run("--on", "staging", FIRST)
    assert done.returncode == 0, done.stderr
    first = account.in_repository(DIGESTS[0])
    assert f"deploy: {first} serves alone, after" in done.stdout
    assert [account.image(name) for name in ("migrate", "serve", "backup")] == [first] * 3
    assert account.serving == first
    told = account.asked.splitlines()
    steps = [line.split()[1] for line in told if line.startswith(("ecs run-task", "ecs update-service"))]
    assert steps == ["run-task", "run-task", "update-service"], "migrated, and tried by whom, before it serves"
    assert account.told == [["chassis", "accounts", "smoke"]]
    assert '"assignPublicIp":"DISABLED"' in account.asked


def test_the_release_before_comes_back_even_after_the_same_one_twice(account: Account):
    first, second = map(account.in_repository, DIGESTS)
    account.deployed(DIGESTS[0])
    for _ in range(2):
        assert account.run(SECOND).returncode == 0
    assert account.serving == second
    assert account.asked.count("imagetools") == 1, "what is in the repository is not copied again"

    account.will()
    done = account.run("back")
    assert done.returncode == 0, done.stderr
    assert account.serving == account.image("backup") == first
    assert "run-task" not in account.asked, "going back migrates nothing"


def test_a_release_that_goes_back_takes_its_own_variables_along(account: Account):
    """It may not know those of a newer one, and would refuse them."""
    first, second = map(account.in_repository, DIGESTS)
    for release, variable in ((FIRST, "APP_FORMER"), (SECOND, "APP_LATTER")):
        account.applied(**{variable: "on"})
        assert account.run(release).returncode == 0
        assert account.variables == [{variable}, {variable}]

    done = account.run("back")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"deploy: {first} serves alone, after")
    assert account.serving == account.image("backup") == first
    assert account.variables == [{"APP_FORMER"}, {"APP_FORMER"}]
    none = account.run("back")
    assert (none.returncode, none.stderr) == (1, "deploy: there is no release before this one\n")

    assert account.run(SECOND).returncode == 0
    assert account.serving == account.image("backup") == second
    assert account.variables == [{"APP_LATTER"}, {"APP_LATTER"}]


def test_a_migration_that_fails_ends_it(account: Account):
    for code, why in ((1, "exited with 1: Essential"), (None, "exited with none: CannotPull")):
        account.will(code, says=("chassis: relation exists",))
        failed = account.run(FIRST)
        assert failed.returncode == 1
        assert "chassis: relation exists\n" in failed.stderr
        assert why in failed.stderr
        assert failed.stderr.endswith("deploy: the migration failed: no task was touched\n")
        assert "update-service" not in account.asked
    assert account.serving.endswith(":none")


def test_without_accounts_for_the_smoke_test_nothing_is_touched(account: Account):
    account.will(0, 1, says=("chassis: account 1 of 2 is somebody's already",))
    failed = account.run(FIRST)
    assert failed.returncode == 1
    assert "is somebody's already\n" in failed.stderr
    assert failed.stderr.endswith("deploy: the smoke test has no accounts: no task was touched\n")
    assert "update-service" not in account.asked


@pytest.mark.parametrize(
    ("rollout", "why"),
    [("back", "ECS went back: {} serves alone again"), ("stuck", "nothing that ECS could go back to")],
)
def test_a_release_that_does_not_get_ready_fails(account: Account, rollout: str, why: str):
    account.deployed(DIGESTS[0])
    account.will(rollout=rollout)
    failed = account.run(SECOND)
    assert failed.returncode == 1
    assert "tasks failed to start." in failed.stderr
    assert why.format(account.in_repository(DIGESTS[0])) in failed.stderr
    assert "serves alone, after" not in failed.stdout
    assert account.image("backup") == account.in_repository(DIGESTS[0]), "what does not serve makes no backups"


def test_parity_prints_what_the_image_finds_and_nothing_else(account: Account):
    account.will(says=('{"event": "a line of the log"}', "{", '"environment": "staging"', "}"))
    done = account.run("--on", "staging", "parity", FIRST)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"environment": "staging"}
    assert account.told == [["chassis", "parity"]]
    assert account.image("migrate") == account.in_repository(DIGESTS[0])
    assert "update-service" not in account.asked

    account.will(says=("nothing",))
    failed = account.run("parity", FIRST)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.endswith("the log does not have what chassis parity printed\n")


def test_a_command_runs_in_a_task_and_what_it_says_is_printed(account: Account):
    account.will(says=("backed up", "in 2 s"))
    done = account.run("--on", "staging", "run", "backup", "chassis", "backup")
    assert (done.returncode, done.stdout) == (0, "backed up\nin 2 s\n"), done.stderr
    assert account.told == [["chassis", "backup"]]
    assert "--task-definition my-service-staging-backup " in account.asked

    account.will(1, says=("no such table",))
    failed = account.run("sql", "select 'a  b'")
    assert failed.returncode == 1
    assert failed.stderr.startswith("no such table\n")
    ((*_, code, statement),) = account.told
    assert (code.count("MIGRATOR_DATABASE_URL"), statement) == (1, "select 'a  b'")
    assert "--task-definition my-service-staging-migrate " in account.asked

    account.will(says=())
    silent = account.run("run", "migrate", "true")
    assert (silent.returncode, silent.stdout) == (1, "")
    assert silent.stderr == "deploy: it exited with 0, and the log does not have what it said\n"


def test_a_backup_is_restored_by_a_task_with_the_image_that_serves(account: Account, tmp_path: Path):
    account.deployed(DIGESTS[0])
    account.will(says=("restored",))
    done = account.run("restore", "2026-01-01")
    assert (done.returncode, done.stdout) == (0, "restored\n"), done.stderr
    assert account.image("restore") == account.in_repository(DIGESTS[0])
    (command,) = account.told
    (tmp_path / "chassis").write_text('#!/bin/sh\necho "$@" "$PGPASSWORD"\n')
    (tmp_path / "chassis").chmod(0o755)
    url = "postgresql://shop_deploy:secret@db.example.com:5432/shop?sslmode=verify-full&sslrootcert=/app/rds-ca.crt"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MIGRATOR_DATABASE_URL": url}
    said = subprocess.check_output(command, env=environment, text=True)
    assert said == f"restore 2026-01-01 --to {url.replace(':secret', '')} secret\n"

    account.will(1, says=("chassis: there is no backup",))
    failed = account.run("restore")
    assert (failed.returncode, failed.stderr.splitlines()[0]) == (1, "chassis: there is no backup")
    assert failed.stderr.endswith("deploy: nothing was restored\n")


def test_what_is_not_meant_is_refused(account: Account):
    for arguments in (
        [],
        ["ghcr.io/example-org/my-service:latest"],
        ["parity"],
        ["--on", "staging"],
        ["-h"],
        ["sql"],
        ["run", "serve", "true"],
        ["restore", "one", "two"],
    ):
        refused = account.run(*arguments)
        assert refused.returncode == 2, arguments
        assert refused.stderr.startswith("usage: deploy/deploy.sh [--on staging|production] IMAGE")
    elsewhere = account.run("--on", "production", "back")
    assert (elsewhere.returncode, elsewhere.stderr) == (1, "deploy: DEPLOYMENT is of staging, and not of production\n")
    for deployment in ("{}", "nonsense"):
        unknown = account.run("back", DEPLOYMENT=deployment)
        assert (unknown.returncode, unknown.stderr) == (
            1,
            "deploy: DEPLOYMENT is not what Terraform calls deployment\n",
        )
    misspelt = account.run("--on", "stagin", "back")
    assert (misspelt.returncode, misspelt.stderr) == (1, "deploy: --on is staging or production, and not stagin\n")
    changed = account.run(CHANGED)
    assert (changed.returncode, changed.stderr.splitlines()[-1]) == (
        1,
        f"deploy: the copy of {CHANGED} has another digest",
    )
    assert "run-task" not in account.asked


def test_the_help_speaks_of_what_is_rehearsed_here(deploy: Path, default_tree: dict[str, bytes], tmp_path: Path):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "compose.yaml").touch()
    assert "deploy/compose.yaml" in default_tree
    makefile = deploy.parent / "chassis" / "chassis.mk"
    said = {
        folder: subprocess.check_output(["make", "-f", makefile, "help"], cwd=folder, text=True)
        for folder in (deploy.parent, tmp_path)
    }
    assert "make rehearse  build the image and run it" in said[deploy.parent]
    assert "make rehearse  deploy this service on this machine as on a host" in said[tmp_path]


def test_shellcheck_finds_nothing(deploy: Path):
    found = subprocess.run(["shellcheck", "deploy.sh"], cwd=deploy, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
