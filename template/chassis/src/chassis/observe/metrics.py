"""Metrics in Prometheus' text format, on the private port alone.

Every label has a bounded set of values: route templates, not paths; names of queries, not SQL.
"""

from collections.abc import Callable
from functools import cache
from http import HTTPMethod

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset(HTTPMethod)

_requests = Histogram(
    "http_request_duration_seconds",
    "Time from the first header to the last byte of the answer.",
    ("method", "route", "status"),
    buckets=_SECONDS,
)
_queries = Histogram(
    "db_query_duration_seconds", "Time of a named query, the network included.", ("query",), buckets=_SECONDS
)
requests_in_flight = Gauge("http_requests_in_flight", "Requests that are being answered.")
pool_size = Gauge("db_pool_size", "Connections that the pool may open.")
pool_in_use = Gauge("db_pool_in_use", "Connections that are in use.")
pool_wait = Histogram("db_pool_wait_seconds", "Time that requests waited for a connection.", buckets=_SECONDS)
refused_by_limit = Counter("rate_limited_requests", "Requests that a limit refused.", ("rule",))
loop_lag = Gauge("event_loop_lag_seconds", "How much later than asked the event loop ran its last check.")
ready = Gauge("service_ready", "1 if /readyz welcomed traffic when these metrics were asked for, 0 if not.")
draining = Gauge("service_draining", "1 while the process finishes its work before it exits.")
build = Gauge("service_info", "Always 1; its labels say what runs.", ("service", "version", "revision"))


@cache
def _request_timer(method: str, route: str, status: int) -> Callable[[float], None]:
    return _requests.labels(method, route, str(status)).observe


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request. `route` is a template of the service's own; any other method counts as `other`."""
    _request_timer(method if method in _METHODS else "other", route, status)(seconds)


def query_timer(name: str) -> Callable[[float], None]:
    """What takes the seconds of each run of the query `name`."""
    return _queries.labels(name).observe
