"""What people answered and what is known reaches the models, in a sample of the workspace too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.inspect.judgement import judgement
from pipelines.inspect.status import fusion_notes
from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import run_stages
from pipelines.runtime.sample import sample
from pipelines.runtime.stage import ANSWER_STAGES, VOTE_STAGES
from schemas.ids import hash_fields
from transforms.stats.bounded_sample import RANDOM_SHARE, chosen
from transforms.storage.workspace import Workspace

N_CONTROLS = 12


def pairs(n_prompts: int) -> list[dict[str, Any]]:
    """Three pairs a prompt; the source is right."""
    return [
        {"prompt": f"Question {i}?", "chosen": f"Answer {i} in {k} words or so.", "rejected": f"Nothing {i} {k}."}
        for i in range(n_prompts)
        for k in range(3)
    ]


def fused(folder: Path, n_prompts: int, buckets: int = 3, fit_pairs: int = 10_000, answered: int = 20) -> Workspace:
    """Stages up to fuse: `ann` answers with the source, `bob` against it, controls first."""
    controls = [row | {"prompt": f"Known: {row['prompt']}"} for row in pairs(N_CONTROLS // 3)]
    for name, rows in (("mine", pairs(n_prompts)), ("known", controls)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "evidence",
        "buckets": buckets,
        "sources": [
            {"name": "mine", "kind": "pairs", "path": "mine.jsonl"},
            {"name": "known", "kind": "pairs", "path": "known.jsonl", "constants": {"tags": ["control"]}},
        ],
        "score": {"scorers": [{"plugin": "length"}], "fit_pairs": fit_pairs},
        "fuse": {"fit_pairs": fit_pairs},
        "annotate": {"plugin": "files", "files": ["answers.jsonl"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "answers.jsonl").touch()
    root = str(folder / f"w{buckets}")
    run_stages(folder / "recipe.yaml", root, ["ingest", "clean"], None, (), quiet=True)
    workspace = Workspace.open(root)
    everything = table_frame(workspace, "pairs").sort("pair_id").collect()
    known = everything.filter(pl.col("tags").list.contains("control"))
    others = everything.join(known, on="pair_id", how="anti").head(answered)
    other = {"a": "b", "b": "a"}
    given = [(p, "bob", other[s]) for p, s in known.select("pair_id", "source_label").iter_rows()]
    given += [(p, "ann", s) for p, s in others.select("pair_id", "source_label").iter_rows()]
    (folder / "answers.jsonl").write_text(
        "".join(
            json.dumps({"pair_id": p, "annotator": who, "label": label, "updated_at": "2026-01-01T00:00:00Z"}) + "\n"
            for p, who, label in given
        )
    )
    run_stages(folder / "recipe.yaml", root, ["pull", "score", "fuse"], None, (), quiet=True)
    return workspace


@pytest.mark.parametrize("fit_pairs", [10_000, 60])
def test_an_annotator_that_misses_every_control_turns_no_known_answer(tmp_path: Path, fit_pairs: int) -> None:
    workspace = fused(tmp_path, 40, fit_pairs=fit_pairs)
    model = judgement(workspace)["fuser"].model
    assert model is not None
    assert (model["humans"]["human:bob"]["n_compared"], model["humans"]["human:bob"]["log_odds"]) == (N_CONTROLS, 0.0)
    assert model["n_labels"] == N_CONTROLS + 20
    verdicts = table_frame(workspace, "verdicts").collect()
    controls = table_frame(workspace, "pairs").collect().filter(pl.col("tags").list.contains("control"))
    known = verdicts.join(controls.select("pair_id", "source_label"), on="pair_id")
    assert known.height == N_CONTROLS
    assert known["label"].to_list() == known["source_label"].to_list()
    assert set(known["action"]) == {"keep"}
    notes = fusion_notes(workspace.root)
    assert any("how many source labels are wrong is not known" in note for note in notes)  # ann answered what we asked
    assert any("predicted / actual" in note for note in notes)


def test_a_sample_holds_every_labelled_pair_and_whole_prompts_whatever_the_buckets(tmp_path: Path) -> None:
    found = []
    for buckets in (2, 5):
        workspace = fused(tmp_path, 60, buckets=buckets, answered=30)
        found.append(sample(workspace, 80, VOTE_STAGES))
    one, two = found
    assert one.pairs.equals(two.pairs)
    assert one.votes.equals(two.votes)
    people = table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect()["pair_id"].unique()
    assert len(people) == 30 + N_CONTROLS
    assert set(people) <= set(one.pairs["pair_id"])
    assert one.pairs.height <= 80
    drawn = one.pairs.filter("drawn")
    assert drawn.height >= 80 * RANDOM_SHARE
    assert set(drawn.group_by("prompt_id").len()["len"]) == {3}
    assert set(one.votes["pair_id"]) <= set(one.pairs["pair_id"])
    everything = sample(workspace, 10_000, ANSWER_STAGES)
    assert everything.pairs.height == 60 * 3 + N_CONTROLS
    assert everything.pairs["drawn"].all()


def test_more_labels_than_the_limit_leave_room_for_random_prompts() -> None:
    draws = [int(hash_fields(str(i))[:8], 16) for i in range(500)]
    prompts = pl.DataFrame({"draw": draws, "n": [2] * 500})
    ids = [hash_fields(str(i), str(k)) for i in range(500) for k in range(2)]
    labelled = pl.DataFrame({"pair_id": ids, "draw": [d for d in draws for _ in range(2)]})
    kept, last = chosen(prompts, labelled, 100)
    assert kept.height == 100 * (1 - RANDOM_SHARE)
    taken = prompts.filter(pl.col("draw") <= last)["n"].sum()
    assert 18 <= taken <= 100 - kept.height
    huge = prompts.with_columns(pl.when(pl.col("draw") == min(draws)).then(10_000).otherwise("n").alias("n"))
    assert chosen(huge, labelled, 100)[1] == min(draws)
