"""Stage judge killed at random moments and run again: the votes are the same, only what was in flight is paid twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime.run import run_recipe
from tests.forked import FORKS
from tests.pipelines.conftest import Project
from tests.pipelines.test_failing_servers import STATES, judging, votes_of

PAIRS, CONCURRENCY = 240, 16
REQUESTS = 4 * PAIRS
LIFE = REQUESTS // 60  # requests a life lasts at most, beyond those in flight when it is killed


def project_of(folder: Path, url: str) -> Project:
    folder.mkdir()
    project = judging(folder, url, {"concurrency": CONCURRENCY, "backoff_s": 0.01, "retries": 30}, PAIRS)
    project.recipe["buckets"] = 4
    return project


def judge(project: Project) -> Any:
    """Begin `prefine run --until judge`."""
    process = FORKS.Process(
        target=run_recipe, args=(project.recipe_path, str(project.folder / "w"), "judge", None, (), True)
    )
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "faults"), [(20, {}), (5, {"unavailable": 0.1, "cut": 0.1, "truncate": 0.1})])
def test_killed_at_random_moments_the_votes_are_the_same(
    tmp_path: Path, stub: Callable[..., str], kills: int, faults: dict[str, float]
) -> None:
    chance = random.Random(0)
    whole = project_of(tmp_path / "whole", stub())
    judge(whole).join(120)
    expected = votes_of(whole)
    assert expected.height == REQUESTS
    assert not expected["label"].is_in(STATES).all()

    killed = project_of(tmp_path / "killed", stub(latency_s=0.1, heavy_tail=True, **faults))
    for _ in range(kills):
        process = judge(killed)
        before = killed.calls()
        until = before + chance.randint(1, LIFE)
        while killed.calls() < until:
            assert process.is_alive(), "the run ended before it was killed"
            time.sleep(0.01)
        process.kill()
        process.join()
    last = judge(killed)
    last.join(300)
    assert last.exitcode == 0
    assert votes_of(killed).equals(expected)
    answered = killed.stats()["answered"]
    assert len(answered) == REQUESTS
    assert sum(answered.values()) - REQUESTS <= kills * CONCURRENCY
