"""The ground under the service. Modules import from here: what is not listed is not meant for them."""

from chassis.app import create_app
from chassis.data.queries import query
from chassis.data.unit_of_work import Transaction, UnitOfWork
from chassis.http.idempotency import Idempotent
from chassis.http.input import Email, Input, Instant
from chassis.http.paging import Page, PageRequest, Paging
from chassis.http.preconditions import ExpectedVersion, Versioned, changed
from chassis.http.reply import Problem, not_found
from chassis.identity.principal import Principal, may, public
from chassis.module import Module
from chassis.settings import Settings

__all__ = [
    "Email", "ExpectedVersion", "Idempotent", "Input", "Instant", "Module", "Page", "PageRequest", "Paging",
    "Principal", "Problem", "Settings", "Transaction", "UnitOfWork", "Versioned", "changed", "create_app",
    "may", "not_found", "public", "query",
]  # fmt: skip
