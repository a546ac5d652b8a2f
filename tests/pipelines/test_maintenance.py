"""What a scheduler calls besides the stages: labels, compact, audit, export --keep, and a budget of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.labels import counted
from pipelines.inspect.tables import table_frame
from schemas.tables import Annotations, Queue, polars_schema
from tests.pipelines.conftest import Project, Published, version_bytes
from transforms.storage.workspace import Workspace


def call(project: Project, *words: str, expect: int = 0) -> Any:
    return json.loads(project.prefine(*words, "-w", "w", "--json", expect=expect).splitlines()[-1])


def journals(workspace: Path) -> list[Path]:
    return list((workspace / "tables" / "generations").rglob("journal-*.jsonl"))


def frame(schema: Any, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=polars_schema(schema))


def test_answers_count_once_a_person_and_no_further_than_asked() -> None:
    tasks = frame(Queue, [{"pair_id": pair, "overlap": n} for pair, n in (("p", 2), ("q", 1), ("r", 1))])
    said = [("p", "x", False), ("p", "x", False), ("q", "x", False), ("q", "y", False), ("r", "x", True)]
    rows = [{"pair_id": p, "annotator": a, "cancelled": c} for p, a, c in [*said, ("elsewhere", "x", False)]]
    status = counted(tasks, frame(Annotations, rows), 3)
    assert (status.wanted, status.answered, status.pairs, status.pairs_answered, status.rejected) == (4, 2, 3, 1, 3)
    none = counted(tasks.clear(), frame(Annotations, rows), 0)
    assert (none.wanted, none.answered, none.pairs) == (0, 0, 0)


@pytest.mark.slow
def test_the_stages_one_by_one_with_labels_from_a_file(project: Project) -> None:
    recipe = str(project.recipe_path)
    for stage in ("ingest", "generate", "clean", "judge", "score", "fuse"):
        call(project, "stage", stage, recipe)
    routed = call(project, "stage", "route", recipe, "--budget", "4")
    workspace = Workspace.open(str(project.folder / "w"))
    queue = table_frame(workspace, "queue").collect()
    assert routed["stages"][0]["counts"]["answers"] == queue["overlap"].sum() <= 4
    wanted = call(project, "labels", recipe)
    assert (wanted["wanted"], wanted["answered"]) == (queue["overlap"].sum(), 0)
    lines = [
        {"pair_id": pair, "annotator": f"h{i}", "label": "a", "updated_at": "2026-01-01T00:00:00Z"}
        for pair, n in queue.select("pair_id", "overlap").iter_rows()
        for i in range(n)
    ]
    (project.folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    project.recipe["annotate"] = {"plugin": "files", "files": ["answers.jsonl"]}
    recipe = str(project.recipe_path)
    status = call(project, "labels", recipe)
    assert status["answered"] == status["wanted"] == len(lines)
    assert table_frame(workspace, "annotations").collect().is_empty()
    pulled, *_, published = (
        call(project, "stage", stage, recipe) for stage in ("pull", "score", "fuse", "materialise")
    )
    assert pulled["stages"][0]["rows_out"] == len(lines)
    assert (published["version"], published["published"]) == ("v0001", True)


def test_compacting_changes_no_answer_and_costs_no_call(project: Project) -> None:
    project.run("w")
    workspace = project.folder / "w"
    calls, before, files = project.calls(), journals(workspace), version_bytes(workspace)
    assert before
    known = call(project, "compact")
    assert known["generations"] == calls
    assert journals(workspace) == []
    assert call(project, "compact") == known
    for checkpoint in (workspace / "stages" / "judge").glob("bucket=*.json"):
        checkpoint.unlink()
    assert project.run("w")["published"] is False
    assert project.calls() == calls
    assert version_bytes(workspace) == files


def test_an_export_appears_whole_and_is_left_as_it_is(published: Published) -> None:
    project = published
    words = ("export", "small@1", "--format", "jsonl", "--out", "out/first")
    assert sum(call(project, *words, "--keep")["rows"].values()) > 0
    written = {p.name: p.stat().st_mtime_ns for p in (project.folder / "out" / "first").iterdir()}
    assert call(project, *words, "--keep")["kept"] is True
    assert {p.name: p.stat().st_mtime_ns for p in (project.folder / "out" / "first").iterdir()} == written
    assert [p.name for p in (project.folder / "out").iterdir()] == ["first"]
    assert "not empty" in project.prefine(*words, "-w", "w", expect=1)


def test_an_audit_without_answers_says_so_and_pruning_names_what_goes(published: Published) -> None:
    found = call(published, "audit", "small")
    assert found == {"version": "small@v0001", "published": None, "now": None, "worse": False}
    assert call(published, "prune", "small", "--keep", "1")["removed"] == []
