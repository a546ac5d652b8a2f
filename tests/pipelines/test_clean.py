"""Hygiene of pairs over a workspace: what is dropped has its like among what stays, and every row is accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import pipelines.runtime.hygiene
from pipelines.runtime.hygiene import Hygiene
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.stage import Run, Stage
from pipelines.runtime.summary import Summary
from pipelines.stages.clean import CLEAN
from pipelines.stages.ingest import INGEST
from pipelines.stages.screen import SCREEN
from schemas.messages import message
from schemas.pairs import make_pair
from schemas.recipe import Recipe
from schemas.tables import Pairs, rows_frame
from transforms.storage.workspace import Output, Workspace

LONG = (
    "The moon pulls the sea towards itself, and since the earth turns below it every harbour meets the two bulges of "
    "water once each on nearly every day of the year, which sailors have written down in tables for centuries"
)
OTHER = "Wind makes them, which is what the keeper of our lighthouse has always said to anyone who cared to ask him."
MAIL = "ask {}@example.org"


def ingested(folder: Path, rows: list[dict[str, Any]], hygiene: dict[str, Any], **more: Any) -> Run:
    kind = "prompts" if set(rows[0]) == {"prompt"} else "pairs"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "rows", "kind": kind, "path": "rows.jsonl"}
    recipe = Recipe.model_validate({"name": "c", "buckets": 3, "sources": [source], "hygiene": hygiene, **more})
    workspace = Workspace.create(str(folder / "w"), 3)
    run = Run(workspace, recipe, folder)
    run_stage(INGEST, run, quiet=True)
    return run


def outcome(stage: Stage[Hygiene], run: Run) -> tuple[pl.DataFrame, pl.DataFrame, Summary]:
    """Rows that stay, rejects, and the sums, after checking conservation against what is really there."""
    summary, workspace, kind = run_stage(stage, run, quiet=True).summary, run.workspace, stage.setup(run).kind
    kept = pl.concat([workspace.read(kind.table, b, (stage.name,)) for b in workspace.buckets])
    gone = pl.concat([workspace.read("rejects", b, (stage.name,)) for b in workspace.buckets])
    assert kept[kind.id_column].is_unique().all()
    assert summary.rows_out == kept.height
    assert summary.rows_in == kept.height + gone.height
    return kept, gone, summary


def named_as_kept(rejects: pl.DataFrame) -> set[str]:
    found = [re.match(r"like (\S+), which stays", detail or "") for detail in rejects["detail"]]
    return {match.group(1) for match in found if match}


def pair(chosen: str, rejected: str = OTHER, prompt: str = "How do tides work?") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_dropped_for_a_row_that_goes_itself(tmp_path: Path, reverse: bool) -> None:
    """Whichever of the two has the smaller id: near-duplicates of which one holds personal data."""
    kept_ids = []
    for n in range(6):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        clear, personal = f"{LONG} (number {n}).", f"{LONG} (number {n}). {MAIL.format('ada')}"
        rows = [pair(clear), pair(personal)][:: -1 if reverse else 1]
        hygiene = {"duplicates": {"threshold": 0.8}, "personal": {"policy": "drop"}}
        kept, gone, _ = outcome(CLEAN, ingested(folder, rows, hygiene))
        assert gone["reason"].to_list() == ["personal_data"]
        assert named_as_kept(gone) <= set(kept["pair_id"])
        kept_ids += kept["pair_id"].to_list()
    assert len(kept_ids) == 6


def test_the_same_for_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"{LONG}?"}, {"prompt": f"{LONG}? {MAIL.format('ada')}"}, {"prompt": f"{LONG}? Do tell."}]
    hygiene = {"duplicates": {"threshold": 0.8}, "personal": {"policy": "drop"}}
    kept, gone, _ = outcome(SCREEN, ingested(tmp_path, rows, hygiene))
    assert sorted(gone["reason"]) == ["near_duplicate", "personal_data"]
    assert named_as_kept(gone) == set(kept["prompt_id"])


@pytest.mark.parametrize("duplicates", [{}, {"duplicates": {"threshold": 0.8}}])
def test_rows_that_masking_makes_equal_are_rejects(tmp_path: Path, duplicates: dict[str, Any]) -> None:
    rows = [pair(f"{LONG}; {MAIL.format(name)}") for name in ("ada", "bob", "cleo")]
    rows += [pair(LONG, prompt=f"Write to {name}@example.org about tides.") for name in ("ada", "bob")]
    hygiene = {"personal": {"policy": "mask"}, **duplicates}
    kept, gone, _ = outcome(CLEAN, ingested(tmp_path, rows, hygiene))
    assert kept.height == 2
    assert gone["reason"].to_list() == ["exact_duplicate"] * 3
    assert named_as_kept(gone) == set(kept["pair_id"])
    assert "example.org" not in json.dumps([kept.to_dicts(), gone.to_dicts()])


@pytest.mark.parametrize("hygiene", [{}, {"sanity": {}}])
def test_a_made_pair_that_was_given_already_is_a_reject(tmp_path: Path, hygiene: dict[str, Any]) -> None:
    generate = {"generate": {"generators": [{"plugin": "trajectory"}]}}
    run = ingested(tmp_path, [pair(LONG), pair(f"{LONG}!")], hygiene, **generate)
    workspace = run.workspace
    made, _ = make_pair(
        [message("user", "How do tides work?")], [message("assistant", LONG)], [message("assistant", OTHER)]
    )
    new, _ = make_pair(
        [message("user", "How do tides work?")],
        [message("assistant", LONG)],
        [message("assistant", "It is the work of the wind.")],
    )
    rows = {b: workspace.read("pairs", b, ("ingest",)) for b in workspace.buckets}
    bucket = next(b for b, frame in rows.items() if frame.height)
    frame = rows_frame([{**p, "origin": "made", "group_id": "g"} for p in (made, new)], Pairs)
    workspace.commit("generate", bucket, "made by the test", Output({"pairs": frame}, 2, 2), 0.0)
    kept, gone, summary = outcome(CLEAN, run)
    assert summary.rows_in == 4
    assert gone["record_id"].to_list() == [made["pair_id"]]
    assert gone["reason"].to_list() == ["exact_duplicate"]
    origins = dict(kept.select("pair_id", "origin").iter_rows())
    assert origins[made["pair_id"]] != "made"
    assert origins[new["pair_id"]] == "made"


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that count letters: texts of the same letters mean the same."""

    def embed(_: Workspace, texts: list[str]) -> Any:
        counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr(pipelines.runtime.hygiene, "embedded", embed)


