"""The demo's recipe with the real embedded LLM, on its first prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from tests.conftest import ROOT
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

PROMPTS = "6"


def run(workspace: Path, *words: str) -> dict[str, Any]:
    prefine = [sys.executable, "-m", "prefine.cli.main"]
    command = [*prefine, "run", "recipes/demo.yaml", "--workspace", str(workspace), "--json"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def calls(result: dict[str, Any]) -> int:
    return int(sum(usage["calls"] for stage in result["stages"] for usage in stage["usage"].values()))


def test_the_demo_publishes_once_and_asks_once(tmp_path: Path) -> None:
    first = run(tmp_path / "w", "--limit", PROMPTS)
    assert (first["version"], first["published"]) == ("v0001", True)
    assert calls(first) > 0
    workspace = Workspace.open(str(tmp_path / "w"))
    pairs = table_frame(workspace, "pairs").collect()
    assert set(pairs["origin"].to_list()) == {"sample", "twins", "flawed"}
    votes = table_frame(workspace, "votes").collect()
    judged = votes.filter(pl.col("voter") == "smollm")
    assert judged.height == 2 * pairs.height
    assert judged.filter(pl.col("label").is_in(["a", "b", "tie"])).height > pairs.height
    assert judged["p_a"].drop_nulls().is_between(0, 1).all()
    assert {"heads", "twins", "flawed"} <= set(votes["voter"].to_list())
    exported = pl.read_parquet(f"{first['exports']['trl-dpo']}/*.parquet")
    assert int(PROMPTS) <= exported.height < pairs.height  # a row a prompt, though heads learn little from so few
    assert first["notes"][-1].startswith(f"in {pairs.height} pairs, out {exported.height} rows")
    report = tmp_path / "w" / "datasets" / "demo" / "v0001" / "report.html"
    assert "<html" in report.read_text()[:2000]
    assert "spread is the mean cosine distance" in report.read_text()
    memo = sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "w" / "tables").rglob("journal-*.jsonl"))
    second = run(tmp_path / "w", "--limit", PROMPTS)
    assert (second["version"], second["published"]) == ("v0001", False)
    after = sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "w" / "tables").rglob("journal-*.jsonl"))
    assert after == memo
