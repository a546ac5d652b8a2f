"""docs/methods.md: every row names code and tests that are there, and plug-ins that recipes know."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from transforms.plugins.registry import BASES, distribution_of, names

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "methods.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| no.")
]
PLUGINS = {name for kind in BASES for name in names(kind)}


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_a_row_names_what_is_there(row: list[str]) -> None:
    number, system, capability, recipe, code, tests, how_far = row
    assert number.isdigit()
    assert all((system, capability, recipe, how_far))
    for cell, folder in ((code, "transforms/"), (tests, "tests/")):
        paths = re.findall(r"`([^`]+)`", cell)
        assert paths
        assert all(path.startswith(folder) and (ROOT / path).is_file() for path in paths), paths
    used = re.findall(r"plugin: (\w+)", recipe) + re.findall(r"export `([\w-]+)`", recipe)
    assert set(used) <= PLUGINS
    # The tests run the code: by its path in an import, or by the plug-in's name.
    text = "".join((ROOT / path).read_text() for path in re.findall(r"`([^`]+)`", tests))
    modules = [path.removesuffix(".py").replace("/", ".") for path in re.findall(r"`([^`]+)`", code)]
    assert any(module in text for module in modules) or any(re.search(rf'"{name}"', text) for name in used)


def test_there_is_a_row_for_every_method_that_works() -> None:
    assert len(ROWS) == 17
    assert len({row[0] for row in ROWS}) == len(ROWS)


def test_every_plugin_of_ours_is_named_in_a_document_or_a_recipe() -> None:
    """A method that nothing documents and no recipe uses is cut, or earns its place."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").glob("*.yaml")]
    text = "".join(page.read_text() for page in pages)
    ours = {name for kind in BASES for name in names(kind) if distribution_of(kind, name) is None}
    named = re.compile(r"`([^`\n]*)`|(?:plugin|format): ([\w-]+)")
    known = {word for match in named.finditer(text) for word in re.findall(r"[\w-]+", match[1] or match[2] or "")}
    assert ours <= known, sorted(ours - known)
