"""A dataset of 100,000 real preferences, from the files of its people to the libraries that read its exports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.inspect.explain import explain_pair
from pipelines.inspect.versions import check, compare
from pipelines.publish.export import export_version
from pipelines.runtime.run import RunResult, run_recipe
from tests.pipelines.annotator_pairs import annotator_pairs
from transforms.plugins.registry import names
from transforms.publish.read import Version, open_version

pytestmark = pytest.mark.slow

FIRST = 104_000  # judgements of the first version; the successor has all
RECIPE: dict[str, Any] = {
    "name": "people",
    "seed": 7,
    "sources": [
        {
            "name": "people",
            "kind": "pairs",
            "path": "judgements",
            "constants": {"context_kind": "persona"},
            "votes": [{"kind": "human", "labels": "human_labels", "voters": "human_annotators"}],
        }
    ],
    "fuse": {"fit_pairs": 20_000, "policy": {"plugin": "posterior", "doubtful": "soften"}},
    "materialise": {"splits": {"fractions": {"train": 0.8, "validation": 0.1, "test": 0.1}, "stratify": []}},
}


class Published:
    """A workspace with two versions, and what its runs said."""

    def __init__(self, folder: Path, judgements: pl.DataFrame) -> None:
        self.folder, self.root = folder, str(folder / "w")
        (folder / "judgements").mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        judgements.head(FIRST).write_parquet(folder / "judgements" / "0.parquet")
        self.first = self._run()
        judgements.slice(FIRST).write_parquet(folder / "judgements" / "1.parquet")
        self.second = self._run()

    def _run(self) -> RunResult:
        return run_recipe(self.folder / "recipe.yaml", self.root, None, None, (), quiet=True)

    def version(self, number: int) -> Version:
        return open_version(f"{self.root}/datasets", f"people@{number}")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Published:
    return Published(tmp_path_factory.mktemp("people"), annotator_pairs(shared_data))


def test_it_publishes_every_pair_or_says_why_not(published: Published) -> None:
    assert (published.first.version, published.second.version) == ("v0001", "v0002")
    manifest = published.version(1).manifest
    assert manifest.n_pairs >= 100_000
    ingest, materialise = (
        next(s for s in published.first.stages if s.stage == name) for name in ("ingest", "materialise")
    )
    assert ingest.rows_in == FIRST
    assert ingest.rows_in == manifest.n_rows + manifest.n_rejects
    assert materialise.rows_in == manifest.n_pairs == materialise.rows_out + sum(materialise.rejects.values())


@pytest.mark.parametrize("number", [1, 2])
def test_it_verifies(published: Published, number: int) -> None:
    checks = check(published.root, f"people@{number}", [])
    assert [c for c in checks if not c.ok] == []
    assert ("stability" in {c.name for c in checks}) == (number == 2)


def test_the_diff_names_every_row_that_came_and_no_split_moved(published: Published) -> None:
    found = compare(published.root, "people@1", "people@2", "kind")
    old, new = (set(published.version(n).scan("rows").select("pair_id").collect().to_series()) for n in (1, 2))
    changed = dict(found.changes.group_by("change").agg("pair_id").iter_rows())
    assert set(changed["added"]) == new - old
    assert set(changed.get("removed", [])) == old - new
    assert "split" not in changed
    assert found.unchanged + found.changes.height == len(old | new)
    assert found.changes["reason"].null_count() == 0


def test_labels_are_explained_from_the_version_alone(published: Published) -> None:
    version = published.version(2)
    for pair_id in version.scan("rows").select(pl.col("pair_id").sort().head(5)).collect().to_series():
        explanation = explain_pair(published.root, pair_id, "people@2")
        assert explanation.agrees
        assert explanation.votes


def decided_responses(rows: pl.LazyFrame) -> dict[str, int]:
    """Per split: responses that won more weight than they lost, or lost more."""
    won: dict[tuple[str, str, str, str], float] = {}
    columns = ("split", "prompt_id", "context", "weight", "chosen", "rejected")
    for split, prompt, context, weight, *sides in rows.select(columns).collect().iter_rows():
        for side, sign in zip(sides, (1, -1), strict=True):
            key = (split, prompt, context, side[0]["content"])
            won[key] = won.get(key, 0.0) + sign * weight
    return dict(Counter(split for (split, *_), total in won.items() if total != 0))


@pytest.mark.parametrize("form", names("exporters"))
def test_every_export_loads(published: Published, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = published.folder / form
    exported = export_version(published.root, "people@2", form, out, {})
    counts = exported.rows
    loaded = datasets.load_dataset(str(out), cache_dir=str(published.folder / "cache"))
    assert {name: len(table) for name, table in loaded.items()} == {name: n for name, n in counts.items() if n}
    everything = published.version(2).manifest.rows_by_split
    certain = published.version(2).scan("rows").filter(pl.col("action") != "soften")
    assert 0 < certain.select(pl.len()).collect().item() < sum(everything.values())
    if form in ("jsonl", "datasets"):
        assert counts == everything
    elif form == "trl-kto":
        assert counts == decided_responses(certain)
    elif form == "trl-reward":
        assert counts == everything
        assert "margin" in loaded["train"].column_names
    elif form != "ranked":
        assert sum(counts.values()) == certain.select(pl.len()).collect().item()
        left = sum(everything.values()) - sum(counts.values())
        assert any(
            note.startswith(f"{left:,} of {sum(everything.values()):,} rows left out") for note in exported.notes
        )
    row = loaded["train"][0]
    if {"chosen", "rejected"} <= set(row):
        assert row["chosen"] != row["rejected"]
