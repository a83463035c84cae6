"""What a workflow must have before it may hold this repository's token: pinned actions and stated permissions."""

import re
from collections.abc import Iterator
from typing import Final

import yaml
from syntax import yaml_documents
from tree import Problem, Tree

_PINNED: Final = re.compile(r"[.$]/.*|docker://.+@sha256:[0-9a-f]{64}|[^@]+@[0-9a-f]{40}")


def workflow(tree: Tree, path: str) -> Iterator[Problem]:
    """Check a workflow, or an action of this repository, that parses as YAML."""
    is_workflow = path.startswith(".github/workflows/")
    if not path.endswith((".yml", ".yaml")) or not (is_workflow or path.startswith(".github/actions/")):
        return
    try:
        documents = list(yaml_documents(tree.texts.get(path, "")))
    except (yaml.YAMLError, ValueError):  # said already
        return
    for document in documents:
        for uses in _values_of("uses", document):
            if not _PINNED.fullmatch(str(uses.value)):
                line = uses.start_mark.line + 1
                yield Problem(
                    path, line, f"uses {uses.value}, which is not pinned by a 40-digit commit (or image digest)"
                )
        if is_workflow:
            yield from _permissions(path, document)


def _permissions(path: str, document: yaml.Node) -> Iterator[Problem]:
    top = _mapping(document)
    if "permissions" in top:
        return
    for name, job in _mapping(top.get("jobs")).items():
        if "permissions" not in _mapping(job):
            yield Problem(
                path, job.start_mark.line, f"declares no permissions, neither at its top nor in the job {name}"
            )


def _mapping(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {str(key.value): value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _values_of(key: str, node: yaml.Node) -> Iterator[yaml.Node]:
    """Every value of the key at any depth: `uses` of steps, of jobs that call a workflow, of composite actions."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _values_of(key, item)
    for name, value in _mapping(node).items():
        if name == key and isinstance(value, yaml.ScalarNode):
            yield value
        yield from _values_of(key, value)
