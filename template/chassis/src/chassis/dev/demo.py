"""The account that a new development database has, with a few rows in its tenant: the first request needs no mail."""

from chassis.app import Service
from chassis.identity import accounts, emails, signup
from chassis.settings import Settings

EMAIL = "demo@example.com"
PASSWORD = "three demo teapots"  # noqa: S105  (of a database that only this machine can reach)

_SAMPLE_ROWS = 5


async def make_demo(service: Service, settings: Settings) -> None:
    """Sign the demo account up, and fill its tenant with what the modules have as samples."""
    service.configure(settings)
    identity, database = service.identity, service.database
    await database.open()
    account, _ = await signup.create(identity, emails.parse(EMAIL), PASSWORD)
    async with database.unit_of_work(None) as db:
        await accounts.become(db, account.id)
        for module in service.modules:
            if module.sample is not None:
                await db.run(module.sample, _SAMPLE_ROWS)
    identity.passwords.close()
    await database.close(1)
