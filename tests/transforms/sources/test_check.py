"""A recipe's sources are refused with file, line, field and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import RecipeError
from schemas.recipe_file import parse_recipe
from transforms.sources.check import check_sources

HEAD = "name: r\nsources:\n"


def check(tmp_path: Path, *sources: str) -> None:
    (tmp_path / "good.jsonl").write_text("{}\n")
    text = HEAD + "".join(f"  - {source}\n" for source in sources)
    check_sources(parse_recipe(text, tmp_path / "recipe.yaml"))


def test_good_sources_pass(tmp_path: Path) -> None:
    check(
        tmp_path,
        "{name: one, kind: prompts, path: good.jsonl}",
        "{name: two, kind: pairs, path: '*.jsonl', labels: {1: a, 2: b}}",
        "{name: three, kind: pairs, dataset: some/where}",
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{name: s, kind: pair, path: good.jsonl}", ["sources.1.kind", "did you mean 'pairs'"]),
        ("{name: s, path: good.jsonl}", ["sources.1.kind", "Known: prompts, pairs"]),
        ("{name: s, kind: pairs, pathh: good.jsonl}", ["sources.1.pathh", "did you mean 'path'"]),
        (
            "{name: s, kind: pairs, path: good.jsnl}",
            ["sources.1.path", "good.jsnl", "nearest name there: 'good.jsonl'"],
        ),
        ("{name: s, kind: pairs, path: good.jsonl, limit: many}", ["sources.1.limit", "'many'"]),
        ("{name: s, kind: pairs, path: good.jsonl, columns: {promt: x}}", ["sources.1", "did you mean 'prompt'"]),
        ("{name: first, kind: pairs, path: good.jsonl}", ["sources.1.name", "'first' is used twice"]),
    ],
)
def test_a_wrong_source_is_placed_and_explained(source: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        check(tmp_path, "{name: first, kind: prompts, path: good.jsonl}", source)
    assert error.value.exit_code == 2
    for word in [str(tmp_path / "recipe.yaml") + ":4:", *words]:
        assert word in str(error.value)
