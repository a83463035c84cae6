"""The pipeline of a rendered service: what its linters say, how it is made, and what it does, run by act."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from conftest import ROOT, copy_template
from pipeline_support import DIGEST, IMAGE, Answering, Outcome, Repository, copy, prepare, served

WORKFLOWS = ("check.yml", "deliver.yml", "deploy.yml", "weekly.yml")
HOST = {"DEPLOY_HOST": "deploy@host.example.com"}
CLOUD = {"DEPLOYMENT": '{"role": "arn:aws:iam::000000000000:role/deploy", "region": "eu-central-1"}'}
TOMORROW, TODAY = ((datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d") for days in (1, 0))


@pytest.fixture(scope="module", params=["single-host", "aws-ecs"])
def rendered(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A render for each kind of platform, as it is."""
    target = tmp_path_factory.mktemp(request.param) / "service"
    copy_template(template, target, deploy_target=request.param)
    subprocess.run(["git", "init", "--quiet"], cwd=target, check=True)  # by which actionlint finds what is called
    return target


@pytest.fixture(scope="module")
def host(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return _repository(template, tmp_path_factory.mktemp("host"), "single-host")


@pytest.fixture(scope="module")
def cloud(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return _repository(template, tmp_path_factory.mktemp("cloud"), "aws-ecs")


@pytest.fixture
def mine(host: Repository, tmp_path: Path) -> Repository:
    """One that a test may change."""
    return copy(host, tmp_path)


def _repository(template: Path, folder: Path, target: str) -> Repository:
    return prepare(copy_template(template, folder / "service", deploy_target=target), folder / "beside")


class TestAsItIsWritten:
    @pytest.mark.parametrize(
        "command",
        [
            ["zizmor", "--persona", "pedantic", "--offline", "--no-ignores", "--quiet", ".github"],
            ["actionlint"],
            ["check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"],
            ["shellcheck", "deploy/release.sh"],
        ],
        ids=lambda command: command[0],
    )
    def test_a_linter_finds_nothing(self, rendered: Path, command: list[str]):
        done = subprocess.run(command, cwd=rendered, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_nobody_is_told_to_look_away(self, rendered: Path):
        for name in WORKFLOWS:
            text = (rendered / ".github" / "workflows" / name).read_text()
            assert "zizmor: ignore" not in text
            assert "continue-on-error" not in text
            assert "|| true" not in text
        assert not list(rendered.rglob("*zizmor.y*ml"))

    def test_every_run_step_can_be_run_by_a_person(self):
        """Nothing but a script, a make target, or one command of uv."""
        for _, job in jobs():
            for step in job.get("steps", []):
                if "run" in step:
                    assert re.fullmatch(r"(deploy/release\.sh|make|uv) [\w\" $-]+", step["run"]), step["run"]
                    assert "${{" not in step["run"]

    def test_what_is_used_of_others_is_pinned_with_its_version_beside(self):
        for name in WORKFLOWS:
            for line in text_of(name).splitlines():
                if "uses:" in line and "$/" not in line:
                    assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
                if " image: " in line and "postgres" in line:
                    assert re.search(r"@sha256:[0-9a-f]{64}$", line), line

    def test_one_job_builds_and_all_others_get_its_digest(self):
        assert "".join(map(text_of, WORKFLOWS)).count("release.sh build") == 1
        delivery = workflow("deliver.yml")["jobs"]
        assert delivery["build"]["outputs"] == {"image": "${{ steps.build.outputs.image }}"}
        for name in ("staging", "production"):
            assert delivery[name]["with"]["image"] == "${{ needs.build.outputs.image }}"
            assert delivery[name]["with"]["environment"] == name

    def test_the_order(self):
        delivery = workflow("deliver.yml")["jobs"]
        assert {name: job.get("needs") for name, job in delivery.items()} == {
            "check": None,
            "build": "check",
            "staging": "build",
            "production": ["build", "staging"],
        }
        for job in delivery.values():
            assert "if" not in job, "a condition such as always() would go on after a failure"
        taken = workflow("deploy.yml")["jobs"]["deploy"]["steps"]
        conditions = [step["if"] for step in taken if "if" in step]
        assert conditions == ["vars.DEPLOYMENT != ''", "inputs.environment == 'production'"], "of AWS, and compare"
        steps = [step.get("run", step.get("uses", "")) for step in taken]
        order = [
            next(number for number, step in enumerate(steps) if word in step)
            for word in ("verify", "forward", "aws-actions/", "parity", "compare", "release.sh deploy")
        ]
        assert order == sorted(order)

    def test_an_environment_is_what_approval_and_secrets_hang_on(self):
        deploy = workflow("deploy.yml")["jobs"]["deploy"]
        assert deploy["environment"]["name"] == "${{ inputs.environment }}"
        assert {job["environment"] for _, job in jobs("weekly.yml") if "environment" in job} == {
            "drill",
            "template-update",
        }
        assert "environment" not in workflow("weekly.yml")["jobs"]["update"], "which runs what is new"
        for _, job in jobs("deploy.yml", "weekly.yml"):
            for step in job["steps"]:
                if "secrets." in str(step):
                    assert "environment" in job, step

    def test_what_deploys_is_one_at_a_time_and_never_stopped(self):
        assert workflow("deploy.yml")["jobs"]["deploy"]["concurrency"] == {
            "group": "deploy-${{ inputs.environment }}",
            "cancel-in-progress": False,
        }
        for name in ("deliver.yml", "deploy.yml", "weekly.yml"):
            assert not re.search(r"cancel-in-progress: (?!false)", text_of(name))

    def test_no_secret_but_these(self):
        found = {name for workflow in WORKFLOWS for name in re.findall(r"secrets\.(\w+)", text_of(workflow))}
        assert found == {
            *("DEPLOY_SSH_KEY", "DEPLOY_KNOWN_HOSTS", "APP_SMOKE_EMAILS", "APP_SMOKE_PASSWORD"),
            *("APP_BACKUP_IDENTITY", "BACKUP_STORE", "TEMPLATE_UPDATE_TOKEN"),
        }
        assert not any("inherit" in text_of(name) for name in WORKFLOWS)
        assert not any("AWS_SECRET" in text_of(name) for name in WORKFLOWS), "the cloud is entered by OIDC alone"

    def test_a_job_may_do_what_it_does_and_no_more(self):
        for name in WORKFLOWS:
            assert workflow(name)["permissions"] == {}
        written = {
            (place, name): {scope for scope, level in job["permissions"].items() if level == "write"}
            for place, name, job in ((place, name, job) for (place, name), job in jobs())
        }
        assert {job: scopes for job, scopes in written.items() if scopes} == {
            ("deliver.yml", "build"): {"packages", "id-token", "attestations"},
            ("deliver.yml", "staging"): {"id-token"},
            ("deliver.yml", "production"): {"id-token"},
            ("deploy.yml", "deploy"): {"id-token"},
            ("weekly.yml", "drill"): {"id-token"},
            ("weekly.yml", "alarm"): {"issues"},
        }
        for (_, _), job in jobs():
            if job["permissions"].get("id-token") and "steps" in job:
                assert any(re.match("actions/attest@|aws-actions/", step.get("uses", "")) for step in job["steps"])

    def test_tests_and_drills_run_on_the_major_of_production(self):
        major = re.search(
            r"POSTGRES_MAJOR = (\d+)", (ROOT / "template/chassis/src/chassis/dev/postgres.py").read_text()
        )
        assert major is not None
        images = [job["services"]["postgres"]["image"] for _, job in jobs() if "services" in job]
        assert len(images) == 2
        assert all(image.startswith(f"postgres:{major[1]}-") for image in images)
        test = workflow("check.yml")["jobs"]["test"]
        assert test["steps"][-1]["env"]["TEST_POSTGRES_URL"].startswith("postgresql://postgres:")

    def test_new_releases_of_others_wait_a_week(self, rendered: Path):
        updates = yaml.safe_load((rendered / ".github" / "dependabot.yml").read_text())["updates"]
        compose = {"docker-compose"} if (rendered / "deploy" / "compose.yaml").exists() else set[str]()
        assert {update["package-ecosystem"] for update in updates} == {"uv", "github-actions", "docker"} | compose
        assert all(update["cooldown"]["default-days"] >= 7 for update in updates)

    def test_the_page_says_what_to_set_in_github(self, rendered: Path):
        page = (rendered / "docs" / "production.md").read_text()
        on_a_host = (rendered / "deploy" / "compose.yaml").exists()
        for name in WORKFLOWS:
            for setting in re.findall(r"\b(?:secrets|vars)\.(\w+)", text_of(name)):
                needed = OF_A_PLATFORM.get(setting, on_a_host) == on_a_host
                assert (f"`{setting}`" in page) == needed, setting
        for name in ("staging", "production", "drill", "template-update"):
            assert f"`{name}`" in page

    def test_somebody_is_asked_to_review(self, rendered: Path):
        text = (rendered / "CODEOWNERS").read_text()
        assert text.splitlines()[-1] == "* @example-org"
        assert "if @example-org is one, name a team" in text

    def test_where_there_is_something_to_take_no_cache_is_read_nor_one_left_by_what_is_new(self):
        for (_, name), job in jobs():
            for step in job.get("steps", []):
                if "setup-uv@" in step.get("uses", ""):
                    trusted = "environment" not in job and name != "update"
                    assert (step["with"].get("enable-cache") is not False) == trusted, name


def text_of(name: str) -> str:
    return (ROOT / "template" / ".github" / "workflows" / name).read_text()


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load(text_of(name))


def jobs(*names: str) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for place in names or WORKFLOWS:
        for name, job in workflow(place)["jobs"].items():
            yield (place, name), job


class TestARelease:
    """Of the graph itself. act runs no service containers without Docker, and knows no environments."""

    @pytest.mark.parametrize("target", ["host", "cloud"])
    def test_goes_to_staging_and_then_to_production_with_one_digest(self, target: str, request: pytest.FixtureRequest):
        repository = cast("Repository", request.getfixturevalue(target))
        run = repository.act(**(HOST if target == "host" else CLOUD))
        assert run.code == 0, run.output
        (built,) = run.calls_of(" docker buildx build ")
        others = {word for call in run.calls if call != built for word in re.findall(r"sha256:[0-9a-f]{64}", call)}
        assert others == {DIGEST}
        places = ["deploy@host.example.com"] * 2 if target == "host" else ["staging", "production"]
        for environment, place in zip(("staging", "production"), places, strict=True):
            calls = [call.removeprefix(f"{environment} ") for call in run.calls_of(f"^{environment} ")]
            verified, compared, deployed, tried = (
                next((number for number, call in enumerate(calls) if call.startswith(start)), -1)
                for start in (
                    f"gh attestation verify oci://{IMAGE} --repo example-org/my-service ",
                    "docker run --rm --volume ",
                    f"deploy.sh --on {place} {IMAGE}",
                    f"docker run --rm --env APP_SMOKE_EMAILS --env APP_SMOKE_PASSWORD {IMAGE} chassis smoke https://",
                )
            )
            assert -1 < verified < deployed < tried
            assert compared < deployed
            assert (compared > verified) == (environment == "production")
            head = repository.head()
            assert calls[tried].endswith(f" --revision {head}")
            for words in (
                "--signer-workflow example-org/my-service/.github/workflows/deliver.yml ",
                "--source-ref refs/heads/main ",
                f"--source-digest {head} ",
                "--deny-self-hosted-runners",
            ):
                assert words in calls[verified]
            assert bool(run.calls_of("aws-actions/configure-aws-credentials .*role/deploy$")) == (target == "cloud")
        attested = run.calls_of("actions/attest ")
        assert [call.split()[-1] for call in attested] == [DIGEST, "sbom.cdx.json"]
        last_before = run.calls.index(attested[0]) - 1
        assert " grype registry:" in run.calls[last_before], "what is not clean is not attested"

    def test_whose_tests_fail_is_not_built(self, host: Repository):
        self.stops(host, "- make test", "buildx|deploy.sh", "make test")

    def test_with_a_known_vulnerability_in_the_lock_is_not_built(self, host: Repository):
        self.stops(host, "- uv audit *", "buildx|deploy.sh", "uv audit")

    def test_with_a_known_vulnerability_in_the_image_is_not_attested(self, host: Repository):
        self.stops(host, "- grype *", "actions/attest|deploy.sh", "grype")

    def test_whose_attestation_is_not_ours_is_not_deployed(self, host: Repository):
        self.stops(host, "* gh attestation verify *", "deploy.sh|production", "gh attestation verify")

    def test_is_verified_again_for_production(self, host: Repository):
        self.stops(host, "production gh attestation verify *", "production .*(deploy.sh|docker run)", "gh attestation")

    def test_that_fails_its_smoke_test_in_staging_never_reaches_production(self, host: Repository):
        run = self.stops(host, "staging docker run * smoke *--revision *", "^production", "the release before serves")
        assert len(run.calls_of("^staging deploy.sh --on .* back$")) == 1

    def test_that_cannot_be_deployed_to_staging_never_reaches_production(self, host: Repository):
        self.stops(host, f"staging deploy.sh --on * {IMAGE}", "^production|smoke", "deploy.sh --on")

    def test_that_fails_its_smoke_test_in_production_is_taken_back(self, host: Repository):
        run = self.stops(host, "production docker run * smoke *--revision *", " never ", "serves production again")
        told = [call.split(" ", 2)[1:] for call in run.calls_of("^production (deploy.sh|docker run)")]
        assert [rest.split()[-1] for _, rest in told][-2:] == ["back", "https://api.example.com"]

    def test_that_cannot_be_taken_back_calls_for_a_person(self, host: Repository):
        red = "production docker run * smoke *--revision *\nproduction deploy.sh --on * back"
        self.stops(host, red, " never ", "production needs you now")

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (
                '["DATABASE_URL", "APP_NEW"], "versions": {"PostgreSQL": "18.4"}}',
                "production sets APP_NEW and staging",
            ),
            (
                '["DATABASE_URL"], "versions": {"PostgreSQL": "18.3"}}',
                "staging has 18.4 and production has 18.3",
            ),
            ('["DATABASE_URL"]}', "is not what `chassis parity` prints"),
            ("nothing that could be compared", "parity"),
        ],
    )
    def test_for_a_production_that_differs_is_not_deployed_there(self, host: Repository, other: str, named: str):
        forbidden = rf"^production (deploy.sh --on \S+ {IMAGE}|.* smoke )"
        self.stops(host, "", forbidden, named, other=f'{{"environment": "production", "variables": {other}')

    def test_with_a_waiver_that_has_ended_is_not_built(self, mine: Repository):
        (mine.root / "deploy" / "waivers.txt").write_text(f"CVE-2026-1234 {TODAY} nobody calls it\n")
        mine.commit()
        self.stops(mine, "", "uv audit|buildx|deploy.sh", f"the waiver of CVE-2026-1234 ended on {TODAY}")

    def stops(self, repository: Repository, red: str, forbidden: str, said: str, other: str = "") -> Any:
        run = repository.act(red=red, other=other, **HOST)
        assert run.code != 0
        assert said in run.output
        assert run.calls_of(forbidden) == []
        assert run.calls, "it did begin"
        return run


class TestTheOrderOfReleases:
    """What is in service is asked for, and GitHub which commit came first; here that is Git itself."""

    @pytest.fixture
    def history(self, mine: Repository) -> dict[str, str]:
        """Three commits of main, one of another branch, and what is none."""
        first = mine.head()
        mine.commit()
        second = mine.head()
        mine.commit()
        other = subprocess.check_output(
            ["git", "commit-tree", "HEAD^{tree}", "-p", first, "-m", "Other"], cwd=mine.root, text=True
        ).strip()
        return {"first": first, "second": second, "newest": mine.head(), "other": other, "gone": "0" * 40, "none": ""}

    def deployed(self, mine: Repository, revision: str, serving: str) -> Outcome:
        variables = {"ENVIRONMENT": "production", "PUBLIC_URL": "https://api.example.com"}
        return mine.release("forward", GITHUB_SHA=revision, SERVING=serving, **variables)

    @pytest.mark.parametrize(
        ("revision", "serving"),
        [("second", "first"), ("newest", "first"), ("first", "first"), ("newest", "newest")],
    )
    def test_a_newer_one_may_go_and_the_same_again(
        self, mine: Repository, history: dict[str, str], revision: str, serving: str
    ):
        run = self.deployed(mine, history[revision], history[serving])
        assert run.code == 0, run.output
        assert run.output == ""

    @pytest.mark.parametrize(("revision", "serving"), [("first", "second"), ("second", "newest")])
    def test_an_older_one_may_not(self, mine: Repository, history: dict[str, str], revision: str, serving: str):
        run = self.deployed(mine, history[revision], history[serving])
        assert run.code == 1
        assert f"production serves {history[serving]}, which is newer than {history[revision]}" in run.output

    @pytest.mark.parametrize("serving", ["other", "gone", "none"])
    def test_where_it_is_not_known_only_the_newest_may(self, mine: Repository, history: dict[str, str], serving: str):
        run = self.deployed(mine, history["newest"], history[serving])
        assert run.code == 0, run.output
        assert f"not known: {history['newest']} goes on as main's newest commit" in run.output
        run = self.deployed(mine, history["second"], history[serving])
        assert run.code == 1
        assert f"only main's newest commit may go there, {history['newest']}" in run.output

    def test_a_commit_that_cannot_be_compared_is_not_taken_for_newer(self, mine: Repository, history: dict[str, str]):
        run = mine.release(
            "forward",
            GITHUB_SHA=history["newest"],
            SERVING=history["first"],
            RED="* gh api *",
            ENVIRONMENT="staging",
            PUBLIC_URL="https://api.example.com",
        )
        assert run.code != 0

    @pytest.mark.parametrize("body", ['{"revision": "%s"}', "<html>", '"a string"', '{"revision": "moved"}', "[]"])
    def test_the_service_itself_is_asked(self, mine: Repository, history: dict[str, str], body: str):
        """With curl, and whatever the answer is: a name that somebody can move is no commit."""
        subprocess.run(["git", "branch", "moved", history["first"]], cwd=mine.root, check=True)
        (mine.beside / "bin" / "curl").unlink()

        class Version(Answering, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(body.replace("%s", history["second"]).encode() if self.path == "/version" else b"")

        server = ThreadingHTTPServer(("127.0.0.1", 0), Version)
        with served(server):
            where = {"ENVIRONMENT": "staging", "PUBLIC_URL": f"http://127.0.0.1:{server.server_port}"}
            run = mine.release("forward", GITHUB_SHA=history["first"], **where)
        assert run.code == 1
        assert ("which is newer than" if "%s" in body else "only main's newest") in run.output

    def test_an_old_delivery_that_runs_again_touches_nothing(self, mine: Repository):
        older = mine.head()
        mine.commit()
        newer = mine.head()
        subprocess.run(["git", "reset", "--quiet", "--hard", older], cwd=mine.root, check=True)
        run = mine.act(serving=newer, **HOST)
        assert run.code != 0
        assert f"staging serves {newer}, which is newer than {older}" in run.output
        assert not run.calls_of("deploy.sh|^production| ssh "), "not even to look at it"

    def test_the_same_delivery_runs_again(self, host: Repository):
        run = host.act(serving=host.head(), **HOST)
        assert run.code == 0, run.output
        assert len(run.calls_of(f"deploy.sh --on .* {IMAGE}$")) == 4


class TestEveryWeek:
    def test_a_backup_is_restored_and_nobody_is_disturbed(self, host: Repository):
        run = host.act("workflow_dispatch", workflow="weekly.yml")
        assert run.code == 0, run.output
        (installed, drill) = run.calls_of(" uv ")
        assert installed == "- uv sync --locked"
        assert drill.startswith("- uv run --no-sync chassis drill --to postgresql://postgres:")
        assert drill.endswith("@127.0.0.1:5432/postgres")
        assert not run.calls_of(" gh issue ")

    def test_what_installs_comes_before_there_is_anything_to_take(self):
        steps = workflow("weekly.yml")["jobs"]["drill"]["steps"]
        place = next(number for number, step in enumerate(steps) if step.get("run") == "uv sync --locked")
        assert "env" not in steps[place]
        assert not any("aws-actions/" in str(step) or "secrets." in str(step) for step in steps[:place])

    def test_without_a_new_release_nobody_gets_the_token(self, host: Repository):
        run = host.act("workflow_dispatch", workflow="weekly.yml")
        assert "release: there is nothing new" in run.output
        assert not run.calls_of("artifact|gh pr")

    def test_a_drill_that_fails_is_red_and_opens_an_issue(self, host: Repository):
        run = host.act("workflow_dispatch", workflow="weekly.yml", red="- uv run * chassis drill *")
        assert run.code != 0
        (made,) = run.calls_of(" gh issue create ")
        assert "--title The restore drill failed --body It failed in https://github.com/" in made

    def test_a_second_one_adds_to_the_issue(self, host: Repository):
        run = host.release("alarm", "The restore drill failed", OTHER="12")
        assert run.code == 0
        assert run.calls_of(" gh issue comment 12 ")
        assert not run.calls_of(" gh issue create ")

    def test_what_the_object_store_asks_for_reaches_the_drill(self, mine: Repository):
        store = mine.beside / "bin" / "uv"
        store.write_text('#!/bin/sh\necho "$AWS_REGION $AWS_SECRET_ACCESS_KEY"\n')
        run = mine.release("drill", DRILL_SERVER="x", BACKUP_STORE="AWS_REGION=auto\nAWS_SECRET_ACCESS_KEY=a=b\n")
        assert run.output == "auto a=b\n"


class TestTheTemplatesNewestRelease:
    @pytest.fixture
    def updating(self, mine: Repository, tmp_path: Path) -> Repository:
        subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "origin.git"], check=True)
        subprocess.run(["git", "remote", "set-url", "origin", tmp_path / "origin.git"], cwd=mine.root, check=True)
        return mine

    def updated(self, updating: Repository, script: str) -> Outcome:
        """Run what brings the release, with a `make` that does that to the tree."""
        (updating.beside / "bin" / "make").write_text(f"#!/bin/sh\n{script}\n")
        return updating.release("update", str(updating.beside / "update"), **TOKEN)

    def proposed(self, updating: Repository, **variables: str) -> Outcome:
        """Run what opens the pull request, on the tree as it was before."""
        subprocess.run(["git", "reset", "--quiet", "--hard"], cwd=updating.root, check=True)
        return updating.release("propose", str(updating.beside / "update"), **(TOKEN | variables))

    def pushed(self, updating: Repository) -> list[str]:
        command = ["git", "ls-remote", "origin"]
        listed = subprocess.check_output(command, cwd=updating.root, text=True)
        return [line.split("\t")[1] for line in listed.splitlines()]

    def test_has_nothing_in_it_that_somebody_was_working_on(self, updating: Repository):
        (updating.root / "notes").write_text("a secret\n")
        run = self.updated(updating, "echo new >from-the-template")
        assert (run.code, run.calls) == (1, [])
        assert run.output.endswith("release: commit or put away first what you have changed\n")
        assert self.pushed(updating) == []

    def test_needs_to_know_the_repository(self, updating: Repository):
        subprocess.run(["git", "remote", "remove", "origin"], cwd=updating.root, check=True)
        run = updating.release("alarm", "title", GITHUB_REPOSITORY="")
        assert (run.code, run.calls) == (1, [])
        assert "no remote called origin" in run.output

    def test_is_a_pull_request(self, updating: Repository):
        run = self.updated(
            updating, 'test "$1 $2" = "update ARGS=--defaults" && printf "new\\0" >Makefile && rm README.md'
        )
        assert (run.code, run.calls) == (0, []), run.output
        run = self.proposed(updating)
        assert run.code == 0, run.output
        (made,) = run.calls_of(" gh pr create ")
        assert "--head template-update --title Bring the template's newest release --body-file" in made
        assert "--draft" not in made
        assert self.pushed(updating) == ["refs/heads/template-update"]
        changed = ["git", "diff", "--name-status", "HEAD", "origin/template-update"]
        subprocess.run(["git", "fetch", "--quiet", "origin"], cwd=updating.root, check=True)
        assert subprocess.check_output(changed, cwd=updating.root, text=True) == "M\tMakefile\nD\tREADME.md\n"

    def test_with_conflicts_is_a_draft_that_says_them_and_red(self, updating: Repository):
        script = "echo '<<<<<<< before' >>Makefile; echo 'Makefile:9: has a conflict' >&2; exit 1"
        assert self.updated(updating, script).code == 0
        run = self.proposed(updating)
        assert run.code == 1
        (made,) = run.calls_of(" gh pr create ")
        assert "--title Bring the template's newest release: it needs you " in made
        assert "--draft" in made
        assert "    Makefile:9: has a conflict" in (updating.beside / "calls.body").read_text()

    def test_with_conflicts_makes_a_draft_of_the_one_that_is_open(self, updating: Repository):
        self.updated(updating, "echo '<<<<<<< before' >>Makefile; exit 1")
        run = self.proposed(updating, OTHER="7")
        assert run.code == 1
        assert [call.split()[3] for call in run.calls_of(" gh pr ")] == ["list", "edit", "ready"]
        assert run.calls[-1].endswith("--undo")

    def test_that_there_is_none_of_is_quiet(self, updating: Repository):
        run = self.updated(updating, "exit 0")
        assert (run.code, run.calls, self.pushed(updating)) == (0, [], [])
        assert not (updating.beside / "update").exists()

    def test_that_could_not_be_fetched_is_red(self, updating: Repository):
        run = self.updated(updating, "echo no network; exit 1")
        assert (run.code, run.calls, self.pushed(updating)) == (1, [], [])
        assert "no network" in run.output

    def test_is_not_shown_the_token(self, updating: Repository):
        run = self.updated(updating, 'echo "token: ${GH_TOKEN-none}"')
        assert "token: none" in run.output

    def test_runs_in_one_job_and_is_proposed_in_another(self, updating: Repository):
        """So that what it brings never runs where the token is."""
        (updating.beside / "bin" / "make").write_text('#!/bin/sh\nenv >"$CALLS.env"; echo new >Makefile\n')
        run = updating.act("workflow_dispatch", workflow="weekly.yml")
        assert run.code == 0, run.output
        assert "secret" not in (updating.beside / "calls.env").read_text()
        assert [call.split()[1] for call in run.calls_of("artifact|gh pr create")] == [
            "actions/upload-artifact",
            "actions/download-artifact",
            "gh",
        ]
        assert self.pushed(updating) == ["refs/heads/template-update"]

    def test_that_conflicts_makes_the_week_red(self, updating: Repository):
        (updating.beside / "bin" / "make").write_text("#!/bin/sh\necho new >Makefile; exit 1\n")
        run = updating.act("workflow_dispatch", workflow="weekly.yml")
        assert run.code != 0
        assert " --draft" in run.calls_of(" gh pr create ")[0]

    def test_of_which_nothing_runs_where_the_token_is(self, updating: Repository):
        ran = updating.beside / "ran"
        everywhere = f"for file in Makefile deploy/release.sh deploy/deploy.sh; do echo 'touch {ran}' >>$file; done"
        self.updated(updating, f"{everywhere}; mkdir -p .githooks; echo 'touch {ran}' >.githooks/pre-push")
        hook = updating.root / ".git" / "hooks" / "pre-push"
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
        ran.unlink(missing_ok=True)  # by bash, which reads on in the script that was changed under it: there it may
        run = self.proposed(updating)
        assert run.code == 0, run.output
        assert self.pushed(updating) == ["refs/heads/template-update"]
        assert not ran.exists()
        status = ["git", "status", "--porcelain"]
        assert subprocess.check_output(status, cwd=updating.root, text=True) == "", "it is in no file here"

    def test_that_says_what_another_file_has_is_red(self, updating: Repository):
        self.updated(updating, "echo new >Makefile")
        said = updating.beside / "update" / "failed"
        said.unlink()
        said.symlink_to("/proc/self/environ")
        run = self.proposed(updating)
        assert (run.code, run.calls, self.pushed(updating)) == (1, [], [])

    @pytest.mark.parametrize("path", ["../outside", ".git/hooks/pre-push", ".GIT/config", "link/outside", "/outside"])
    def test_that_reaches_out_of_the_tree_is_red_and_goes_nowhere(self, updating: Repository, path: str):
        folder = updating.beside / "update"
        folder.mkdir()
        (folder / "failed").touch()
        updating.calls.touch()
        # A symbolic link to the folder above, and a file behind it or elsewhere.
        (folder / "patch").write_text(
            "diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n"
            "@@ -0,0 +1 @@\n+..\n\\ No newline at end of file\n"
            f"diff --git a/{path} b/{path}\nnew file mode 100755\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+evil\n"
        )
        before = set(updating.root.parent.rglob("*"))
        run = updating.release("propose", str(folder), **TOKEN)
        assert run.code != 0
        assert re.search("invalid path|beyond a symbolic link", run.output), run.output
        assert run.calls == []
        assert self.pushed(updating) == []
        assert set(updating.root.parent.rglob("*")) == before


