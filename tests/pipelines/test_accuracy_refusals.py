"""What an accuracy cannot be promised with is refused, in words that say what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.runtime.run import run_recipe
from schemas.errors import UsageError


def recipe(folder: Path, policy: str) -> Path:
    row = {"prompt": "q", "response_a": "one answer", "response_b": "another answer", "label": "a"}
    (folder / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    fields = {
        "name": "accurate",
        "buckets": 1,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
        "fuse": {"policy": {"plugin": policy}},
        "route": {"queue": {"accuracy": 0.9}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_a_policy_that_does_not_follow_the_posterior(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"policy moss .* take the policy posterior, or a budget"):
        run_recipe(recipe(tmp_path, "moss"), str(tmp_path / "w"), "fuse", None, (), quiet=True)


def test_a_budget_given_by_hand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"asks for an accuracy \(0.9\).*leave --budget out"):
        run_recipe(recipe(tmp_path, "posterior"), str(tmp_path / "w"), "fuse", None, (), quiet=True, budget=5)
