"""AWS, as Terraform would build it: formatted, valid, checked, tested with mocks, and built once in a stand-in for AWS.

Terraform comes from no package. Where it is not installed these tests are skipped, and .ci/run, where nothing may be
skipped, leaves them out and says so.
"""

import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT, copy_template
from copier import run_copy, run_update
from test_demo import wait_for
from test_documentation import blocks
from updating_support import commit, git, write

ENVIRONMENTS = ("staging", "production")
DATABASE = "module.service.module.database.aws_db_instance.this"
ACCOUNT = "123456789012"
STATE = f"terraform-state-{ACCOUNT}-eu-central-1"

# moto has one account, speaks plain HTTP, which the policy of a bucket refuses, cannot list the tags of budgets and
# autoscaling, and has no zone yet. The provider waits a minute for the rules of a bucket to be the same everywhere.
STAND_IN = {
    "account/stand_in_override.tf": """
        terraform {
          backend "s3" {
            key            = "account.tfstate"
            encrypt        = true
            use_lockfile   = true
            use_path_style = true
          }
        }
        provider "aws" {
          s3_use_path_style = true
        }
        resource "aws_s3_bucket_policy" "state" {
          count = 0
        }
        resource "aws_s3_bucket_lifecycle_configuration" "state" {
          count = 0
        }
        """,
    "staging/stand_in_override.tf": f"""
        terraform {{
          backend "s3" {{
            bucket         = "{STATE}"
            key            = "my-service/staging.tfstate"
            region         = "eu-central-1"
            encrypt        = true
            use_lockfile   = true
            use_path_style = true
          }}
        }}
        provider "aws" {{
          allowed_account_ids = ["{ACCOUNT}"]
          s3_use_path_style   = true
        }}
        module "service" {{
          zone_id   = aws_route53_zone.example.zone_id
          protected = false
          backup_recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
        }}
        """,
    "staging/zone.tf": """
        resource "aws_route53_zone" "example" {
          name = "example.com"
        }
        """,
    "service/stand_in_override.tf": """
        resource "aws_budgets_budget" "this" {
          count = 0
        }
        """,
    "service/compute/stand_in_override.tf": """
        resource "aws_appautoscaling_target" "this" {
          count = 0
        }
        resource "aws_appautoscaling_policy" "cpu" {
          count              = 0
          service_namespace  = "ecs"
          resource_id        = "none"
          scalable_dimension = "none"
        }
        """,
}


APPROVED = ["-auto-approve"]

VARIABLES = """
run "variables" {
  variables {
    variables = { APP_SIX = "7" }
  }
  assert {
    condition = { for name, value in local.variables : name => value if !contains([
      "APP_ALLOWED_HOSTS", "APP_PUBLIC_URL", "APP_MAIL_FROM", "APP_TRUSTED_PROXIES", "APP_SMOKE_EMAILS",
      ], name) } == {
      APP_ONE              = "a b=c#d"
      APP_TWO              = "2"
      APP_SIX              = "7"
      APP_ENVIRONMENT      = "production"
      PORT                 = "8000"
      METRICS_PORT         = "8001"
      APP_SECURITY_CONTACT = "mailto:us@example.com"
    }
    error_message = "These are others: ${jsonencode(local.variables)}"
  }
}
"""


@pytest.fixture(scope="module")
def plugins() -> list[str]:
    """What `terraform init` is told: the folder that providers are in, where this machine has such a one."""
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed")
    mirrors = sorted(Path("/opt").glob("*/*/hashicorp/aws"))
    return [f"-plugin-dir={mirrors[0].parents[2]}"] if mirrors else []


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of checkov's and moto's own: together they want a hundred packages."""
    folder = tmp_path_factory.mktemp("tools") / "venv"
    run("uv", "venv", "--quiet", "--python", sys.executable, folder)
    pins = ROOT / "requirements-terraform.txt"
    run("uv", "pip", "install", "--quiet", "--require-hashes", "--python", folder / "bin" / "python", "-r", pins)
    return folder / "bin"


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deploy/terraform of a service that has everything."""
    folder = tmp_path_factory.mktemp("aws") / "service"
    copy_template(template, folder, deploy_target="aws-ecs", shared_store="valkey")
    return folder / "deploy" / "terraform"


