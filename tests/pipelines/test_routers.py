"""Routers that learn, in whole runs: asked, answered by real humans, asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.annotations import outlook
from pipelines.inspect.tables import table_frame
from pipelines.runtime.stage import CURRENT
from tests.pipelines.conftest import Project
from tests.transforms.annotate.replay import pandalm_pairs
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

N_PAIRS = 240


def recipe_of(data: Path, router: str, budget: int) -> dict[str, Any]:
    return {
        "name": "asking",
        "buckets": 2,
        "sources": [
            {
                "name": "pandalm",
                "kind": "pairs",
                "path": str(data / "pandalm_test.parquet"),
                "columns": {"label": None, "context": None},
                "votes": [{"kind": "judge", "column": "judge_labels"}],
                "limit": N_PAIRS,
            }
        ],
        "route": {"router": {"plugin": router}, "queue": {"budget": budget, "audit_share": 0, "control_share": 0}},
        "annotate": {"plugin": "files", "files": ["answers.jsonl"]},
        "materialise": {"splits": {"fractions": {"train": 1.0}}},
    }


@pytest.mark.parametrize("router", ["learned", "bandit"])
def test_a_router_learns_from_the_answers_of_the_run_before(tmp_path: Path, shared_data: Path, router: str) -> None:
    project = Project(tmp_path, "", recipe_of(shared_data, router, 80))
    (tmp_path / "answers.jsonl").touch()
    project.run("w")
    workspace = Workspace.open(str(tmp_path / "w"))
    first = table_frame(workspace, "queue").sort("rank").collect()
    assert first["overlap"].sum() == 80
    assert model_of(workspace) == {}
    _, humans = pandalm_pairs(shared_data, N_PAIRS)
    answers = [
        {"pair_id": p, "annotator": f"human{i}", "label": label, "updated_at": "2026-01-01T00:00:00Z"}
        for p in first["pair_id"]
        for i, label in enumerate(humans[p])
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))

    project.recipe = recipe_of(shared_data, router, 120)
    result = project.run("w")
    model = model_of(workspace)
    second = table_frame(workspace, "queue").sort("rank").collect()
    assert set(first["pair_id"]) <= set(second["pair_id"])
    assert second["overlap"].sum() == 120
    news = second.join(first, on="pair_id", how="anti")
    assert news["value"].is_finite().all()
    if router == "learned":
        assert {"similarity", "length_difference"} <= set(model["numbers"])
        assert (model["answered"], 0 < model["flipped"] < 80) == (80, True)
        assert news["value"].is_between(0, 1).all()
    else:
        assert sum(n for n, _ in model["arms"].values()) == 80
        turned = sum(k for _, k in model["arms"].values())
        best = max((k + 1) / (n + 2) for n, k in model["arms"].values())
        assert model["regret"] == pytest.approx(max(0.0, best * 80 - turned))
        assert (outlook(workspace) or {})["regret"] == pytest.approx(model["regret"])
        assert any("regret" in note for note in result["notes"])
        assert "regret" in project.prefine("annotations", "-w", "w").lower()
    assert project.run("w")["published"] is False
    assert table_frame(workspace, "queue").sort("rank").collect().equals(second)
    assert news.select((pl.col("overlap") == 1).all()).item()


def model_of(workspace: Workspace) -> dict[str, Any]:
    """What the router has learned."""
    current = (workspace.read_artefact("route", CURRENT) or b"").decode()
    model: dict[str, Any] = json.loads(workspace.read_artefact("route", f"{current}/router") or b"{}")
    return model
