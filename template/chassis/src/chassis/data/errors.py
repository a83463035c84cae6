"""What a client is told when the database fails: what it may do about it, and nothing of the inside."""

import asyncpg

from chassis.http.problems import Problem, deadline_exceeded, unavailable

CONTENDED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
GONE = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
)


def problem_of(error: Exception) -> Problem | None:
    """The problem for a failure of the database; None when the error is something else, such as our own mistake."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return deadline_exceeded()
    if isinstance(error, CONTENDED):
        return Problem(
            409,
            "contended",
            "Another request is changing the same thing. Try again shortly.",
            headers=((b"retry-after", b"1"),),
        )
    if isinstance(error, GONE) and not _our_mistake(error):
        return database_unavailable()
    return None


def _our_mistake(error: Exception) -> bool:
    """Whether an InterfaceError is not about the connection: a wrong argument, or two queries at once on one."""
    return isinstance(error, ValueError) or "another operation" in str(error)


def database_unavailable() -> Problem:
    """The 503 while PostgreSQL is down, starting or full."""
    return unavailable("database_unavailable", "The database cannot be reached. Try again shortly.")