def terraform(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    return run("terraform", f"-chdir={folder}", *arguments, environment=environment)


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. Its failure shows all that it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    kept |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "NO_COLOR": "1", **(environment or {})}
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_environments_arrive_with_the_answer_and_are_theirs_from_then_on(template: Path, tmp_path: Path):
    releases, folder = tmp_path / "template", tmp_path / "service"
    shutil.copytree(template, releases)
    commit(releases, "A release")
    git(releases, "tag", "v0.0.1")
    run_copy(str(releases), folder, vcs_ref="v0.0.1", defaults=True, unsafe=True, quiet=True, skip_tasks=True)
    assert not (folder / "deploy" / "terraform").exists()
    commit(folder, "Start from the template")

    answers = {"deploy_target": "aws-ecs"}
    run_update(folder, data=answers, vcs_ref="v0.0.1", defaults=True, overwrite=True, unsafe=True, quiet=True)
    assert all((folder / f"deploy/terraform/{name}/main.tf").is_file() for name in ENVIRONMENTS)
    write(folder, "deploy/terraform/staging/main.tf", "# mine\n")
    commit(folder, "Go to AWS")

    write(releases, "template/deploy/terraform/staging/main.tf.jinja", "# another\n")
    write(releases, "template/deploy/terraform/secrets/main.tf", "# newer\n")
    commit(releases, "Another release")
    git(releases, "tag", "v0.0.2")
    run_update(folder, vcs_ref="v0.0.2", defaults=True, overwrite=True, unsafe=True, quiet=True)
    assert (folder / "deploy/terraform/staging/main.tf").read_text() == "# mine\n"
    assert (folder / "deploy/terraform/secrets/main.tf").read_text() == "# newer\n"


def test_production_differs_from_staging_in_names_and_sizes_alone(service: Path):
    staging, production = ((service / name / "main.tf").read_text().splitlines() for name in ENVIRONMENTS)
    assert len(staging) == len(production)
    different = {
        there.split()[0]
        for here, there in zip(staging, production, strict=True)
        if here.replace("staging", "production") != there
    }
    assert different == {"#", "domain", "tasks", "database_class", "monthly_budget_usd"}


def test_each_region_has_the_root_that_signs_for_its_databases(service: Path):
    text = (service / "rds-ca.crt").read_text()
    roots = re.findall(
        r"^# (\S+)\n(-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----)$", text, re.MULTILINE | re.DOTALL
    )
    assert len(roots) == text.count("BEGIN CERTIFICATE") == len(dict(roots)) > 20
    for region, root in roots:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=root)
        (known,) = context.get_ca_certs()
        assert (("commonName", f"Amazon RDS {region} Root CA RSA2048 G1"),) in cast("tuple[Any, ...]", known["subject"])


