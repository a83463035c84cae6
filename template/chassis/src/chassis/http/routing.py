"""Which handler answers: a tree of path segments, so that a request's cost does not grow with the routes."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Handler = TypeVar("Handler")


@dataclass(slots=True)
class _Node(Generic[Handler]):
    fixed: dict[str, "_Node[Handler]"] = field(default_factory=lambda: {})
    variable: "_Node[Handler] | None" = None
    methods: dict[str, Handler] = field(default_factory=lambda: {})


class Routes(Generic[Handler]):
    """Paths such as `/orders/{id}`; a fixed segment goes before a variable one, whatever the order of adding."""

    def __init__(self) -> None:
        self._root: _Node[Handler] = _Node()
        self._fixed: dict[str, dict[str, Handler]] = {}

    def add(self, path: str, method: str, handler: Handler) -> None:
        """Raise ValueError when the method of that path is taken."""
        node = self._root
        for segment in path[1:].split("/"):
            if segment.startswith("{"):
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.fixed.setdefault(segment, _Node())
        if method in node.methods:
            raise ValueError(f"{method} {path} is declared twice")
        node.methods[method] = handler
        if "{" not in path:
            self._fixed[path] = node.methods

    def find(self, path: str) -> tuple[dict[str, Handler], list[str]] | None:
        """The handlers of `path` by method, and the values of its variable segments in order."""
        if (methods := self._fixed.get(path)) is not None:
            return methods, []
        segments = path[1:].split("/")
        values: list[str] = []
        node = self._walk(self._root, segments, 0, values)
        return (node.methods, values) if node else None

    def _walk(
        self, node: _Node[Handler], segments: list[str], position: int, values: list[str]
    ) -> _Node[Handler] | None:
        if position == len(segments):
            return node if node.methods else None
        segment = segments[position]
        fixed = node.fixed.get(segment)
        if fixed and (found := self._walk(fixed, segments, position + 1, values)):
            return found
        if node.variable and segment:
            values.append(segment)
            if found := self._walk(node.variable, segments, position + 1, values):
                return found
            values.pop()
        return None
