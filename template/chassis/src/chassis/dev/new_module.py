"""`make module NAME=invoices`: the smallest module that is whole, in files that are their owner's from then on."""

import re
import subprocess
import sys
from keyword import iskeyword
from pathlib import Path

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from chassis.data import heads
from chassis.failure import Failure
from chassis.features import PACKAGE

# The module `notes`, whose rows are notes. Whatever it is called instead is put in the place of these words.
_FILES = {
    "migrations/versions/notes.py": '''"""The table of the module `notes`."""

from alembic import op

from chassis.data.tenancy import tenant_table

revision = "notes_0001"
down_revision = None
branch_labels = None
depends_on = "chassis_0001"


def upgrade() -> None:
    op.execute("""
        create table notes (
            tenant_id uuid not null,
            id uuid not null default uuidv7(),
            name text not null check (length(name) between 1 and 200),
            created_at timestamptz not null default now(),
            primary key (tenant_id, id)
        );
        create index notes_by_time on notes (tenant_id, created_at desc, id desc);
    """)
    op.execute(tenant_table("notes", app="select, insert"))


def downgrade() -> None:
    op.execute("drop table notes")
''',
    "src/PACKAGE/notes/queries.py": '''"""The SQL of `notes`, and what its rows are in Python."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis import query


@dataclass(frozen=True, slots=True)
class Note:
    id: UUID
    name: str
    created_at: datetime


ADD = query("notes.add", Note, "insert into notes (tenant_id, name) values ($1, $2) returning {row}")

PAGE = query(
    "notes.page",
    Note,
    """
    select {row}
    from notes
    where (created_at, id) < ($1, $2)
    order by created_at desc, id desc
    limit $3
    """,
)

SAMPLE = query(
    "notes.sample",
    str,
    """
    insert into notes (tenant_id, name, created_at)
    select current_setting('app.tenant_id')::uuid, 'sample ' || n, now() - n * interval '1 minute'
    from generate_series(1, $1::int) as n
    """,
)
''',
    "src/PACKAGE/notes/api.py": '''"""The API of `notes`: what each request looks like, and who may send it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from chassis import Idempotent, Input, Page, PageRequest, Principal, Transaction, may

from . import queries
from .queries import Note

router = APIRouter()

Reader = Annotated[Principal, may("notes:read")]
Writer = Annotated[Principal, may("notes:write")]


class NewNote(Input):
    name: str = Field(min_length=1, max_length=200)


@router.post("/notes", status_code=201)
async def add_note(body: NewNote, who: Writer, db: Transaction, once: Idempotent) -> Note:
    """Add one. Repeating the request with the same Idempotency-Key returns the first answer."""
    return await db.one(queries.ADD, db.tenant_id, body.name)


@router.get("/notes")
async def list_notes(who: Reader, db: Transaction, page: PageRequest) -> Page[Note]:
    """All, newest first."""
    return page.page(await db.all(queries.PAGE, *page.before(), page.fetch))
''',
    "src/PACKAGE/notes/__init__.py": '''"""The module `notes`. Other modules import from here and nowhere deeper."""

from chassis import Module

from . import queries
from .api import router

module = Module(
    name="notes",
    router=router,
    permissions={
        "notes:read": ("owner", "admin", "member", "viewer"),
        "notes:write": ("owner", "admin", "member"),
    },
    sample=queries.SAMPLE,
)

__all__ = ["module"]
''',
    "tests/test_notes.py": '''"""The module `notes` over HTTP."""

from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest

pytestmark = pytest.mark.anyio


async def test_what_is_added_is_listed_for_its_own_tenant(
    client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]]
):
    key = {"Idempotency-Key": str(uuid4())}
    added = await client.post("/v1/notes", json={"name": "first"}, headers=as_principal() | key)
    assert added.status_code == 201
    listed = await client.get("/v1/notes", headers=as_principal("viewer"))
    assert listed.json() == {"items": [added.json()], "next": None}
    elsewhere = await client.get("/v1/notes", headers=as_principal("owner", uuid4()))
    assert elsewhere.json()["items"] == []


async def test_who_may_only_read_adds_nothing(client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]]):
    headers = as_principal("viewer") | {"Idempotency-Key": str(uuid4())}
    assert (await client.post("/v1/notes", json={"name": "first"}, headers=headers)).status_code == 403
''',
}


def new_module(name: str) -> list[Path]:
    """Write the module `name` and list it in main.py; returns the files. Raises Failure, and then writes nothing."""
    root = heads.service_revisions().parent.parent
    main = root / "src" / PACKAGE / "main.py"
    _check(name)
    listed = _listed(main.read_text(encoding="utf-8"), name)
    files = {root / path.replace("PACKAGE", PACKAGE).replace("notes", name): text for path, text in _FILES.items()}
    for taken in (*files, main.with_name(name), main.with_name(f"{name}.py")):
        if taken.exists():
            raise Failure(f"{taken.relative_to(root)} exists already: choose another name")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_renamed(text, name), encoding="utf-8")
    main.write_text(listed, encoding="utf-8")
    written = [*files, main]
    for command in (["check", "--fix", "--select=I"], ["format"]):  # the name decides over order and lengths
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *written], cwd=root, check=True)
    return written


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 40:
        raise Failure("a module has a name in lower case, most often a plural, as in make module NAME=invoices")
    if iskeyword(name) or name in RESERVED_WORDS:
        raise Failure(f"'{name}' means something to Python or to SQL: choose another name")


def _listed(main: str, name: str) -> str:
    """main.py with one more module."""
    if re.search(rf"\b{name}\b", main):
        raise Failure(f"main.py has the word '{name}' already: choose another name")
    imported, imports = re.subn(r"^from \.", f"from . import {name}\nfrom .", main, count=1, flags=re.MULTILINE)
    listed, lists = re.subn(r"\bmodules=\[([^]]*?),?\s*\]", rf"modules=[\1, {name}.module]", imported)
    if (imports, lists) != (1, 1):
        raise Failure(f"add to main.py first: 'from . import {name}', and '{name}.module' to the modules of the app")
    return listed.replace("modules=[, ", "modules=[")


def _renamed(text: str, name: str) -> str:
    one = f"{name[:-3]}y" if name.endswith("ies") else re.sub(r"(?<=[^s])s$", "", name)
    words = {"/notes": f"/{name.replace('_', '-')}", "notes": name, "Note": one.title().replace("_", ""), "note": one}
    return re.sub("|".join(words), lambda word: words[word[0]], text)
