"""The loop with people in it: queue, tasks on a real Label Studio, answers, version 2, and why it differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.annotation import ledger
from pipelines.lookup import table_frame
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.pipelines.conftest import Project
from tests.transforms.annotate.replay import Person, answer, pandalm_pairs
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

N_PAIRS = 60


def recipe_of(data: Path, url: str) -> dict[str, Any]:
    return {
        "name": "people",
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
        "route": {"queue": {"budget": 40, "audit_share": 0.25, "audit_overlap": 1}},
        "annotate": {"plugin": "label_studio", "url": url, "token_env": "PREFINE_TEST_TOKEN"},
        "materialise": {"splits": {"fractions": {"train": 1.0}}},
    }


def test_answers_given_on_the_server_make_version_2(
    tmp_path: Path, label_studio: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFINE_TEST_TOKEN", LEGACY_TOKEN)
    project = Project(tmp_path, "", recipe_of(shared_data, label_studio.url))
    first = project.run("w")
    assert (first["version"], first["certificate"]) == ("v0001", None)
    workspace = Workspace.open(str(tmp_path / "w"))
    tasks = ledger(workspace)
    queue = table_frame(workspace, "queue").collect()
    assert set(tasks["pair_id"]) == set(queue["pair_id"])
    assert tasks["task_id"].null_count() == 0
    assert project.run("w")["published"] is False
    assert ledger(workspace).equals(tasks)

    _, humans = pandalm_pairs(shared_data, 10 * N_PAIRS)
    people = [Person(label_studio.url, *label_studio.add_user(f"loop{i}@example.com")) for i in range(2)]
    asked = dict(queue.select("pair_id", "overlap").iter_rows())
    given = 0
    for task in tasks.iter_rows(named=True):
        for who in range(min(asked[task["pair_id"]], len(people))):
            people[who].post(task["task_id"], answer(humans[task["pair_id"]][who], task["shown"]))
            given += 1
    for person in people:
        person.close()

    second = project.run("w")
    assert second["version"] == "v0002"
    annotations = table_frame(workspace, "annotations").collect()
    assert annotations.height == given
    said = {(row["pair_id"], row["label"]) for row in annotations.iter_rows(named=True)}
    assert all(label in humans[pair] for pair, label in said)
    assert second["certificate"] is not None
    assert 0 <= second["certificate"]["low"] <= second["certificate"]["high"] <= 1
    held = queue.filter(pl.col("held_out") > 0)
    votes = table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect()
    assert votes.height == given - held["held_out"].sum()
    changes = json.loads(project.prefine("diff", "people@1", "people@2", "-w", "w", "--json"))
    assert any("human:" in row["reason"] for row in changes["rows"])
    third = project.run("w")
    assert (third["version"], third["published"]) == ("v0002", False)
    assert ledger(workspace).drop("gone").equals(tasks.drop("gone"))