class TestTheImage:
    @pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
    def test_is_built_on_a_digest_that_dependabot_renews(self, version: str, template: Path, tmp_path: Path):
        dockerfile = (
            copy_template(template, tmp_path / "service", python_version=version) / "deploy" / "Dockerfile"
        ).read_text()
        bases = re.findall(r"(?m)^FROM (\S+)", dockerfile)
        assert re.fullmatch(rf"python:{version}-slim-trixie@sha256:[0-9a-f]{{64}}", bases[0])
        assert bases[1:] == ["${PYTHON_IMAGE}"] * 2
        assert re.findall(r"(?m)^ARG PYTHON_IMAGE=(.*)$", dockerfile) == ["base"]
        assert f"FROM {bases[0]} AS base\n" in dockerfile


class TestWaivers:
    def test_are_what_the_scanner_of_the_image_leaves_out(self, mine: Repository):
        (mine.root / "deploy" / "waivers.txt").write_text(f"# a page\n\nCVE-2026-1 {TOMORROW} never reached\n")
        run = mine.release("scan", IMAGE)
        assert run.code == 0, run.output
        assert " --by-cve --only-fixed --fail-on high " in run.calls[0]
        config = yaml.safe_load((mine.beside / "calls.grype.yaml").read_text())
        assert config == {"ignore": [{"vulnerability": "CVE-2026-1"}]}

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (f"CVE-2026-1 {TODAY} never reached", f"the waiver of CVE-2026-1 ended on {TODAY} (never reached)"),
            ("CVE-2026-1 2020-01-01 never reached", "ended on 2020-01-01"),
            (f"CVE-2026-1 {TOMORROW}", "CVE-2026-1: say until when"),
            ("CVE-2026-1 never it is fine", "say until when"),
            ("CVE-2026-1", "say until when"),
        ],
    )
    @pytest.mark.parametrize("command", ["audit", "scan"])
    def test_that_ended_or_say_too_little_are_red(self, mine: Repository, command: str, line: str, said: str):
        (mine.root / "deploy" / "waivers.txt").write_text(f"{line}\n")
        run = mine.release(command, *([IMAGE] if command == "scan" else []))
        assert (run.code, run.calls) == (1, [])
        assert said in run.output

    def test_the_last_line_counts_without_its_end(self, mine: Repository):
        (mine.root / "deploy" / "waivers.txt").write_text("CVE-2026-1 2020-01-01 never reached")
        assert mine.release("audit").code == 1


