"""Each fact that stands in several files: changed in one of them alone, it is one line of the hook, and no more."""

import re
import shutil
from pathlib import Path

import pytest
from copier import run_copy

from .conftest import Add, Hook, HookModules, Service

SETTINGS = "chassis/src/chassis/settings.py"
HEALTH = "chassis/src/chassis/observe/health.py"
POSTGRES = "chassis/src/chassis/dev/postgres.py"
DOCKERFILE = "deploy/Dockerfile"
VARIABLES = "deploy/variables.env"
EXAMPLE = ".env.example"
WORKFLOW = ".github/workflows/check.yml"


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        # Ports
        (VARIABLES, "\nPORT=8000", "\nPORT=8080", f"has PORT 8080, and its default in {SETTINGS} is 8000"),
        (
            VARIABLES,
            "METRICS_PORT=8001",
            "METRICS_PORT=9",
            f"has METRICS_PORT 9, and its default in {SETTINGS} is 8001",
        ),
        (EXAMPLE, "# PORT=8000", "# PORT=8080", f"has PORT 8080, and its default in {SETTINGS} is 8000"),
        (DOCKERFILE, "EXPOSE 8000", "EXPOSE 8080", f"has port 8080, and the ports in {SETTINGS} are 8000 and 8001"),
        (DOCKERFILE, "8000 8001", "8000 9001", f"has port 9001, and the ports in {SETTINGS} are 8000 and 8001"),
        (DOCKERFILE, '"PORT\\", 8000', '"PORT\\", 8080', f"has PORT 8080, and its default in {SETTINGS} is 8000"),
        (
            DOCKERFILE,
            'f\'http://127.0.0.1:{os.environ.get(\\"PORT\\", 8000)}',
            "'http://127.0.0.1:8080",
            f"has port 8080, and the ports in {SETTINGS} are 8000 and 8001",
        ),
        # Health paths
        (DOCKERFILE, "/livez", "/healthz", f"asks /healthz, and {HEALTH} has no such path"),
        # The version of Python
        (
            DOCKERFILE,
            "FROM python:3.13",
            "FROM python:3.11",
            "has Python 3.11, and .python-version has 3.13",
        ),
        (
            WORKFLOW,
            "version: 0.13.8",
            "version: 0.13.8\n          python-version: '3.12'",
            "has Python 3.12, and .python-version has 3.13",
        ),
        (
            "pyproject.toml",
            '">=3.11"',
            '">=3.14"',
            "requires Python >=3.14, which leaves out the 3.13 of .python-version",
        ),
        (
            "chassis/pyproject.toml",
            '">=3.11"',
            '">=3.11,<3.13"',
            "requires Python >=3.11,<3.13, which leaves out the 3.13 of .python-version",
        ),
        # The major version of PostgreSQL
        (WORKFLOW, "run: make test", "run: docker run postgres:17", f"has PostgreSQL 17, and {POSTGRES} has 18"),
        (
            DOCKERFILE,
            "STOPSIGNAL SIGTERM",
            "RUN apt install postgresql-client-17",
            f"has PostgreSQL 17, and {POSTGRES} has 18",
        ),
        # Variables
        (DOCKERFILE, "APP_REVISION=", "APP_VERSION=", "sets APP_VERSION, which no settings class reads"),
        (VARIABLES, "# APP_DOCS=false", "APP_DOCS=false\nAPP_DOC=false", "sets APP_DOC, which no settings class reads"),
        (EXAMPLE, "# APP_DOCS=false", "# APP_DOCS=false\n# OTHER=1", "sets OTHER, which no settings class reads"),
        # Answers
        (
            "LICENSE",
            "All rights reserved",
            "Apache License",
            "says 'Apache License', which is for license apache-2.0, but it is proprietary",
        ),
        (
            "pyproject.toml",
            'license = "LicenseRef-Proprietary"',
            'license = "Apache-2.0"',
            "says 'license = \"Apache-2.0\"', which is for license apache-2.0, but it is proprietary",
        ),
        (
            "LICENSE",
            "All rights reserved",
            "MIT License",
            "says 'MIT License', which is for license mit, but it is proprietary",
        ),
        (
            "chassis/pyproject.toml",
            '"uvloop',
            '"libvalkey>=4", "uvloop',
            "says 'valkey', which is for shared_store valkey, but it is none",
        ),
        (
            "pyproject.toml",
            'license = "LicenseRef-Proprietary"',
            'license = "MIT"',
            "says 'license = \"MIT\"', which is for license mit, but it is proprietary",
        ),
    ],
)
def test_a_fact_that_differs_in_one_file(service: Service, hook: Hook, path: str, old: str, new: str, message: str):
    line = service.replace(path, old, new) + new.count("\n")
    assert hook() == (1, [f"{path}:{line}: {message}"])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a-clone", False),
        ("../a-clone", False),
        ("./chassis", True),
        ("gh:org/chassis", True),
        ("git@example.com:chassis.git", True),
        ("~/chassis", True),
    ],
)
def test_an_update_has_to_find_the_template(service: Service, hook: Hook, source: str, found: bool):
    (was,) = re.findall("(?m)^_src_path: .*$", (service.root / ".copier-answers.yml").read_text())
    line = service.replace(".copier-answers.yml", was, f"_src_path: {source}")
    problem = f".copier-answers.yml:{line}: says '{source}', which no update finds: copy from a URL or an absolute path"
    assert hook() == ((0, []) if found else (1, [problem]))


