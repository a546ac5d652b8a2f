"""A recipe's sources are refused with file, line, field and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from schemas.errors import RecipeError
from schemas.recipe_file import parse_recipe
from transforms.sources.check import check_sources

HEAD = "name: r\nsources:\n"


ROW = '{"question": "x", "better": "a", "worse": "b", "people": ["a"]}\n'


def check(tmp_path: Path, *sources: str) -> None:
    (tmp_path / "good.jsonl").write_text("{}\n")
    for name in ("rows.jsonl", "more.jsonl"):
        (tmp_path / name).write_text(ROW * 3)
    (tmp_path / "rows.json").write_text(f"[{ROW}]")
    (tmp_path / "rows.csv").write_text("question,better,worse\nx,a,b\n")
    pl.DataFrame({"question": ["x"], "better": ["a"], "worse": ["b"]}).write_parquet(tmp_path / "rows.parquet")
    text = HEAD + "".join(f"  - {source}\n" for source in sources)
    check_sources(parse_recipe(text, tmp_path / "recipe.yaml"))


def test_good_sources_pass(tmp_path: Path) -> None:
    check(
        tmp_path,
        "{name: one, kind: prompts, path: good.jsonl}",
        "{name: two, kind: pairs, path: '*.jsonl', labels: {1: a, 2: b}}",
        "{name: three, kind: pairs, dataset: some/where}",
        "{name: four, kind: pairs, path: rows.csv, columns: {prompt: question, chosen: better, rejected: worse}}",
        "{name: five, kind: pairs, path: more.jsonl, votes: [{kind: human, labels: people}]}",
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{name: s, kind: pair, path: good.jsonl}", ["sources.1.kind", "did you mean 'pairs'"]),
        ("{name: s, path: good.jsonl}", ["sources.1.kind", "Known: prompts, pairs"]),
        ("{name: s, kind: pairs, pathh: good.jsonl}", ["sources.1.pathh", "did you mean 'path'"]),
        (
            "{name: s, kind: pairs, path: good.jsnl}",
            ["sources.1.path", "good.jsnl", "did you mean 'good.jsonl'?"],
        ),
        ("{name: s, kind: pairs, path: good.jsonl, limit: many}", ["sources.1.limit", "'many'"]),
        ("{name: s, kind: pairs, path: good.jsonl, columns: {promt: x}}", ["sources.1", "did you mean 'prompt'"]),
        *(
            (
                f"{{name: s, kind: pairs, path: rows.{suffix}, columns: {{prompt: questoin, chosen: better}}}}",
                ["sources.1.columns.prompt", f"rows.{suffix}", "did you mean 'question'"],
            )
            for suffix in ("jsonl", "json", "csv", "parquet")
        ),
        (
            "{name: s, kind: pairs, path: '*e.jsonl', votes: [{kind: human, labels: peoples}]}",
            ["sources.1.votes.0.labels", "more.jsonl", "did you mean 'people'"],
        ),
        (
            "{name: s, kind: pairs, path: rows.jsonl, votes: [{kind: judge, column: betterr}]}",
            ["sources.1.votes.0.column", "did you mean 'better'"],
        ),
        ("{name: first, kind: pairs, path: good.jsonl}", ["sources.1.name", "'first' is used twice"]),
    ],
)
def test_a_wrong_source_is_placed_and_explained(source: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        check(tmp_path, "{name: first, kind: prompts, path: good.jsonl}", source)
    assert error.value.exit_code == 2
    for word in [str(tmp_path / "recipe.yaml") + ":4:", *words]:
        assert word in str(error.value)
