"""What /readyz must know about migrations, read from the files: Alembic takes too long to import for a server."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from chassis.failure import Failure

CHASSIS_REVISIONS = Path(__file__).parent.parent / "migrations" / "versions"

State = Literal["behind", "current", "ahead"]


def service_revisions() -> Path:
    """The folder `migrations/versions` of the service: the nearest one from the working directory upwards.

    Raises Failure where there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (found := folder / "migrations" / "versions").is_dir():
            return found
    raise Failure(f"there is no migrations/versions in {here} or above it: run this in the service's folder")


def state(applied: Iterable[str]) -> State:
    """Compare the rows of chassis.alembic_version with the revisions of this release.

    `ahead` means that a newer release has migrated, and so has done all that this one needs: the older replicas beside
    it are ready. `behind` is not ready.
    """
    needs = revisions()
    done = set(applied)
    if not done <= needs.keys():
        return "ahead"
    waiting = list(done)
    while waiting:
        for earlier in needs[waiting.pop()] - done:
            done.add(earlier)
            waiting.append(earlier)
    return "current" if done == needs.keys() else "behind"


@cache
def revisions() -> dict[str, frozenset[str]]:
    """Every revision of this release, chassis and service, with those that it comes after."""
    files = [*CHASSIS_REVISIONS.glob("*.py"), *service_revisions().glob("*.py")]
    return dict(_read(file) for file in files if not file.name.startswith("_"))


def _read(file: Path) -> tuple[str, frozenset[str]]:
    values: dict[str, Any] = {}
    for statement in ast.parse(file.read_text(), str(file)).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if name in {"revision", "down_revision", "depends_on"}:
                values[name] = ast.literal_eval(value)
            case _:
                pass
    return str(values["revision"]), frozenset({*_names(values.get("down_revision")), *_names(values.get("depends_on"))})


def _names(value: Any) -> tuple[str, ...]:
    """Of what Alembic takes there: None, a revision, or several."""
    return (value,) if isinstance(value, str) else tuple(value or ())