@pytest.mark.parametrize(
    ("path", "variable"), [(".env.example", "APP_VALKEY_URL"), ("deploy/variables.env", "APP_VALKEY_URL_FILE")]
)
def test_a_variable_of_an_optional_part_is_listed_where_that_was_asked_for(
    path: str, variable: str, template: Path, service: Service, hook: Hook
):
    shutil.rmtree(service.root)
    answers = {"shared_store": "valkey"}
    run_copy(str(template), service.root, data=answers, defaults=True, unsafe=True, quiet=True, skip_tasks=True)
    assert hook() == (0, [])
    service.replace(path, f"{variable}=", "# Nothing ")
    assert hook() == (1, [f"{path}:1: does not list APP_VALKEY_URL, which the settings read"])


def test_a_file_of_an_optional_part_that_nobody_asked_for(hook: Hook, add: Add):
    add("chassis/src/chassis/limits/valkey.py", "")
    problem = "is there, which is for shared_store valkey, but it is none"
    assert hook() == (1, [f"chassis/src/chassis/limits/valkey.py:1: {problem}"])


def test_another_answer_than_what_was_rendered(service: Service, hook: Hook):
    service.replace(".copier-answers.yml", "license: proprietary", "license: apache-2.0")
    code, problems = hook()
    assert code == 1
    assert [(problem.partition(":")[0], problem.partition("which is for ")[2]) for problem in problems] == [
        (path, "license proprietary, but it is apache-2.0") for path in ("LICENSE", "pyproject.toml")
    ]


@pytest.mark.parametrize(
    ("path", "line"),
    [(EXAMPLE, "# APP_DOCS=false\n"), (VARIABLES, "# MIGRATOR_DATABASE_URL_FILE=/run/secrets/migrator_database_url\n")],
)
def test_a_variable_that_is_not_listed(service: Service, hook: Hook, path: str, line: str):
    service.replace(path, line, "")
    name = line.removeprefix("# ").partition("=")[0].removesuffix("_FILE")
    assert hook() == (1, [f"{path}:1: does not list {name}, which the settings read"])


@pytest.mark.parametrize("path", ["src/my_service/settings.py", SETTINGS])
def test_a_variable_that_the_settings_gain_is_to_be_listed(service: Service, hook: Hook, path: str):
    service.append(
        path,
        "\n\nclass Region:\n    name: str\n"
        "\n\nclass MoreSettings:\n    region: str = 'eu'\n    pin: SecretStr = Field(alias='X')\n",
    )
    lists = [(EXAMPLE, 1), (VARIABLES, 1)]
    both = [
        f"{file}:{line}: does not list {name}, which the settings read"
        for file, line in lists
        for name in ("APP_PIN", "APP_REGION")
    ]
    assert hook() == (1, both)
    service.append(EXAMPLE, "APP_REGION=eu\n# APP_PIN=\n")
    service.append(VARIABLES, "#APP_REGION=eu\nAPP_PIN_FILE=/pin\n")
    assert hook() == (0, [])


