"""Labels that were exchanged on purpose: the version doubts them, and a trainer does not get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("soft_labels", ["filter", "ignore"])
def test_a_trainer_gets_no_label_that_the_version_doubts(tmp_path: Path, soft_labels: str) -> None:
    n = 120
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(n)))
    options = {} if soft_labels == "filter" else {"soft_labels": soft_labels}
    recipe = {
        "name": "mine",
        "buckets": 2,
        "sources": [{"name": "mine", "kind": "pairs", "path": "pairs.jsonl"}],
        "score": {"scorers": [{"name": "heads", "plugin": "bt_heads"}]},
        "materialise": {"exports": [{"format": "trl-dpo", "options": options}]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run_recipe(tmp_path / "recipe.yaml", str(tmp_path / "w"), None, None, (), quiet=True)
    exported = load_dataset(result.exports["trl-dpo"], cache_dir=str(tmp_path / "cache"))
    chosen = [row["chosen"][0]["content"] for split in exported.values() for row in split]
    wrong = sum(any(text in answer for text in EVASIONS) for answer in chosen)
    verdicts = table_frame(Workspace.open(str(tmp_path / "w")), "verdicts").collect()
    assert verdicts.height == n
    if soft_labels == "ignore":
        assert (len(chosen), wrong) == (n, n // 6)
        assert not any("left out" in note for note in result.notes)
        return
    assert wrong == 0
    assert len(chosen) >= 0.95 * (n - n // 6)
    left = n - len(chosen)
    assert any(note.startswith(f"export trl-dpo: {left} of {n} rows left out") for note in result.notes)
    # The other options in the same workspace: no new version, but the export is another.
    recipe["materialise"] = {"exports": [{"format": "trl-dpo", "options": {"soft_labels": "ignore"}}]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(recipe))
    kept = run_recipe(tmp_path / "other.yaml", str(tmp_path / "w"), None, None, (), quiet=True)
    assert not kept.published
    assert not any("left out" in note for note in kept.notes)
    whole = load_dataset(kept.exports["trl-dpo"], cache_dir=str(tmp_path / "cache of the whole"))
    assert sum(split.num_rows for split in whole.values()) == n
    again = run_recipe(tmp_path / "recipe.yaml", str(tmp_path / "w"), None, None, (), quiet=True)
    assert not again.published
    assert [note for note in again.notes if "left out" in note] == [note for note in result.notes if "left out" in note]
