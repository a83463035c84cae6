"""Routing: which handler answers, and that a request's cost does not depend on how many there are."""

from itertools import product
from typing import Any

import pytest

from chassis.http.routing import Routes


def routes_of(*paths: str) -> Routes[str]:
    routes: Routes[str] = Routes()
    for path in paths:
        routes.add(path, "GET", path)
    return routes


def found(routes: Routes[str], path: str) -> tuple[str, list[str]] | None:
    answer = routes.find(path)
    return (answer[0]["GET"], answer[1]) if answer else None


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("path", "template", "values"),
    [
        ("/", "/", []),
        ("/orders", "/orders", []),
        ("/orders/7", "/orders/{id}", ["7"]),
        ("/orders/new", "/orders/new", []),
        ("/orders/newer", "/orders/{id}", ["newer"]),
        ("/orders/7/items", "/orders/{id}/items", ["7"]),
        ("/orders/new/items", "/orders/{id}/items", ["new"]),
        ("/orders/new/items/3", "/orders/{order}/items/{item}", ["new", "3"]),
        ("/orders/new/notes", "/orders/new/notes", []),
        ("/orders/{id}", "/orders/{id}", ["{id}"]),
        ("/orders/ /items", "/orders/{id}/items", [" "]),
        ("/orders/a%b", "/orders/{id}", ["a%b"]),
    ],
)
def test_a_fixed_segment_goes_before_a_variable_one(
    path: str, template: str, values: list[str], *, backwards: bool
) -> None:
    templates = [
        "/", "/orders", "/orders/{id}", "/orders/new", "/orders/{id}/items", "/orders/{order}/items/{item}",
        "/orders/new/notes",
    ]  # fmt: skip
    assert found(routes_of(*(reversed(templates) if backwards else templates)), path) == (template, values)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/nothing",
        "/orders/",
        "//orders",
        "/orders//items",
        "/orders/7/",
        "/orders/7/items/",
        "/Orders",
        "/orders/7/9",
        "orders",
    ],
)
def test_what_is_not_there_is_not_found(path: str) -> None:
    assert found(routes_of("/orders", "/orders/{id}", "/orders/{id}/items"), path) is None


def test_one_path_may_have_several_methods_and_each_but_once() -> None:
    routes = routes_of("/orders/{id}")
    routes.add("/orders/{order_id}", "PATCH", "change")
    answer = routes.find("/orders/7")
    assert answer == ({"GET": "/orders/{id}", "PATCH": "change"}, ["7"])
    with pytest.raises(ValueError, match=r"GET /orders/\{other\} is declared twice"):
        routes.add("/orders/{other}", "GET", "again")


def test_a_path_without_methods_is_not_found() -> None:
    assert found(routes_of("/a/b/c"), "/a/b") is None


def visits(routes: Routes[str], path: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many nodes of the tree a search looks at."""
    count = 0
    walk = getattr(Routes, "_walk")  # noqa: B009  (what is counted is private)

    def counting(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return walk(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Routes, "_walk", counting)
        routes.find(path)
    return count


@pytest.mark.parametrize("path", ["/v1/module-1/thing-1", "/v1/module-1/thing-1/7", "/v1/module-1/nothing", "/v2"])
def test_many_routes_cost_what_few_do(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def routes_with(modules: int, things: int) -> Routes[str]:
        pairs = list(product(range(modules), range(things)))
        plain = [f"/v1/module-{module}/thing-{thing}" for module, thing in pairs]
        return routes_of(*plain, *(f"{path}/{{id}}" for path in plain), *(f"{path}/{{id}}/items" for path in plain))

    few = visits(routes_with(2, 2), path, monkeypatch)
    assert visits(routes_with(50, 20), path, monkeypatch) == few <= 6


@pytest.mark.parametrize("path", ["/" * 100_000, "/a" * 100_000, "/v1/orders" + "/x" * 100_000], ids=len)
def test_long_paths_cost_no_more_than_the_tree_is_deep(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = routes_of("/v1/orders/{id}/items/{item}", "/v1/orders/{id}", "/a/{a}/{b}/{c}", "/a/a/a/a")
    assert visits(routes, path, monkeypatch) <= 12


def test_the_worst_path_visits_each_node_once_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed and variable segments at every level, and a path that fits all but the last: no way is tried twice."""
    templates = ["/" + "/".join(segments) + "/end" for segments in product(("a", "{x}"), repeat=8)]
    routes = routes_of(*templates)
    assert visits(routes, "/a" * 8 + "/no-end", monkeypatch) <= 2**9 + 2**8