def test_only_a_secret_comes_from_a_file(service: Service, hook: Hook):
    line = service.append(VARIABLES, "APP_DOCS_FILE=/docs\n")
    assert hook() == (1, [f"{VARIABLES}:{line}: sets APP_DOCS_FILE, which no settings class reads"])


@pytest.mark.parametrize("default", ["9000", "default=9000"])
def test_the_settings_default_is_the_one_that_counts(service: Service, hook: Hook, default: str):
    service.replace(SETTINGS, "default=8000", default)
    code, problems = hook()
    assert code == 1
    assert {problem.partition(":")[0] for problem in problems} == {EXAMPLE, VARIABLES, DOCKERFILE, "deploy/deploy.sh"}
    assert all(SETTINGS in problem for problem in problems)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            DOCKERFILE,
            "RUN pg_isready -h localhost:5432\n# python 3.9, postgres:9, APP_OLD\nCOPY x.toml /usr/bin/healthz.py\n",
        ),
        (
            WORKFLOW,
            "      - run: uv run --python 3.11 pytest  # the oldest\n      - run: docker run postgres:18-alpine\n",
        ),
        (VARIABLES, "# The names of APP_X, and PORT 9, are not settings.\n"),
    ],
)
def test_what_states_no_other_fact(service: Service, hook: Hook, path: str, text: str):
    service.append(path, text)
    assert hook() == (0, [])


def test_other_deploy_files_state_the_same_facts(hook: Hook, add: Add):
    add(
        "deploy/compose.yaml",
        """\
services:
  api:
    image: python:3.12
    environment: {PORT: "8080", APP_DOCS: "false", APP_DOC: "false"}
    healthcheck: {test: curl -f localhost:9090/ready}
  database:
    image: postgres:17-alpine@sha256:0
""",
    )
    assert hook() == (
        1,
        [
            "deploy/compose.yaml:3: has Python 3.12, and .python-version has 3.13",
            f"deploy/compose.yaml:4: has PORT 8080, and its default in {SETTINGS} is 8000",
            "deploy/compose.yaml:4: sets APP_DOC, which no settings class reads",
            f"deploy/compose.yaml:5: asks /ready, and {HEALTH} has no such path",
            f"deploy/compose.yaml:5: has port 9090, and the ports in {SETTINGS} are 8000 and 8001",
            f"deploy/compose.yaml:7: has PostgreSQL 17, and {POSTGRES} has 18",
        ],
    )


def test_a_table_says_what_is_only_there_for_an_answer(service: Service, hook_modules: HookModules):
    facts, tree = hook_modules("facts"), hook_modules("tree")
    rendered = tree.Tree(service.root, {"jobs": False}, (DOCKERFILE, VARIABLES))

    def found(*mark: object) -> list[tuple[str, int, str]]:
        return [tuple(problem) for problem in facts.answers_given(rendered, (facts.Mark(*mark),))]

    reason = "which is for jobs True, but it is False"
    (service.root / DOCKERFILE).write_text("")
    assert found("jobs", True, DOCKERFILE) == [(DOCKERFILE, 1, f"is there, {reason}")]
    assert [path for path, _, _ in found("jobs", True, "deploy/")] == [DOCKERFILE, VARIABLES]
    line = service.append(VARIABLES, "JOBS=1\n")
    rendered = tree.Tree(service.root, {"jobs": False}, (DOCKERFILE, VARIABLES))
    assert found("jobs", True, VARIABLES, "JOBS") == [(VARIABLES, line, f"says 'JOBS', {reason}")]
    assert found("jobs", True, DOCKERFILE, "JOBS") == []
    assert found("jobs", True, "jobs/") == []
    assert found("jobs", False, "deploy/") == []