def test_the_image_has_the_file_that_the_address_of_the_database_names(service: Path):
    image = (service.parent / "Dockerfile").read_text().splitlines()
    assert "COPY deploy/terraform/rds-ca.crt rds-ca.crt" in image[image.index("WORKDIR /app") + 1 :]
    assert "!deploy/terraform/rds-ca.crt" in (service.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert "sslrootcert=/app/rds-ca.crt" in (service / "service" / "database" / "main.tf").read_text()


def test_it_is_formatted(service: Path, plugins: list[str]):
    assert terraform(service, "fmt", "-check", "-recursive", "-list=true") == ""


@pytest.mark.parametrize("folder", ["account", *ENVIRONMENTS])
def test_it_is_valid(folder: str, service: Path, plugins: list[str]):
    terraform(service / folder, "init", "-backend=false", *plugins)
    assert json.loads(terraform(service / folder, "validate", "-json"))["diagnostics"] == []


def test_what_must_not_be_lost(service: Path, plugins: list[str]):
    """The service's own tests, which it can run after each change of its own: `terraform test`."""
    terraform(service / "service", "init", "-backend=false", *plugins)
    said = terraform(service / "service", "test", "-no-color")
    assert said.count("... pass") >= 13
    assert "0 failed" in said


def test_what_variables_env_says_is_a_variable_of_the_tasks(service: Path, plugins: list[str], tmp_path: Path):
    """But for secrets and what is left empty; and what an environment says itself comes first."""
    deploy = shutil.copytree(service.parent, tmp_path / "deploy", ignore=shutil.ignore_patterns(".terraform"))
    lines = ("", "APP_ONE=a b=c#d ", " APP_TWO=2\r", "#APP_THREE=3", "APP_FOUR=", "APP_FIVE_FILE=/run/secrets/5")
    both = ("APP_ENVIRONMENT=staging", "PORT=1", "APP_SIX=6", "APP_SECURITY_CONTACT=mailto:us@example.com")
    (deploy / "variables.env").write_text("\n".join((*lines, *both)))
    tests = deploy / "terraform" / "service" / "service.tftest.hcl"
    tests.write_text(tests.read_text().partition("\nrun ")[0] + VARIABLES)
    (tests.parent / "valkey.tftest.hcl").unlink()
    terraform(tests.parent, "init", "-backend=false", *plugins)
    assert "1 passed, 0 failed" in terraform(tests.parent, "test", "-no-color")


def test_checkov_has_nothing_to_say(service: Path, tools: Path):
    said = run(tools / "checkov", "--skip-download", "--compact", "--output=json", "--directory", service)
    reports = cast("list[dict[str, Any]] | dict[str, Any]", json.loads(said))
    for report in reports if isinstance(reports, list) else [reports]:
        assert report["summary"]["failed"] == report["summary"]["parsing_errors"] == 0
        reasons = [check["check_result"]["suppress_comment"] for check in report["results"]["skipped_checks"]]
        assert all(len(reason.split()) >= 5 for reason in reasons), "a check that is skipped has its reason beside it"
        if report["check_type"] == "terraform":
            assert report["summary"]["passed"] > 200


def names(folder: Path, environment: str) -> dict[str, Any]:
    """What Terraform calls things, where that is known before they are made: a part of its output `deployment`."""
    place = f"{json.loads((folder / 'answers.json').read_text())['name']}-{environment}"
    return {
        "environment": environment,
        "region": "eu-central-1",
        "cluster": place,
        "service": "serve",
        "families": {task: f"{place}-{task}" for task in ("serve", "migrate", "backup", "restore")},
        "log_group": f"/{place}/commands",
    }


@contextmanager
def moto_server(tools: Path, folder: Path, **settings: str) -> Generator[str]:
    """The host and port of an AWS that keeps what it is told, and runs nothing; its log goes into `folder`."""
    log = folder / "log"
    command = [tools / "moto_server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | settings)
    try:
        yield wait_for(r"Running on http://(127\.0\.0\.1:\d+)", log, server)[1]
    finally:
        server.terminate()
        server.wait(10)


class TestInAStandInForAws:
    """All of staging, built and taken down again: with the state in a bucket, and no secret in the state."""

    @pytest.fixture(scope="class")
    @classmethod
    def endpoint(cls, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
        settings = {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "MOTO_ACM_VALIDATION_WAIT": "1"}
        with moto_server(tools, tmp_path_factory.mktemp("moto"), **settings) as endpoint:
            yield endpoint

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("stand-in") / "service"
        copy_template(template, folder, deploy_target="aws-ecs")
        for name, text in STAND_IN.items():
            write(folder / "deploy" / "terraform", name, text)
        with (folder / "deploy" / "variables.env").open("a") as variables:
            variables.write("APP_LIMIT_PER_TENANT=2999\n")
        return folder / "deploy" / "terraform"

    @pytest.fixture(scope="class")
    @classmethod
    def aws(cls, endpoint: str) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "eu-central-1"}
        keys["AWS_DEFAULT_REGION"] = keys["AWS_REGION"]  # which is what the older AWS CLI reads
        return {
            "AWS_ENDPOINT_URL": f"http://{endpoint}",
            "AWS_MAX_ATTEMPTS": "2",  # what moto cannot do it answers with 500, however often
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
            **keys,
        }

    def account(self, folder: Path, aws: dict[str, str], plugins: list[str]) -> None:
        """What the page says: once for an account, and once where GitHub was trusted before."""
        known = aws | {
            f"TF_CLI_ARGS_{name}": " ".join(each) for name, each in {"init": plugins, "apply": APPROVED}.items()
        }
        made, imported = blocks(folder / "README.md", "sh")[:2]
        known_before = "terraform -chdir=deploy/terraform/account state rm aws_iam_openid_connect_provider.github\n"
        planned = "terraform -chdir=deploy/terraform/account plan -no-color -var region=$region\n"
        commands = f"cd {folder.parents[1]}\n{made}{known_before}{imported}{planned}"
        said = run("bash", "-eu", "-o", "pipefail", "-c", commands, environment=known)
        assert "Apply complete!" in said
        assert re.search(r"No changes\.|Plan: 0 to add, \d+ to change, 0 to destroy\.", said.rpartition("Import")[2]), (
            said
        )
        assert not list((folder / "account").glob("*.tfstate*")), "the state is in the bucket"

    def restore(self, folder: Path, aws: dict[str, str]) -> None:
        """What the runbook says, as far as Terraform is asked: it takes the restored database for its own."""
        restored, swapped, *_ = blocks(folder.parents[1] / "docs" / "runbooks" / "restore.md", "sh aws")
        # moto takes what it restores for a replica, which Terraform would wait for.
        assert swapped.endswith("terraform -chdir=deploy/terraform/production apply\n")
        commands = (restored + swapped.removesuffix("apply\n") + "plan -no-color").replace("production", "staging")
        place, commands = "my-service-staging", f"cd {folder.parents[1]} && {commands}"
        planned = run("bash", "-eu", "-o", "pipefail", "-c", commands, environment=aws)
        assert re.search(r"Plan: 0 to add, \d+ to change, 0 to destroy\.", planned), planned

        rds = ["aws", "rds"]
        run(
            *rds,
            "delete-db-instance",
            f"--db-instance-identifier={place}-before",
            "--skip-final-snapshot",
            environment=aws,
        )
        run(
            *rds, "modify-db-instance", f"--db-instance-identifier={place}", "--no-deletion-protection", environment=aws
        )

    def test_staging_is_built_and_taken_down(
        self, folder: Path, endpoint: str, aws: dict[str, str], plugins: list[str], tools: Path
    ):
        self.account(folder, aws | {"PATH": f"{tools}:{os.environ['PATH']}"}, plugins)

        staging = folder / "staging"
        terraform(staging, "init", *plugins, environment=aws)
        terraform(staging, "apply", "-auto-approve", environment=aws)
        assert not list(staging.glob("*.tfstate*")), "the state is in the bucket"
        state = terraform(staging, "state", "pull", environment=aws)
        secrets = {name: secret(endpoint, f"my-service-staging/{name}") for name in MADE}
        assert all(value not in state for value in secrets.values())
        assert secrets["database_app"] in secrets["database_url"]
        assert secrets["database_migrator"] in secrets["migrator_database_url"]
        resources = [made for resource in json.loads(state)["resources"] for made in resource["instances"]]
        tags = [made["attributes"]["tags_all"] for made in resources if made["attributes"].get("tags_all") is not None]
        wanted = {"Service": "my-service", "Environment": "staging", "ManagedBy": "terraform"}
        assert len(tags) > 50
        assert all(wanted.items() <= each.items() for each in tags), "what a bill is split by"
        allowed = [made["attributes"].get("role") for made in resources]
        assert "my-service-staging-backup" in allowed
        assert "my-service-staging-task" not in allowed, "what serves may do nothing in AWS"
        for task in ("serve", "migrate", "backup"):
            found = container(state, task)
            assert refused(folder, found, secrets) == ""
            assert {"name": "APP_LIMIT_PER_TENANT", "value": "2999"} in found["environment"], "as variables.env says"

        deployment = json.loads(terraform(staging, "output", "-json", "service", environment=aws))["deployment"]
        assert deployment | names(folder, "staging") == deployment, "as the runbooks and deploy.sh are tested with"
        assert DATABASE in terraform(staging, "state", "list", environment=aws).splitlines()
        self.restore(folder, aws | {"PATH": f"{tools}:{os.environ['PATH']}"})

        terraform(staging, "destroy", "-refresh=false", "-auto-approve", environment=aws)
        assert terraform(staging, "state", "list", environment=aws) == ""


PASSWORDS = ("database_app", "database_backup", "database_migrator")
URLS = ("database_url", "backup_database_url", "migrator_database_url")
MADE = ("app_secret_key", "app_smoke_password", *PASSWORDS, *URLS)


def secret(endpoint: str, name: str) -> str:
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "secretsmanager.GetSecretValue",
        "Authorization": "AWS4-HMAC-SHA256 Credential=testing/20260101/eu-central-1/secretsmanager/aws4_request, "
        "SignedHeaders=host, Signature=0",
    }
    return json.loads(ask(endpoint, "POST", "/", json.dumps({"SecretId": name}), headers))["SecretString"]


def ask(endpoint: str, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    connection = http.client.HTTPConnection(endpoint, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    assert answer.status < 300, f"{method} {path}: {answer.status}"
    return answer.read()


def container(state: str, task: str) -> dict[str, Any]:
    """The one container of a task definition."""
    for resource in json.loads(state)["resources"]:
        if resource["type"] == "aws_ecs_task_definition":
            for instance in resource["instances"]:
                if instance["index_key"] == task:
                    return json.loads(instance["attributes"]["container_definitions"])[0]
    raise AssertionError(f"there is no task definition {task}")


def refused(folder: Path, container: dict[str, Any], secrets: dict[str, str]) -> str:
    """What the service says against the variables that a task has: nothing, if it would start."""
    variables = {variable["name"]: variable["value"] for variable in container["environment"]}
    for variable in container["secrets"]:
        name = variable["name"].lower()
        variables[variable["name"]] = secrets.get(name, "smtps://shop:n9Xw2LqV7t@mail.example.com")
    code = "from chassis.settings import *\ntry: load(Settings)\nexcept ConfigurationRefused as no: print(no)"
    source = str(folder.parents[1] / "chassis" / "src")
    done = subprocess.run([sys.executable, "-c", code], env={**variables, "PYTHONPATH": source}, capture_output=True)
    return (done.stdout + done.stderr).decode()
