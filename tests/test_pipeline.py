"""The pipeline of a rendered service: what its linters say, how it is made, and what it does, run by act."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from conftest import ROOT, copy_template
from pipeline_support import BASE_DIGEST, DIGEST, IMAGE, Repository, copy, prepare

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
        steps = [step.get("run", step.get("uses", "")) for step in workflow("deploy.yml")["jobs"]["deploy"]["steps"]]
        order = [
            next(number for number, step in enumerate(steps) if word in step)
            for word in ("verify", "aws-actions/", "parity", "compare", "release.sh deploy")
        ]
        assert order == sorted(order)

    def test_an_environment_is_what_approval_and_secrets_hang_on(self):
        deploy = workflow("deploy.yml")["jobs"]["deploy"]
        assert deploy["environment"]["name"] == "${{ inputs.environment }}"
        assert {job["environment"] for _, job in jobs("weekly.yml") if "environment" in job} == {
            "drill",
            "template-update",
        }
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

    def test_new_releases_of_others_wait_a_week(self):
        updates = yaml.safe_load((ROOT / "template" / ".github" / "dependabot.yml").read_text())["updates"]
        assert {update["package-ecosystem"] for update in updates} == {"uv", "github-actions", "docker"}
        for update in updates:
            assert update["cooldown"]["default-days"] >= 7
            assert update["groups"]

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
        assert (rendered / "CODEOWNERS").read_text().splitlines()[-1] == "* @example-org"


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
        assert re.search(rf" PYTHON_IMAGE=python:3\.\d+-slim-trixie@{BASE_DIGEST} ", built)
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
            head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository.root, text=True).strip()
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


class TestEveryWeek:
    def test_a_backup_is_restored_and_nobody_is_disturbed(self, host: Repository):
        run = host.act("workflow_dispatch", workflow="weekly.yml")
        assert run.code == 0, run.output
        (drill,) = run.calls_of(" uv run --locked chassis drill --to postgresql://postgres:")
        assert drill.endswith("@127.0.0.1:5432/postgres")
        assert not run.calls_of(" gh issue ")

    def test_a_drill_that_fails_is_red_and_opens_an_issue(self, host: Repository):
        run = host.act("workflow_dispatch", workflow="weekly.yml", red="- uv run --locked chassis drill *")
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

    def updated(self, updating: Repository, script: str, **variables: str):
        (updating.beside / "bin" / "make").write_text(f"#!/bin/sh\n{script}\n")
        return updating.release("update", **({"GH_TOKEN": "token"} | variables))

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
        run = self.updated(updating, 'test "$1 $2" = "update ARGS=--defaults" && echo new >Makefile')
        assert run.code == 0, run.output
        (made,) = run.calls_of(" gh pr create ")
        assert "--head template-update --title Bring the template's newest release --body-file" in made
        assert "--draft" not in made
        assert self.pushed(updating) == ["refs/heads/template-update"]

    def test_with_conflicts_is_a_draft_that_says_them_and_red(self, updating: Repository):
        script = "echo '<<<<<<< before' >>Makefile; echo 'Makefile:9: has a conflict' >&2; exit 1"
        run = self.updated(updating, script)
        assert run.code == 1
        (made,) = run.calls_of(" gh pr create ")
        assert "--title Bring the template's newest release: it needs you " in made
        assert "--draft" in made
        assert "Makefile:9: has a conflict" in (updating.beside / "calls.body").read_text()

    def test_with_conflicts_makes_a_draft_of_the_one_that_is_open(self, updating: Repository):
        run = self.updated(updating, "echo '<<<<<<< before' >>Makefile; exit 1", OTHER="7")
        assert run.code == 1
        assert [call.split()[3] for call in run.calls_of(" gh pr ")] == ["list", "edit", "ready"]
        assert run.calls[-1].endswith("--undo")

    def test_that_there_is_none_of_is_quiet(self, updating: Repository):
        run = self.updated(updating, "exit 0")
        assert (run.code, run.calls, self.pushed(updating)) == (0, [], [])

    def test_that_could_not_be_fetched_is_red(self, updating: Repository):
        run = self.updated(updating, "echo no network; exit 1")
        assert (run.code, run.calls, self.pushed(updating)) == (1, [], [])
        assert "no network" in run.output

    def test_is_not_shown_the_token(self, updating: Repository):
        run = self.updated(updating, 'echo "token: ${GH_TOKEN-none}"')
        assert "token: none" in run.output


class TestTheImage:
    def test_is_built_on_what_the_dockerfile_names_by_its_digest(self, mine: Repository):
        dockerfile = mine.root / "deploy" / "Dockerfile"
        pinned = f"python:3.13-slim-trixie@sha256:{'0' * 64}"
        named = re.sub("(?m)^ARG PYTHON_IMAGE=.*$", f"ARG PYTHON_IMAGE={pinned}", dockerfile.read_text())
        dockerfile.write_text(named)
        run = mine.release("build")
        assert run.code == 0, run.output
        (built,) = run.calls
        assert f" --build-arg PYTHON_IMAGE={pinned} " in built

    def test_is_not_built_on_what_has_none(self, mine: Repository):
        run = mine.release("build", BASE="")
        assert (run.code, run.calls_of(" build ")) == (1, [])
        assert "the registry does not say which image python:" in run.output


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

        class Osv(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
                results = [{"vulns": [found]} if one["package"]["name"] == "idna" else {} for one in asked]
                self.answer({"results": results})

            def do_GET(self) -> None:
                self.answer({**found, "summary": "planted", "aliases": ["CVE-2026-1"]})

            def answer(self, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as it is called there)
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

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
        required = {check["context"] for check in rules["required_status_checks"]["required_status_checks"]}
        assert required == {job["name"] for _, job in jobs("check.yml")}
        environments = {name: documents[f"PUT {at}/environments/{name}"] for name in ENVIRONMENTS}
        asked = {name: [one["type"] for one in body["reviewers"]] for name, body in environments.items()}
        assert asked == {**{name: [] for name in ENVIRONMENTS}, "production": ["User", "Team"]}
        for name in ENVIRONMENTS:
            assert documents[f"POST {at}/environments/{name}/deployment-branch-policies"] == {"name": "main"}

    def test_the_rules_are_set(self, host: Repository):
        run = host.release("protect", "alice")
        assert run.code == 0, run.output
        assert run.calls_of(" gh api --method POST repos/example-org/my-service/rulesets --input - --silent")
        assert len(run.calls_of(" gh api --method PUT repos/example-org/my-service/environments/")) == len(ENVIRONMENTS)

    def test_production_needs_somebody_to_approve(self, host: Repository):
        run = host.release("protect", "--dry-run")
        assert (run.code, run.calls) == (1, [])


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
