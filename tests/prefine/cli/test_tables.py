"""Tables fit 80 columns, show what a pair is, and their seconds add up; `--wide` leaves nothing out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runtime.run import RunResult
from prefine.cli.main import main
from tests.conftest import ROOT
from transforms.text.plain import HIDDEN, beginning
from transforms.text.table import SHORT_ID


def prefine(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["prefine", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace `w` with two versions of a dataset that differ."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert prefine(patch, "init", "w", "--template", "pairs") == 0
        assert prefine(patch, "run", "w/recipe.yaml", "-w", "w", "-q") == 0
        recipe = Path("w/recipe.yaml")
        recipe.write_text(recipe.read_text().replace("doubtful: drop", "doubtful: drop, certainty: 0.9"))
        assert prefine(patch, "run", "w/recipe.yaml", "-w", "w", "-q") == 0
    return folder


def shown(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLUMNS", raising=False)
    capsys.readouterr()
    assert prefine(monkeypatch, *words) == 0
    return capsys.readouterr().out


TABLES = {
    "status": ("status",),
    "judges": ("judges",),
    "queue": ("queue",),
    "rejects": ("rejects",),
    "diff": ("diff", "my-preferences@1", "my-preferences@2"),
}


@pytest.mark.parametrize("command", TABLES)
def test_tables_fit_80_columns_and_wide_ones_have_whole_ids(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = shown(folder, monkeypatch, capsys, *TABLES[command], "-w", "w")
    wide = shown(folder, monkeypatch, capsys, *TABLES[command], "-w", "w", "--wide")
    sentences = ("rejects of", "warning:", "actions,", "wrong", "how many", "probabilities")
    assert all(len(line) <= 80 for line in narrow.splitlines() if not line.startswith(sentences))
    assert set(re.findall(r"\b[0-9a-f]{32}\b", narrow)) == set()
    if command in ("queue", "diff"):
        whole = set(re.findall(r"\b[0-9a-f]{32}\b", wide))
        assert whole
        assert {name[:SHORT_ID] for name in whole} == set(re.findall(rf"^[0-9a-f]{{{SHORT_ID}}}\b", narrow, re.M))


def test_a_pair_is_shown_with_its_texts_and_named_by_a_few_digits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = json.loads(
        shown(folder, monkeypatch, capsys, "sql", "SELECT * FROM pairs ORDER BY pair_id", "-w", "w", "--json")
    )
    queue = shown(folder, monkeypatch, capsys, "queue", "-w", "w")
    listed = {pair["pair_id"]: pair for pair in pairs if pair["pair_id"][:SHORT_ID] in queue}
    assert listed
    for pair_id, pair in listed.items():
        text = beginning(pair["prompt"][-1]["content"])[:30].rstrip()
        assert text in queue
        for dataset in ((), ("--dataset", "my-preferences@1")):
            told = shown(folder, monkeypatch, capsys, "explain", pair_id[:SHORT_ID], "-w", "w", *dataset, "--json")
            explained = json.loads(told)
            assert explained["pair_id"] == pair_id
            assert explained["response_a"] == pair["response_a"][0]["content"]
            assert explained["response_b"] == pair["response_b"][0]["content"]
    capsys.readouterr()
    assert prefine(monkeypatch, "explain", "f" * 31, "-w", "w") == 2
    first = pairs[0]["pair_id"][0]
    several = sum(pair["pair_id"].startswith(first) for pair in pairs)
    capsys.readouterr()
    if several > 1:
        assert prefine(monkeypatch, "explain", first, "-w", "w") == 2
        assert f"{several} pairs" in capsys.readouterr().err


@given(st.text(), st.integers(1, 50))
def test_a_beginning_is_one_plain_line_of_at_most_so_many_characters(text: str, most: int) -> None:
    line = beginning(text, most)
    assert len(line) <= most
    assert "\n" not in line
    assert not HIDDEN.search(line)


@given(
    st.lists(st.floats(0, 1e4), max_size=12),
    st.floats(0, 100),
)
def test_seconds_as_shown_sum_to_the_total_shown(parts: list[float], rest: float) -> None:
    seconds = {f"stage {n}": value for n, value in enumerate(parts)}
    result = RunResult("recipe", "w", seconds={**seconds, "total": sum(parts) + rest})
    ms = {part: round(1000 * value) for part, value in result.shown_seconds().items()}
    total = ms.pop("total")
    assert sum(ms.values()) == total
    assert all(value >= 0 for part, value in ms.items() if part != "the rest")
    assert ms["the rest"] >= -1
    assert all(abs(ms[part] - 1000 * value) <= 1 for part, value in seconds.items())


def test_a_run_times_what_it_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(shown(folder, monkeypatch, capsys, "run", "w/recipe.yaml", "-w", "w", "--json"))
    assert {stage["stage"] for stage in result["stages"]} <= result["seconds"].keys()
    assert sum(v for k, v in result["seconds"].items() if k != "total") <= result["seconds"]["total"]


def test_no_library_shows_its_bars(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"not {n}"} for n in range(50)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "small",
        "buckets": 1,
        "sources": [{"name": "rows", "kind": "pairs", "dataset": "data"}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    words = [sys.executable, "-m", "prefine.cli.main", "run", "recipe.yaml", "-w", "w"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
