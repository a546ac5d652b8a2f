"""Recipes as they come: ingest, score, fuse, route, publish, verify, export."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.inspect.tables import table_frame
from pipelines.inspect.versions import check
from pipelines.publish.export import export_version
from pipelines.runtime.run import run_recipe
from tests.conftest import ROOT
from transforms.storage.workspace import Workspace

LIMIT = 240


def test_every_recipe_of_the_repository_has_a_test() -> None:
    """`demo.yaml` has its own, `test_demo.py`."""
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} == {"demo", "pairs"}


def test_labelled_pairs_become_a_dataset(tmp_path: Path) -> None:
    result = run_recipe(ROOT / "recipes" / "pairs.yaml", str(tmp_path / "w"), None, None, (), quiet=True)
    assert result.published
    assert {(s.stage, reason) for s in result.stages for reason in s.rejects} <= {("materialise", "doubtful")}
    counts = {stage.stage: stage.counts for stage in result.stages}
    assert counts["ingest"]["pairs"] == 60
    assert counts["score"]["votes"] == 3 * 60
    verdicts = table_frame(Workspace.open(str(tmp_path / "w")), "verdicts").collect()
    assert verdicts["n_votes"].min() > 3  # the rules, the model, and the people who saw the pair
    assert all(found.ok for found in check(str(tmp_path / "w"), str(result.dataset), []))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pandalm", "hh_harmless", "llmbar", "ukpconvarg"])
def test_real_preferences_become_a_dataset(name: str, tmp_path: Path, shared_data: Path) -> None:
    text = (ROOT / "tests" / "recipes" / f"{name}.yaml").read_text()
    assert "../../../shared/data/" in text
    (tmp_path / "recipe.yaml").write_text(text.replace("../../../shared/data", str(shared_data)))
    result = run_recipe(tmp_path / "recipe.yaml", str(tmp_path / "w"), None, LIMIT, (), quiet=True)
    assert result.published
    for stage in result.stages:
        assert stage.rows_in == stage.rows_out + sum(stage.rejects.values()), stage
    counts = {stage.stage: stage.counts for stage in result.stages}
    assert counts["score"]["votes"] >= counts["ingest"]["pairs"]
    assert counts["route"]["queued"] > 0
    assert not any(usage for stage in result.stages for usage in stage.usage.values())
    verdicts = table_frame(Workspace.open(str(tmp_path / "w")), "verdicts").collect()
    assert verdicts["p_a"].is_between(0, 1).all()
    assert verdicts["n_votes"].min() > 0
    assert all(found.ok for found in check(str(tmp_path / "w"), str(result.dataset), []))
    for form in ("trl-dpo", "trl-reward", "jsonl"):
        rows = export_version(str(tmp_path / "w"), str(result.dataset), form, tmp_path / form, {}).rows
        assert sum(rows.values()) > 0
        assert list((tmp_path / form).iterdir())
