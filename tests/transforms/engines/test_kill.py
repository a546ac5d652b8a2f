"""Killed at random moments and run again: the votes are the same, and only what was in flight is paid twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.transforms.engines.killable import BUCKETS, CONCURRENCY, PROMPTS

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def stub(**options: Any) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.stub_llm", "--options", json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        return dict(json.load(response))


def judge(url: str, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-m", "tests.transforms.engines.killable", url, str(folder)], cwd=ROOT)


def votes(folder: Path) -> list[dict[str, Any]]:
    """All votes, less how long each took."""
    rows = [row for bucket in range(BUCKETS) for row in orjson.loads((folder / f"votes-{bucket}.json").read_bytes())]
    return [{name: value for name, value in row.items() if name != "ms"} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [{}, {"unavailable": 0.1, "cut": 0.1, "truncate": 0.1}])
def test_killed_at_twenty_moments_the_votes_are_the_same(tmp_path: Path, faults: dict[str, float]) -> None:
    chance = random.Random(0)
    kills = 20 if not faults else 5
    with stub(latency_s=0.05) as url:
        assert judge(url, tmp_path / "whole").wait(120) == 0
        total = len(stats(url)["received"])
        assert total == BUCKETS * PROMPTS * 2 * 2 * 2
    with stub(latency_s=0.1, heavy_tail=True, **faults) as url:
        killed = 0
        while True:
            process = judge(url, tmp_path / "killed")
            try:
                # Long enough after the start that requests are on the wire, anywhere in the run's life.
                assert process.wait(chance.uniform(0.8, 2.0) if killed < kills else 120) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        answered = stats(url)["answered"]
    assert killed >= min(kills, 5)
    assert votes(tmp_path / "killed") == votes(tmp_path / "whole")
    assert len(answered) == total
    assert sum(answered.values()) - total <= killed * CONCURRENCY
