"""What a run says of its costs and its judges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.conftest import PROMPTS, Project, recipe_of

pytestmark = pytest.mark.slow


@pytest.fixture
def judged(tmp_path: Path, stub: Callable[..., str]) -> Project:
    url = stub(cached=0.5, latency_s=0.01)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS[:8]))
    project = Project(tmp_path, url, recipe_of(url))
    project.run("w", "--until", "judge")
    return project


def test_status_counts_what_the_server_counted(judged: Project) -> None:
    paid = judged.calls()
    stages = {row["stage"]: row for row in json.loads(judged.prefine("status", "-w", "w", "--json"))}
    rows = [row for stage in stages.values() for row in stage["requests"]]
    assert {row["who"] for row in rows} >= {"sample", "twins", "judge"}
    assert sum(row["calls"] for row in rows) == paid
    for row in rows:
        if not row["calls"]:  # the other generator had asked the same
            assert row["from_memo"] > 0
            continue
        assert 0.4 < row["cached"] <= 0.5
        # 10 ms is what a call takes at least; a throughput is at most what the concurrency allows in that time.
        assert row["ms_per_call"] >= 10
        assert 0 < row["calls_per_s"] <= 256 / 0.01
        assert row["tokens_per_s"] > row["calls_per_s"]
    assert stages["judge"]["prefix_caches"] == {"stub": pytest.approx(0.5, abs=0.1)}
    text = judged.prefine("status", "-w", "w", "--wide")
    assert "calls/s" in text
    assert "from their prefix cache" in text


def test_judges_are_described_by_their_votes(judged: Project) -> None:
    (row,) = json.loads(judged.prefine("judges", "-w", "w", "--json"))
    assert row["voter"] == "judge"
    assert row["n_votes"] == 2 * row["n_pairs"] > 0
    assert 0 <= row["flip_rate"] <= 1
    assert row["agreement"] is None  # nobody was asked
    assert "for the longer" in judged.prefine("judges", "-w", "w", "--wide")


def test_the_fit_of_a_panel_is_accounted_and_paid_from_the_same_budget(
    tmp_path: Path, stub: Callable[..., str]
) -> None:
    url = stub()
    rows = [
        {"prompt": f"Question {i}?", "response_a": f"One {i}.", "response_b": f"Two {i}.", "people": ["a"]}
        for i in range(30)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(url)
    del recipe["generate"]
    votes = [{"kind": "human", "labels": "people"}]
    recipe["sources"] = [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl", "votes": votes}]
    recipe["judge"] = {
        "judges": [{"name": name, "plugin": "logprob", "engine": "stub", "template": t} for name, t in JUDGES],
        "panel": {"stop_certainty": 0.6},
        "budget": {"max_calls": 100},
    }
    project = Project(tmp_path, url, recipe)
    error = project.prefine("run", str(project.recipe_path), "-w", "w", "-q", expect=1)
    assert "budget is spent" in error
    assert project.calls() == 100
    recipe["judge"]["budget"] = {}
    project.run("w", "--until", "judge")
    assert all(n == 1 for n in project.stats()["answered"].values())
    stages = json.loads(project.prefine("status", "-w", "w", "--json"))
    who = {row["who"]: row for stage in stages for row in stage["requests"]}
    assert sum(row["calls"] for row in who.values()) == project.calls() - 100
    assert who["one, to fit the panel"]["calls"] + who["one, to fit the panel"]["from_memo"] == 60


JUDGES = (("one", "logprob.v1"), ("two", "json_verdict.v1"))
