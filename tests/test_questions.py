"""What is asked, what is refused and with which words."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from conftest import ROOT, Render
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment
from pythons import NEWEST, TESTED, python

from tools.reserved_names import could_be_a_package, python_names

CONFIGURATION: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {name: q for name, q in CONFIGURATION.items() if not name.startswith("_")}


def macros(file: str) -> Any:
    """A file of includes/ as Copier reads it: its macros and lists are attributes."""
    filters = "jinja2_ansible_filters.AnsibleCoreFiltersExtension"
    environment = SandboxedEnvironment(loader=FileSystemLoader(ROOT), extensions=[filters])
    return cast("Any", environment.get_template(f"includes/{file}").module)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_says_what_it_is_and_what_choosing_costs(name: str):
    question = QUESTIONS[name]
    assert question["type"] == "str"
    assert question["default"]
    assert "?" in question["help"], "help starts with a question"
    assert len(question["help"].split("?", 1)[1].split()) >= 8, "help says what choosing costs"
    assert ("validator" in question) != ("choices" in question), "free text is validated, a choice is one of its values"


def test_every_default_is_accepted(render: Render):
    answers = yaml.safe_load((render() / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert {name for name in answers if not name.startswith("_")} == set(QUESTIONS)
    assert answers["package_name"] == "my_service"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "class_service: this one is a keyword of Python"),
        ("queue", "queue_service: this one is a module of Python's standard library"),
        ("asyncore", "standard library"),  # of 3.11, gone from 3.12
        ("fastapi", "fastapi_service: this one is a package that the service installs"),
        ("python_dotenv", "a package that the service installs"),  # what is installed, where `dotenv` is imported
        ("chassis", "the name of something beside the package"),
        ("app", "the name of something beside the package"),
        ("tests", "the name of something beside the package"),
        ("shop_chassis", "does not end in _chassis"),
        ("pg_tools", "my_pg_tools: PostgreSQL keeps names that start with pg_ for itself"),
        ("2fast", "starting with a letter, such as my_service"),
        ("_private", "starting with a letter"),
        ("My_Service", "lower-case ASCII letters"),
        ("my-service", "lower-case ASCII letters"),
        ("my__service", "single underscores"),
        ("my_service_", "single underscores"),
        ("größe", "ASCII letters"),
        ("my.service", "lower-case ASCII letters"),
        ("my_service\n", "lower-case ASCII letters"),
        ("", "lower-case ASCII letters"),
        ("a" * 41, "at most 40 characters"),
    ],
)
def test_a_package_name_that_would_not_work_is_refused_with_what_to_type(name: str, reason: str, render: Render):
    with pytest.raises(ValueError, match="Validation error for question 'package_name': Type ") as refused:
        render(package_name=name)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a", "shop", "my_service", "orders2", "a" * 40])
def test_a_package_name_that_works_is_accepted(name: str):
    assert macros("package_name.jinja").package_name_problem(name) == ""


def test_the_package_name_that_is_offered_is_always_accepted():
    """Whatever a project is called, its default package name is one that the validator lets through."""
    package = macros("package_name.jinja")
    reserved = macros("reserved_names.jinja")
    projects = [*reserved.PYTHON_KEYWORDS, *reserved.STANDARD_LIBRARY, *reserved.INSTALLED, *package.TAKEN]
    projects += [
        "Заказы",
        "42",
        "2 Fast",
        "PG Tools",
        "Größe",
        "🚀",
        "...",
        "a" * 60,
        "x" * 31 + "-y",
        "A - B",
        "My Chassis",
    ]
    problems = {project: package.package_name_problem(package.package_name_for(project)) for project in projects}
    assert {project: problem for project, problem in problems.items() if problem} == {}
    assert package.package_name_for("Billing & Refunds (EU)") == "billing_refunds_eu"
    assert package.package_name_for("Queue") == "queue_service"


def test_keywords_and_standard_library_are_complete_for_every_python_that_we_test():
    reserved = macros("reserved_names.jinja")
    keywords, modules = python_names([python(version) for version in TESTED])
    newest_keywords, newest_modules = python_names([python(NEWEST)])
    assert keywords == set(reserved.PYTHON_KEYWORDS)
    assert newest_keywords == keywords
    assert newest_modules <= modules <= set(reserved.STANDARD_LIBRARY)
    assert all(could_be_a_package(name) for name in reserved.STANDARD_LIBRARY)


def test_the_newest_python_that_is_offered_is_the_default_and_is_tested():
    choices = QUESTIONS["python_version"]["choices"]
    assert QUESTIONS["python_version"]["default"] == choices[-1] == NEWEST
    assert (choices[0], choices[-1]) == TESTED


@pytest.mark.parametrize("owner", ["-a", "a-", "a--b", "a b", "a/b", "a" * 40, "a-" * 20 + "a", "ö", "", "a\n"])
def test_an_owner_that_github_would_not_have_is_refused(owner: str, render: Render):
    with pytest.raises(ValueError, match=r"question 'owner': Type a GitHub name: .* such as example-org\.$"):
        render(owner=owner)


NO_ADDRESSES = ["nobody", "@example.com", "a@b", "a b@example.com", "a@exam ple.com", "a@-x.com", ".a@example.com"]
TRICKS = ["a@example.com\n", "A <a@example.com>", "a@example.com,b@example.com", '"a"@example.com', "ä@example.com"]


@pytest.mark.parametrize("address", [*NO_ADDRESSES, *TRICKS, "a@" + "x" * 250 + ".com"])
def test_what_is_no_plain_address_is_refused(address: str, render: Render):
    with pytest.raises(ValueError, match=r"'contact_email': Type one plain address, such as team@example\.com\.$"):
        render(contact_email=address)


def test_a_choice_that_does_not_exist_is_refused(render: Render):
    with pytest.raises(ValueError, match="python_version"):
        render(python_version="2.7")


def test_a_refused_answer_ends_copier_with_that_line_and_leaves_nothing(tmp_path: Path, template: Path):
    target = tmp_path / "service"
    command = [sys.executable, "-m", "copier", "copy", "--trust", "--defaults", "--data", "package_name=class"]
    done = subprocess.run([*command, template, target], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ValueError: Validation error for question 'package_name': "
        "Type another name, such as class_service: this one is a keyword of Python."
    )
    assert not target.exists()
