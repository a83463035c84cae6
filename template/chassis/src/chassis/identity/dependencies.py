"""What the handlers of this package ask for in their signatures."""

from typing import Annotated

from fastapi import Request
from fastapi.params import Depends

from chassis.identity.identity import Identity
from chassis.identity.principal import Principal, may


async def _identity(request: Request) -> Identity:
    return request.app.identity


Desk = Annotated[Identity, Depends(_identity)]
"""The service's identity: see `chassis.identity.identity`."""

Me = Annotated[Principal, may("account:manage")]
"""A person, whatever the role in the tenant: not an API key."""
