"""An accuracy in place of a budget: the audit first, then the labels that are not certain enough, then nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from pipelines.inspect.versions import check
from tests.pipelines.conftest import Project
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

N, ACCURACY = 600, 0.9


def rows(rng: np.random.Generator) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Pairs with three judges, of whom two are right where the pair is easy; and by response the better ones."""
    made, better = [], {}
    for i in range(N):
        easy = rng.random() < 0.7
        good, bad = f"answer {i} that is right", f"answer {i} that is wrong"
        right = rng.random(3) < (0.97 if easy else 0.6)
        votes = [{"judge": f"judge {j}", "label": "a" if r else "b"} for j, r in enumerate(right)]
        made.append({"prompt": f"question {i}", "response_a": good, "response_b": bad, "votes": votes})
        better[good] = bad
    return made, better


def answers(project: Project, better: dict[str, str], rng: np.random.Generator) -> None:
    """Two people answer whatever is queued; each is wrong about one pair in 25, for good."""
    workspace = Workspace.open(str(project.folder / "w"))
    pairs = table_frame(workspace, "pairs").select("pair_id", "response_a").collect()
    first = {pair: response[0]["content"] in better for pair, response in pairs.iter_rows()}
    lines = []
    for pair, overlap in (
        table_frame(workspace, "queue").select("pair_id", "overlap").collect().sort("pair_id").iter_rows()
    ):
        for person in range(overlap):
            wrong = int(pair[:6], 16) % 25 == person
            label = "a" if first[pair] != wrong else "b"
            lines.append(
                {"pair_id": pair, "annotator": f"p{person}", "label": label, "updated_at": "2026-01-01T00:00:00Z"}
            )
    (project.folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_audit_then_what_is_not_certain_enough_then_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    made, better = rows(rng)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    (tmp_path / "answers.jsonl").touch()
    recipe = {
        "name": "accurate",
        "buckets": 2,
        "sources": [
            {
                "name": "pairs",
                "kind": "pairs",
                "path": "pairs.jsonl",
                "votes": [{"kind": "judge", "column": "votes"}],
            }
        ],
        "fuse": {"policy": {"plugin": "posterior", "doubtful": "flip"}},
        "route": {"queue": {"accuracy": ACCURACY, "control_share": 0}},
        "annotate": {"plugin": "files", "files": ["answers.jsonl"]},
        "materialise": {"splits": {"fractions": {"train": 1.0}}},
    }
    project = Project(tmp_path, "", recipe)

    def queue() -> pl.DataFrame:
        return table_frame(Workspace.open(str(tmp_path / "w")), "queue").collect().sort("pair_id")

    first = project.run("w")
    audit = queue()
    assert audit["purpose"].unique().to_list() == ["audit"]
    assert audit.height == 100
    assert any("random audit first (0 of" in note for note in first["notes"])

    answers(project, better, rng)
    second = project.run("w")
    asked = queue().filter(pl.col("overlap") > pl.col("held_out"))
    assert 0 < asked.height < N / 2
    assert any("at most" in note and "are wrong" in note for note in second["notes"])

    answers(project, better, rng)
    project.run("w")
    while queue().filter(pl.col("overlap") > pl.col("held_out")).height > asked.height:
        asked = queue().filter(pl.col("overlap") > pl.col("held_out"))
        answers(project, better, rng)
        project.run("w")
    assert project.run("w")["published"] is False
    published = table_frame(Workspace.open(str(tmp_path / "w")), "rows").collect()
    wrong = sum(row[0]["content"] not in better for row in published["chosen"])
    assert wrong <= (1 - ACCURACY) * published.height
    assert all(found.ok for found in check(str(tmp_path / "w"), "accurate", []))
    assert asked.height < N / 2
