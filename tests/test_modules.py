"""Modules of a rendered service: they keep their distance, and each may come, go, or leave for a service of its own."""

import shutil
from pathlib import Path

import pytest
from conftest import copy_template
from pythons import NEWEST, python
from test_documentation import blocks
from test_service import run


def made(template: Path, folder: Path, **answers: str) -> Path:
    """Render the template, and make its environment with the newest Python; returns the folder."""
    copy_template(template, folder, **answers)
    run(folder, "uv", "sync", "--quiet", "--python", str(python(NEWEST)))
    return folder


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(template, tmp_path_factory.mktemp("modules") / "my-service")


@pytest.mark.parametrize(
    ("importer", "line", "told"),
    [
        (
            "src/my_service/webhooks/service.py",
            "from ..orders.queries import READ",
            "my_service.webhooks.service imports my_service.orders.queries",
        ),
        (
            "src/my_service/webhooks/api.py",
            "from ..orders import service as orders",
            "my_service.webhooks.api imports my_service.orders.service",
        ),
        (
            "src/my_service/main.py",
            "import my_service.orders.api",
            "my_service.main imports my_service.orders.api",
        ),
        (
            "chassis/src/chassis/money.py",
            "def later(): import my_service.settings",
            "chassis.money -> my_service.settings",
        ),
    ],
)
def test_an_import_past_a_face_is_found(importer: str, line: str, told: str, service: Path):
    file = service / importer
    sound = file.read_text()
    file.write_text(f"{sound}\n{line}\n")
    try:
        with pytest.raises(pytest.fail.Exception) as failed:
            run(service, ".venv/bin/lint-imports")
    finally:
        file.write_text(sound)
    assert told in str(failed.value)
    assert "1 kept, 1 broken" in str(failed.value)


def test_a_module_leaves_for_a_service_of_its_own(service: Path, template: Path, tmp_path: Path):
    own = made(template, tmp_path / "shop", project_name="Shop")
    _, remove = blocks(own / "docs" / "modules.md", "sh")
    run(own, "bash", "-euc", remove)
    shutil.copytree(service / "src" / "my_service" / "orders", own / "src" / "shop" / "orders")
    for file in ("migrations/versions/orders.py", "tests/test_orders.py"):
        shutil.copy(service / file, own / file)
    main = own / "src" / "shop" / "main.py"
    text = main.read_text().replace("from .settings", "from . import orders\nfrom .settings")
    main.write_text(text.replace("modules=[]", "modules=[orders.module]"))
    run(own, "make", "check")
    run(own, "make", "test", "ARGS=tests chassis/tests/test_plans.py chassis/tests/test_catalog.py")


def test_the_service_is_green_without_the_examples_and_with_a_module_made_by_the_page(service: Path):
    make, remove = blocks(service / "docs" / "modules.md", "sh")
    run(service, "bash", "-euc", remove)
    main = service / "src" / "my_service" / "main.py"
    assert "modules=[])" in main.read_text()
    assert list((service / "migrations" / "versions").iterdir()), "git keeps no empty folder, and the service needs it"
    run(service, "make", "check")
    run(service, "make", "test")

    run(service, "bash", "-euc", make)
    assert "modules=[notes.module])" in main.read_text()
    run(service, "make", "check")
    made_from_the_modules = "attacks", "catalog", "contract", "migrations", "plans", "strict_json"
    run(
        service,
        "make",
        "test",
        f"ARGS=tests {' '.join(f'chassis/tests/test_{name}.py' for name in made_from_the_modules)}",
    )
