"""A workflow that would trust more than it has to is one line of the hook, and no more."""

import pytest

from .conftest import Add, Hook, Service

WORKFLOW = ".github/workflows/check.yml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "uses",
    [
        "actions/checkout@v5",
        "actions/checkout@main",
        "actions/checkout",
        f"actions/checkout@{COMMIT[:39]}",
        f"actions/checkout@{COMMIT}0",
        f"actions/checkout@{COMMIT.upper()}",
        "docker://alpine:3",
        f"docker://alpine@sha256:{COMMIT}",
    ],
)
def test_an_action_that_is_not_pinned(service: Service, hook: Hook, uses: str):
    line = service.append(WORKFLOW, f"      - uses: {uses} # {COMMIT}\n")
    message = f"uses {uses}, which is not pinned by a 40-digit commit (or image digest)"
    assert hook() == (1, [f"{WORKFLOW}:{line}: {message}"])


@pytest.mark.parametrize(
    "uses",
    [
        f"actions/cache/restore@{COMMIT}",
        "./.github/actions/mine",
        "$/.github/actions/mine",
        f"docker://alpine@sha256:{COMMIT}{COMMIT[:24]}",
    ],
)
def test_an_action_that_is_pinned(service: Service, hook: Hook, uses: str):
    service.append(WORKFLOW, f"      - uses: {uses}\n")
    assert hook() == (0, [])


def test_a_workflow_that_is_called_and_a_composite_action_are_pinned_too(hook: Hook, add: Add):
    add(
        ".github/workflows/call.yaml", "permissions: {}\njobs:\n  a:\n    uses: some/where/.github/workflows/x.yml@v1\n"
    )
    add(".github/actions/mine/action.yml", "runs:\n  using: composite\n  steps:\n    - uses: some/action@v1\n")
    code, problems = hook()
    assert code == 1
    assert [problem.partition(" uses ")[0] for problem in problems] == [
        ".github/actions/mine/action.yml:4:",
        ".github/workflows/call.yaml:4:",
    ]


def test_a_job_without_permissions_in_a_workflow_without_them(service: Service, hook: Hook):
    service.replace(WORKFLOW, "permissions: {}\n", "")
    assert hook() == (0, [])  # every job has its own
    line = service.append(WORKFLOW, "  more:\n    runs-on: ubuntu-24.04\n    steps: []\n")
    message = "declares no permissions, neither at its top nor in the job more"
    assert hook() == (1, [f"{WORKFLOW}:{line}: {message}"])


def test_a_job_may_rely_on_the_permissions_at_the_top(service: Service, hook: Hook):
    service.append(WORKFLOW, "  more:\n    runs-on: ubuntu-24.04\n    steps: []\n")
    assert hook() == (0, [])


def test_a_workflow_that_is_no_yaml_is_told_once(service: Service, hook: Hook):
    line = service.append(WORKFLOW, "  more: [\n")
    assert hook() == (1, [f"{WORKFLOW}:{line + 1}: is not YAML: did not find expected node content"])