class TestTheAuditOfTheLock:
    """uv itself, with a database of vulnerabilities of our own."""

    @pytest.fixture
    def service(self, mine: Repository, known: str) -> Repository:
        """A lock with one package in it, which the database knows something about."""
        (mine.root / "pyproject.toml").write_text(
            '[project]\nname = "planted"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["idna==3.11"]\n'
        )
        real = shutil.which("uv")
        subprocess.run([str(real), "lock", "--quiet"], cwd=mine.root, check=True)
        (mine.beside / "bin" / "uv").write_text(f'#!/bin/sh\nexec {real} "$@" --service-url {known}\n')
        return mine

    @pytest.fixture
    def known(self) -> Iterator[str]:
        found = {"id": "GHSA-planted", "modified": "2026-01-01T00:00:00Z"}

        class Osv(Answering, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
                results = [{"vulns": [found]} if one["package"]["name"] == "idna" else {} for one in asked]
                self.answer(json.dumps({"results": results}).encode())

            def do_GET(self) -> None:
                self.answer(json.dumps({**found, "summary": "planted", "aliases": ["CVE-2026-1"]}).encode())

        server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
        with served(server):
            yield f"http://127.0.0.1:{server.server_port}"

    def test_a_planted_vulnerability_is_red_and_named(self, service: Repository):
        run = service.release("audit")
        assert run.code == 1
        assert "GHSA-planted" in run.output

    def test_a_waived_one_is_not_until_the_waiver_ends(self, service: Repository):
        (service.root / "deploy" / "waivers.txt").write_text(f"CVE-2026-1 {TOMORROW} never reached\n")
        assert service.release("audit").code == 0
        (service.root / "deploy" / "waivers.txt").write_text(f"CVE-2026-1 {TODAY} never reached\n")
        assert service.release("audit").code == 1

    def test_a_database_that_cannot_be_asked_is_red(self, service: Repository):
        stand_in = service.beside / "bin" / "uv"
        stand_in.write_text(re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", stand_in.read_text()))
        run = service.release("audit", UV_HTTP_RETRIES="0")
        assert run.code != 0


class TestByHand:
    @pytest.mark.parametrize("arguments", [[], ["deploy"], ["deploy", "a", "b"], ["nothing"]])
    def test_a_wrong_use_says_the_right_ones(self, host: Repository, arguments: list[str]):
        run = host.release(*arguments)
        assert (run.code, run.calls) == (2, [])
        assert run.output.startswith("usage: deploy/release.sh login")

    @pytest.mark.parametrize("image", ["ghcr.io/example-org/my-service", f"{IMAGE[:-1]}", "x:latest"])
    def test_an_image_without_its_digest_is_not_verified(self, host: Repository, image: str):
        run = host.release("verify", image)
        assert (run.code, run.calls) == (1, [])

    @pytest.mark.parametrize(
        "missing", ["DEPLOY_HOST", "DEPLOY_SSH_KEY", "DEPLOY_KNOWN_HOSTS", "PUBLIC_URL", "REGISTRY_TOKEN"]
    )
    def test_what_is_not_set_is_said_before_anything_is_done(self, host: Repository, missing: str):
        run = host.release("deploy", IMAGE, **{**DEPLOYING, missing: ""})
        assert run.code != 0
        assert missing in run.output
        assert not [call for call in run.calls if "deploy.sh" in call]

    @pytest.mark.parametrize("target", ["-oProxyCommand=touch${IFS}ran;@x", "host.example.com", "a@b c", "a@b;c"])
    def test_a_host_is_a_host_and_no_option_of_ssh(self, host: Repository, target: str):
        run = host.release("deploy", IMAGE, **{**DEPLOYING, "DEPLOY_HOST": target})
        assert (run.code, run.calls) == (1, [])
        assert run.output.endswith("release: DEPLOY_HOST is not user@host\n")

    def test_a_host_is_reached_with_that_key_if_it_is_the_known_one(self, mine: Repository):
        """By the deploy.sh that is rendered, whose calls of ssh must not go another way."""
        shutil.copy(mine.beside / "deploy.sh", mine.root / "deploy" / "deploy.sh")
        run = mine.release("deploy", IMAGE, **DEPLOYING)
        assert run.code == 0, run.output
        reached = run.calls_of(" ssh ")
        assert len(reached) >= 3
        for call in reached:
            assert re.search(
                r"-F none -i \S+/key -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes", call
            )
            assert re.search(r"-o UserKnownHostsFile=\S+/known_hosts deploy@host.example.com ", call)
        assert reached[0].endswith("docker login ghcr.io --username somebody --password-stdin")
        assert reached[-1].endswith("docker logout ghcr.io")
        assert any(f"deploy.sh {IMAGE}" in call for call in reached)
        key = re.search(r"-i (\S+)/key", reached[0])
        assert key is not None
        assert not Path(key[1]).exists(), "the key does not stay"

    def test_the_rules_are_shown_before_they_are_set(self, host: Repository):
        shown = host.release("protect", "--dry-run", "alice", "example-org/operators")
        assert shown.code == 0, shown.output
        assert not shown.calls_of("--method")
        documents = {
            lines.split("\n", 1)[0]: json.loads(lines.split("\n", 1)[1])
            for lines in re.split(r"(?m)^(?=(?:POST|PUT) )", shown.output)[1:]
        }
        at = "repos/example-org/my-service"
        ruleset = documents[f"POST {at}/rulesets"]
        assert ruleset["enforcement"] == "active"
        rules = {rule["type"]: rule.get("parameters", {}) for rule in ruleset["rules"]}
        assert {"deletion", "non_fast_forward", "pull_request", "required_status_checks"} <= rules.keys()
        assert rules["pull_request"]["require_code_owner_review"]
        required = {
            (check["context"], check["integration_id"])
            for check in rules["required_status_checks"]["required_status_checks"]
        }
        assert required == {(job["name"], 15368) for _, job in jobs("check.yml")}, "of GitHub Actions, and nobody else"
        assert ruleset["bypass_actors"] == []
        assert documents[f"PUT {at}/actions/permissions/workflow"] == {
            "default_workflow_permissions": "read",
            "can_approve_pull_request_reviews": False,
        }
        environments = {name: documents[f"PUT {at}/environments/{name}"] for name in ENVIRONMENTS}
        asked = {name: [one["type"] for one in body["reviewers"]] for name, body in environments.items()}
        assert asked == {**{name: [] for name in ENVIRONMENTS}, "production": ["User", "Team"]}
        assert [name for name in ENVIRONMENTS if environments[name]["prevent_self_review"]] == ["production"]
        for name in ENVIRONMENTS:
            posted = documents[f"POST {at}/environments/{name}/deployment-branch-policies"]
            assert posted == {"name": "main", "type": "branch"}

    def test_the_rules_are_set(self, host: Repository):
        run = host.release("protect", "alice")
        assert run.code == 0, run.output
        assert run.calls_of(" gh api --method POST repos/example-org/my-service/rulesets --input - --silent")
        assert len(run.calls_of(" gh api --method PUT repos/example-org/my-service/environments/")) == len(ENVIRONMENTS)

    def test_no_branch_but_main_deploys_whatever_was_set_before(self, host: Repository):
        before = "1 branch main\n2 branch *\n3 tag main\n4 branch release/*\n"
        at = "repos/example-org/my-service/environments/production/deployment-branch-policies"
        run = host.release("protect", "alice", POLICIES=before)
        assert run.code == 0, run.output
        assert [call.split()[5:] for call in run.calls_of(f"DELETE {at}/")] == [
            [f"{at}/{n}", "--silent"] for n in "234"
        ]
        assert not run.calls_of(f"POST {at}")
        shown = host.release("protect", "--dry-run", "alice", POLICIES=before)
        assert not shown.calls_of("--method")
        assert re.findall(f"(?m)^DELETE {at}/(.*)$", shown.output) == ["2", "3", "4"]

    def test_what_was_set_before_has_to_be_known(self, host: Repository):
        red = "* gh api --paginate */environments/staging/deployment-branch-policies *"
        assert host.release("protect", "alice", RED=red).code != 0
        assert host.release("protect", "--dry-run", "alice", RED=red).code == 0, "there may be no such environment yet"

    def test_a_code_owner_whom_github_does_not_know_is_said(self, host: Repository):
        run = host.release("protect", "alice", UNOWNED="Unknown owner on line 3: make sure @example-org exists\n")
        assert (run.code, run.calls_of("--method")) == (1, [])
        assert run.output.endswith("teams as in @org/team\nUnknown owner on line 3: make sure @example-org exists\n")
        run = host.release("protect", "alice", RED="* gh api *codeowners/errors*")
        assert (run.code, run.calls_of("--method")) == (1, [])
        assert "main has no CODEOWNERS yet" in run.output

    def test_production_needs_somebody_to_approve(self, host: Repository):
        run = host.release("protect", "--dry-run")
        assert (run.code, run.calls) == (1, [])


TOKEN = {"GH_TOKEN": "token"}
# Which settings are of a host, and which of the cloud.
OF_A_PLATFORM = {
    **dict.fromkeys(("BACKUP_STORE", "DEPLOY_HOST", "DEPLOY_SSH_KEY", "DEPLOY_KNOWN_HOSTS"), True),
    **dict.fromkeys(("AWS_ROLE", "AWS_REGION", "DEPLOYMENT"), False),
}
ENVIRONMENTS = ("staging", "production", "drill", "template-update")
DEPLOYING = {
    "ENVIRONMENT": "staging",
    "DEPLOY_SSH_KEY": "key",
    "DEPLOY_KNOWN_HOSTS": "host.example.com ssh-ed25519 AAAA",
    "PUBLIC_URL": "https://api.example.com",
    "APP_SMOKE_EMAILS": "a@x.com,b@x.com",
    "APP_SMOKE_PASSWORD": "password",
    "GITHUB_ACTOR": "somebody",
    "REGISTRY_TOKEN": "token",
    **HOST,
}
