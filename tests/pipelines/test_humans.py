"""Answers from a file change the dataset, and the difference says which human changed what."""

from __future__ import annotations

import json

import polars as pl

from pipelines.lookup import table_frame
from tests.pipelines.conftest import Project
from transforms.storage.workspace import Workspace


def answers(rows: list[tuple[str, str, str]]) -> str:
    return "".join(
        json.dumps({"pair_id": pair, "annotator": who, "label": label, "updated_at": "2026-01-01T00:00:00Z"}) + "\n"
        for pair, who, label in rows
    )


def test_answers_become_votes_and_a_new_version_that_diff_explains(project: Project) -> None:
    project.run("w")
    workspace = Workspace.open(str(project.folder / "w"))
    rows = table_frame(workspace, "rows").sort("pair_id").collect()
    turned = {r["pair_id"]: "b" if r["chosen_is"] == "a" else "a" for r in rows.head(5).to_dicts()}
    given = [(pair, f"human{i}", label) for pair, label in turned.items() for i in range(4)]
    text = answers([*given, ("f" * 32, "human0", "a")]) + "not json\n"
    (project.folder / "answers.jsonl").write_text(text)
    project.recipe["annotate"] = {"plugin": "files", "files": ["answers.jsonl"]}
    result = project.run("w")
    assert result["version"] == "v0002"
    pull = next(stage for stage in result["stages"] if stage["stage"] == "pull")
    assert (pull["rows_out"], sum(pull["rejects"].values())) == (len(given), 2)
    human = table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect()
    assert human.height == len(given)
    found = json.loads(project.prefine("diff", "small@1", "small@2", "-w", "w", "--json"))
    reasons = {row["pair_id"]: row["reason"] for row in found["rows"]}
    touched = [pair for pair in turned if pair in reasons]
    assert touched
    assert all("human" in reasons[pair] for pair in touched)
    assert json.loads(project.prefine("verify", "small@2", "-w", "w", "--json"))
    again = project.run("w")
    assert (again["version"], again["published"]) == ("v0002", False)
    (project.folder / "answers.jsonl").write_text("")
    assert project.run("w")["published"]
    assert table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect().is_empty()


def test_the_queue_asks_each_pair_once_and_within_the_budget(project: Project) -> None:
    project.run("w")
    queue = table_frame(Workspace.open(str(project.folder / "w")), "queue").sort("rank").collect()
    assert queue["pair_id"].is_unique().all()
    assert queue["rank"].to_list() == list(range(queue.height))
    assert 0 < queue["overlap"].sum() <= 10
    assert "audit" in queue["purpose"].to_list()
