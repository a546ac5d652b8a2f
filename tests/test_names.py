"""Names are the field's: the words of this list tell a reader nothing, so no name may hold one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOME = Path(__file__).resolve().parent.parent
_ROOMS = ("schemas", "transforms", "pipelines", "prefine", "airflow_dags")
_RIDDLES = (
    "said",
    "found",
    "heard",
    "torn",
    "made_up",
    "hope",
    "beside",
    "ready",
    "collect",
    "collected",
    "upkeep",
    "lookup",
    "accounts",
    "fitted",
)


def riddle_in(name: str) -> str | None:
    """The word of the list that a name, or a part of it between underscores or capitals, is."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
    return next((word for word in _RIDDLES if f"_{word}_" in f"_{snake}_"), None)


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Functions, classes, methods, parameters and attributes, with their lines; local variables are free."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        if isinstance(node, ast.Module | ast.ClassDef):
            for name in _assigned(node):
                yield name.lineno, name.id


def _assigned(scope: ast.Module | ast.ClassDef) -> Iterator[ast.Name]:
    """The fields of a class, the constants of a module."""
    for statement in scope.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            yield from (n for n in ast.walk(target or ast.Pass()) if isinstance(n, ast.Name))


@pytest.mark.parametrize("room", _ROOMS)
def test_no_name_is_a_riddle(room: str) -> None:
    faults = []
    for path in sorted((_HOME / room).rglob("*.py")):
        where = path.relative_to(_HOME)
        faults += [f"{where}: module {part}" for part in where.with_suffix("").parts if riddle_in(part)]
        faults += [f"{where}:{line}: {name}" for line, name in names_in(ast.parse(path.read_text())) if riddle_in(name)]
    assert not faults, "\n".join(faults)


def test_a_riddle_is_seen_inside_a_name() -> None:
    assert riddle_in("_said") == "said"
    assert riddle_in("is_fitted") == "fitted"
    assert riddle_in("LookupTable") == "lookup"
    assert riddle_in("foundation") is None
