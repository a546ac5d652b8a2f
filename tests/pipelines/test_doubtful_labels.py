"""Labels that were exchanged on purpose: the version doubts them, and no trainer takes them for certain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from datasets import load_dataset

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import run_recipe
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

TOPICS = (
    *("sorting a list", "boiling rice", "planting tomatoes", "reading a map", "tying a bowline", "baking bread"),
    *("changing a tyre", "writing a letter", "washing wool", "tuning a guitar"),
)
STEPS = (
    "First collect what you need and put it within reach.",
    "Then begin with the smallest step and check the result before you go on.",
    "Take care with the order, because a later step rests on an earlier one.",
    "A common mistake is to hurry; give each step the time it needs.",
    "At the end look over the whole once more and put right what is missing.",
)
EVASIONS = ("Whatever.", "I do not know.", "Look it up.", "Does it matter?", "No idea.")


def rows(n: int) -> list[dict[str, Any]]:
    """Pairs of a helpful and an idle answer; in every sixth the idle one is labelled as the better."""
    made = []
    for i in range(n):
        topic = TOPICS[i % len(TOPICS)]
        good = f"{topic.capitalize()} for case {i} is easy. " + " ".join(STEPS[(i + j) % 5] for j in range(4))
        bad = f"{topic.capitalize()}? " + " ".join(EVASIONS[(i * 3 + j) % 5] for j in range(4))
        first, second = (good, bad) if i % 2 else (bad, good)
        right = "a" if i % 2 else "b"
        label = right if i % 6 else "ba"["ab".index(right)]
        made.append(
            {"prompt": f"Explain {topic}, case {i}.", "response_a": first, "response_b": second, "label": label}
        )
    return made


@pytest.mark.parametrize("doubtful", ["drop", "flip", "soften", "ask"])
def test_what_happens_to_labels_in_doubt_is_one_setting(tmp_path: Path, doubtful: str) -> None:
    n = 120
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(n)))
    recipe = {
        "name": "mine",
        "buckets": 2,
        "sources": [{"name": "mine", "kind": "pairs", "path": "pairs.jsonl"}],
        "score": {"scorers": [{"name": "heads", "plugin": "bt_heads"}]},
        "fuse": {"policy": {"plugin": "posterior", "doubtful": doubtful}},
        "route": {"queue": {"budget": 200, "audit_share": 0.1}},
        "materialise": {
            "exports": [
                {"format": "trl-dpo"},
                {"format": "trl-reward"},
                {"format": "trl-dpo", "options": {"name": "copies", "soft_labels": "duplicate"}},
            ]
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run_recipe(tmp_path / "recipe.yaml", str(tmp_path / "w"), None, None, (), quiet=True)
    workspace = Workspace.open(str(tmp_path / "w"))
    verdicts = table_frame(workspace, "verdicts").collect()
    published = table_frame(workspace, "rows").collect()
    rejects = table_frame(workspace, "rejects").collect()
    assert verdicts.height == n == published.height + rejects.height

    exported = load_dataset(result.exports["trl-dpo"], cache_dir=str(tmp_path / "cache"))
    chosen = [row["chosen"][0]["content"] for split in exported.values() for row in split]
    if doubtful != "flip":  # which takes the more probable side, however little more probable it is
        assert sum(any(text in answer for text in EVASIONS) for answer in chosen) == 0
    doubt = verdicts.filter(pl.col("reasons").list.contains("doubtful"))
    assert doubt.height >= n // 6
    sure = n - doubt.height
    assert sure >= 0.95 * (n - n // 6)
    reward = load_dataset(result.exports["trl-reward"], cache_dir=str(tmp_path / "cache of reward"))
    copies = load_dataset(result.exports["copies"], cache_dir=str(tmp_path / "cache of copies"))
    rewarded = sum(split.num_rows for split in reward.values())
    held = {"drop": sure, "ask": sure, "flip": n, "soften": n}[doubtful]
    assert published.height == rewarded == held
    assert len(chosen) == (sure if doubtful == "soften" else held)
    assert ("margin" in reward["train"].column_names) == (doubtful == "soften")
    training = published.filter(pl.col("split") == "train").height
    assert copies["train"].num_rows == 4 * training
    assert set(rejects["reason"]) == ({"doubtful"} if held < n else set())

    said = [note for note in result.notes if note.startswith("export ")]
    assert f"export copies: {training} training rows written 4 times each" in " ".join(said)
    assert any(f"{doubt.height} of {n} rows left out" in note for note in said) == (doubtful == "soften")
    if doubtful == "ask":
        queue = table_frame(workspace, "queue").collect()
        asked = queue.filter(pl.col("purpose") == "value")
        assert set(asked["pair_id"]) <= set(doubt["pair_id"])
        assert asked.height > 0