@pytest.mark.usefixtures("letters")
def test_what_means_the_same_goes_whatever_its_words(tmp_path: Path) -> None:
    words = LONG.split()
    hygiene = {"duplicates": {"threshold": 0.95, "cosine": 0.999}}
    shuffled = " ".join(words[::-1])
    (tmp_path / "pairs").mkdir()
    rows = [pair(LONG), pair(shuffled), pair("zzz"), pair(shuffled, prompt="Why?")]
    kept, gone, _ = outcome(CLEAN, ingested(tmp_path / "pairs", rows, hygiene))
    assert gone["reason"].to_list() == ["semantic_duplicate"]
    assert kept.height == 3
    assert named_as_kept(gone) <= set(kept["pair_id"])
    prompts = [{"prompt": LONG}, {"prompt": shuffled}, {"prompt": "zzz"}]
    kept, gone, _ = outcome(SCREEN, ingested(tmp_path, prompts, hygiene))
    assert gone["reason"].to_list() == ["semantic_duplicate"]
    assert kept.height == 2
    assert named_as_kept(gone) <= set(kept["prompt_id"])


@pytest.mark.usefixtures("letters")
def test_what_means_what_a_benchmark_says_goes(tmp_path: Path) -> None:
    (tmp_path / "bench.txt").write_text(" ".join(LONG.split()[::-1]) + "\n")
    hygiene = {"decontamination": {"benchmarks": ["bench.txt"], "cosine": 0.999}}
    rows = [pair("a", prompt=LONG), pair("b", prompt="Why is the sky blue?")]
    kept, gone, _ = outcome(CLEAN, ingested(tmp_path, rows, hygiene))
    assert gone["reason"].to_list() == ["contaminated_in_meaning"]
    assert kept.height == 1


def test_a_benchmark_of_the_datasets_library(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps({"prompt": LONG, "id": 1}) + "\n")
    hygiene = {"decontamination": {"benchmarks": [f"datasets:{folder}:test:prompt"]}}
    rows = [pair("a", prompt=f"Read this. {LONG}"), pair("b", prompt="Why is the sky blue?")]
    _, gone, _ = outcome(CLEAN, ingested(tmp_path, rows, hygiene))
    assert gone["reason"].to_list() == ["contaminated"]
