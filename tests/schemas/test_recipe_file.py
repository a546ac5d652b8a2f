"""Whatever stands in a recipe file, it is a recipe or a RecipeError, soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError
from schemas.ids import hash_json
from schemas.recipe_file import MAX_CHARS, RecipeFile, parse_recipe
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HEAD = "name: r\nsources: [{name: s, kind: prompts, path: p.jsonl}]\n"
LEVELS = 30


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return HEAD + "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return HEAD + "\n".join(lines)


HOSTILE = {
    "aliases in aliases": (bomb(LEVELS), "aliases"),
    "merges of merges": (merges(LEVELS), "aliases"),
    "an alias in itself": (f"{HEAD}hygiene: &h {{duplicates: *h}}\n", "in itself"),
    "a list in itself": (f"{HEAD}engines: &h [*h]\n", "in itself"),
    "half a character": (f'{HEAD}hygiene: {{x: "a\\ud800b"}}\n', "surrogate"),
    "half a character in a name": (f'{HEAD}hygiene: {{"\\udfff": 1}}\n', "surrogate"),
    "a huge number": (f"{HEAD}seed: {10**40}\n", "64 bits"),
    "a number of thousands of digits": (f"{HEAD}seed: {'9' * 5000}\n", "YAML"),
    "bytes": (f"{HEAD}hygiene: {{x: !!binary gA==}}\n", "bytes"),
    "a set": (f"{HEAD}hygiene: {{x: !!set {{a, b}}}}\n", "set"),
    "a date that is none": (f"{HEAD}seed: 2001-99-99\n", "YAML"),
    "very long": (f"{HEAD}# {'x' * MAX_CHARS}\n", "characters"),
    "very deep": (f"{HEAD}hygiene: {'[' * 5000}{']' * 5000}\n", ""),
    "a python object": (f"{HEAD}seed: !!python/object/apply:os.system [ls]\n", "YAML"),
    "two documents": (f"{HEAD}---\n{HEAD}", "YAML"),
    "nothing": ("", "mapping"),
}


def outcome(text: str) -> RecipeFile | str:
    """The recipe, whose hash can be made, or the text of the error, which can be printed and says where."""
    found = parsed(text)
    if isinstance(found, str):
        assert found.startswith("recipe.yaml")
        assert found.encode()
    else:
        assert hash_json(found.recipe.model_dump(mode="json"))
    return found


def parsed(text: str) -> RecipeFile | str:
    try:
        return parse_recipe(text, Path("recipe.yaml"))
    except RecipeError as error:
        return str(error)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_recipe_is_refused_soon(name: str) -> None:
    text, words = HOSTILE[name]
    started = time.process_time()
    found = outcome(text)
    assert isinstance(found, str)
    assert words in found
    assert len(found) < 2000
    assert time.process_time() - started < 10


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.stem))
def test_the_recipes_that_come_along_are_recipes(path: Path) -> None:
    assert isinstance(outcome(path.read_text()), RecipeFile)


def test_aliases_are_fine_in_measure() -> None:
    text = f"{HEAD}hygiene: {{sanity: &s {{empty: true}}}}\nroute: {{queue: *s}}\n"
    found = outcome(text)
    assert isinstance(found, RecipeFile)
    assert found.recipe.route.queue == {"empty": True}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
names = st.sampled_from(["name", "seed", "sources", "engines", "judge", "plugin", "hygiene"]) | scalars
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@given(tree=st.dictionaries(names, trees, max_size=5))
def test_any_tree_is_a_recipe_or_an_error(tree: dict[object, object]) -> None:
    outcome(yaml.safe_dump(tree, allow_unicode=True))
    outcome(HEAD + yaml.safe_dump({"hygiene": tree}))


@given(text=st.text(st.sampled_from("abn:-[]{}&*!|>'\"\\ \n\t#%@?,<~1.\ud800é"), max_size=60))
def test_any_text_is_a_recipe_or_an_error(text: str) -> None:
    outcome(text)
    outcome(f"{HEAD}hygiene:\n  {text}")


@given(
    path=st.sampled_from(RECIPES),
    at=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 30),
    inserted=st.text(st.sampled_from("ab:-[]{}&*!|'\"\\ \n1.é"), max_size=8),
)
def test_a_damaged_recipe_is_a_recipe_or_an_error(path: Path, at: float, length: int, inserted: str) -> None:
    text = path.read_text()
    start = int(at * len(text))
    outcome(text[:start] + inserted + text[start + length :])
