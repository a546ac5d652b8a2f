"""A name that begins with an underscore is its folder's own: nothing outside that folder imports it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.conftest import ROOT

ROOMS = ("schemas", "transforms", "pipelines", "prefine")


def files() -> list[str]:
    folders = (*ROOMS, "airflow_dags", "tests")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def private_imports(path: Path) -> Iterator[str]:
    """The private modules and names of the product that a file imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ROOMS and any(part.startswith("_") for part in name.split(".")):
                yield name


def may_import(importer: str, name: str) -> bool:
    """Whether a file may import a private name: a file of the folder that owns it, or a test of that folder."""
    parts = name.split(".")
    owner = PurePosixPath(*parts[: next(i for i, part in enumerate(parts) if part.startswith("_"))])
    if (ROOT / owner).with_suffix(".py").is_file():  # a private name of a module is the module's folder's
        owner = owner.parent
    return PurePosixPath(importer.removeprefix("tests/")).parent == owner


@pytest.mark.parametrize("room", [*ROOMS, "airflow_dags", "tests"])
def test_no_file_imports_what_is_private_to_another_folder(room: str) -> None:
    wrong = [
        f"{path} imports {name}"
        for path in files()
        if path.startswith(f"{room}/")
        for name in private_imports(ROOT / path)
        if not may_import(path, name)
    ]
    assert wrong == []


def test_the_rule_tells_them_apart() -> None:
    assert may_import("transforms/judges/base.py", "transforms.judges._length.fit")
    assert not may_import("transforms/judges/panel/sequential.py", "transforms.judges._length.fit")
    assert may_import("transforms/llm/client.py", "transforms.llm.wire._Reader")
    assert may_import("tests/transforms/judges/test_panel.py", "transforms.judges._length.fit")
    assert not may_import("transforms/scorers/bleu.py", "transforms.judges._length.fit")
    assert not may_import("tests/transforms/scorers/test_rules.py", "transforms.judges._length.fit")
    assert not may_import("tests/conftest.py", "transforms.judges._length.fit")
