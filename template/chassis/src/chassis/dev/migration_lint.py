"""Check what each migration would do to a database in use: the SQL of every revision goes through squawk.

What replicas of the release before could not go on with, such as a column that is gone, it refuses as well: that comes
with the release after the one that no longer uses it.

To say that a rule does not hold for one statement, write `-- squawk-ignore rule-name` above it, and why.
"""

import subprocess
import sys
from io import StringIO
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from chassis.data.migrate import alembic_config
from chassis.dev.postgres import POSTGRES_MAJOR
from chassis.failure import Failure

# fmt: off
_EXCLUDED = (
    "require-lock-timeout", "require-statement-timeout",  # `chassis migrate` sets both
    "prefer-bigint-over-int", "prefer-bigint-over-smallint",  # a quantity is no key
    "ban-char-field",  # a currency has three letters
)
# fmt: on


def lint() -> int:
    """Print what is dangerous in the migrations of the service and the chassis. Returns 1 if anything is."""
    squawk = Path(sys.executable).with_name("squawk")
    if not squawk.exists():
        raise Failure("squawk is not installed: run `uv sync`")
    options = [f"--pg-version={POSTGRES_MAJOR}.0", f"--exclude={','.join(_EXCLUDED)}"]
    failed = False
    for revision in ScriptDirectory.from_config(alembic_config()).walk_revisions():
        command = [squawk, *options, f"--stdin-filepath={revision.path}"]
        checked = subprocess.run(command, input=_sql(revision), capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            failed = True
            print(checked.stdout, checked.stderr)
    return 1 if failed else 0


def _sql(revision: Script) -> str:
    output = StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": output, "transaction_per_migration": True}
    )
    with Operations.context(context), context.begin_transaction():
        revision.module.upgrade()
    # An autocommit block in it ends this transaction, and begins the next one.
    return f"begin; {output.getvalue()} commit;"
