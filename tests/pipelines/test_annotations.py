"""Answers from a file change the dataset, and the difference says which human changed what."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from tests.pipelines.conftest import Project, Published
from transforms.storage.workspace import Workspace


def answers(rows: list[tuple[str, str, str]]) -> str:
    return "".join(
        json.dumps({"pair_id": pair, "annotator": who, "label": label, "updated_at": "2026-01-01T00:00:00Z"}) + "\n"
        for pair, who, label in rows
    )


def test_answers_become_votes_and_a_new_version_that_diff_explains(published: Published) -> None:
    project = published
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


def test_the_queue_asks_each_pair_once_and_within_the_budget(published: Published) -> None:
    queue = table_frame(Workspace.open(str(published.folder / "w")), "queue").sort("rank").collect()
    assert queue["pair_id"].is_unique().all()
    assert queue["rank"].to_list() == list(range(queue.height))
    assert 0 < queue["overlap"].sum() <= 10
    assert "audit" in queue["purpose"].to_list()


def test_answers_to_the_audit_certify_the_version_and_show_who_gave_them(project: Project) -> None:
    project.recipe["route"] = {"queue": {"budget": 40, "audit_share": 0.5, "audit_overlap": 2}}
    project.run("w")
    assert "nobody has answered" in project.prefine("annotations", "-w", "w")
    workspace = Workspace.open(str(project.folder / "w"))
    queue = table_frame(workspace, "queue").sort("rank").collect()
    rows = dict(table_frame(workspace, "rows").select("pair_id", "chosen_is").collect().iter_rows())
    given = [(pair, who, rows.get(pair, "a")) for pair in queue["pair_id"] for who in ("ann", "bob")]
    (project.folder / "answers.jsonl").write_text(answers(given))
    project.recipe["annotate"] = {"plugin": "files", "files": ["answers.jsonl"]}
    result = project.run("w")
    certificate = result["certificate"]
    shown = json.loads(project.prefine("show", "small", "-w", "w", "--json"))["estimates"]
    verdicts = table_frame(workspace, "verdicts").collect()
    assert shown["noise"] is None  # our answers are on pairs chosen for their doubt; the audit has its own estimate
    assert shown["unknown"]
    assert shown["calibrated_by"] == "people"
    assert shown["predicted"] == pytest.approx(shown["actual"])  # the sample is the whole workspace
    assert shown["audited_noise"]["population"] == verdicts["noise"].count()
    assert any("source labels are wrong is not known" in note for note in result["notes"])
    assert result["notes"][-1].endswith("known by people's labels")  # two audited pairs are too few
    held = queue.filter(pl.col("held_out") > 0)
    published = dict(table_frame(workspace, "rows").select("pair_id", "chosen_is").collect().iter_rows())
    audited = [pair for pair in held["pair_id"] if pair in published]
    assert (certificate["audited"], certificate["answers"]) == (len(audited), 2 * len(audited))
    agreeing = sum(rows.get(pair, "a") == published[pair] for pair in audited)
    assert certificate["agreement"] == pytest.approx(agreeing / len(audited))
    votes = table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect()
    assert not set(votes["pair_id"]) & set(held.filter(pl.col("overlap") == 2)["pair_id"])
    found = json.loads(project.prefine("annotations", "-w", "w", "--json"))
    assert (found["answers"], found["pairs"], found["agreement"]) == (len(given), queue.height, 1.0)
    assert found["alpha"]["alpha"] == 1.0
    assert [row["annotator"] for row in found["annotators"]] == ["ann", "bob"]
    assert found["outlook"]["labels"] == 100
    assert "Krippendorff" in project.prefine("annotations", "-w", "w")
    report = (workspace.local_path("datasets", "small", result["version"], "report.html")).read_text()
    assert "Agreement of every two people" in report
    assert "are expected to fix" in report
    assert project.run("w")["published"] is False


def test_known_answers_show_who_misses_them(project: Project) -> None:
    """Pairs of a source with the tag `control` are asked for their known answer, and each annotator is held to it."""
    known = [
        {"prompt": f"What is {i} plus {i}?", "chosen": f"It is {2 * i}.", "rejected": f"It is {2 * i + 1}, I think."}
        for i in range(12)
    ]
    (project.folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    project.recipe["sources"].append(
        {"name": "known", "kind": "pairs", "path": "known.jsonl", "constants": {"tags": ["control"]}}
    )
    project.recipe["route"] = {"queue": {"budget": 40, "audit_share": 0, "control_share": 0.5, "control_overlap": 2}}
    project.run("w")
    workspace = Workspace.open(str(project.folder / "w"))
    queue = table_frame(workspace, "queue").collect()
    controls = queue.filter(pl.col("purpose") == "control")
    assert controls.height == 10
    right = dict(controls.select("pair_id", "known_label").iter_rows())
    wrong = {"a": "b", "b": "a"}
    given = [(pair, "ann", label) for pair, label in right.items()]
    given += [(pair, "bob", wrong[label]) for pair, label in right.items()]
    (project.folder / "answers.jsonl").write_text(answers(given))
    project.recipe["annotate"] = {"plugin": "files", "files": ["answers.jsonl"]}
    project.run("w")
    assert table_frame(workspace, "annotations").collect()["control"].all()
    found = json.loads(project.prefine("annotations", "-w", "w", "--json"))
    assert [(a["controls_right"], a["controls"]) for a in found["annotators"]] == [(10, 10), (0, 10)]
    assert ("bob", "controls") in {(s["annotator"], s["kind"]) for s in found["suspicions"]}
