"""A run from prompts to a version, as a user sees it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect import versions
from pipelines.inspect.tables import TABLE_STAGES, table_frame
from pipelines.runtime.order import RUN_ORDER
from schemas.tables import TABLES
from tests.pipelines.conftest import PROMPTS, Project, Published, recipe_of, version_bytes
from transforms.publish.read import open_version
from transforms.storage.workspace import Workspace


def test_prompts_become_a_published_version_with_its_rows_accounted_for(published: Published) -> None:
    project, result = published, published.first
    assert (result["dataset"], result["version"], result["published"]) == ("small", "v0001", True)
    assert Path(project.folder / "w" / "datasets" / "small" / "v0001" / "report.html").stat().st_size > 10_000
    workspace = Workspace.open(str(project.folder / "w"))
    for stage in result["stages"]:
        assert stage["buckets"] == workspace.n_buckets
        assert stage["rows_in"] == stage["rows_out"] + sum(stage["rejects"].values()), stage["stage"]
    for table in TABLE_STAGES:
        frame = table_frame(workspace, table).collect()
        assert TABLES[table].is_valid(frame), table
    pairs = table_frame(workspace, "pairs").collect()
    assert pairs["origin"].unique().sort().to_list() == ["sample", "twins"]
    twins = pairs.filter(pl.col("origin") == "twins").group_by("prompt_id", "group_id").len()
    assert (twins["len"] % 2 == 0).all()
    votes = table_frame(workspace, "votes").collect()
    labelled = pairs.filter(pl.col("source_label").is_not_null())
    said = votes.filter(pl.col("kind") == "source").select("pair_id", "label")
    assert said.sort("pair_id").rows() == labelled.select("pair_id", "source_label").sort("pair_id").rows()
    orders = votes.filter(pl.col("kind") == "judge").group_by("pair_id").agg(pl.col("order").sort())
    assert orders.height == pairs.height
    assert all(order == ["ab", "ba"] for order in orders["order"].to_list())
    judge = open_version(workspace.datasets, "small").manifest.voters["judge"]
    assert (judge["kind"], judge["votes"]) == ("judge", 2 * pairs.height)
    assert list(judge["models"]) == ["stub"]
    assert judge["template_hash"]
    assert [check for check in versions.check(workspace.root, "small", []) if not check.ok] == []


def fitted(workspace: Path) -> dict[str, int]:
    """Every fit and first pass that is stored, and when it was."""
    return {str(p): p.stat().st_mtime_ns for p in workspace.glob("stages/*/*/*")}


def test_a_second_run_asks_nothing_and_publishes_nothing(published: Published) -> None:
    project = published
    before, files = project.calls(), version_bytes(project.folder / "w")
    fits = fitted(project.folder / "w")
    again = project.run("w")
    assert (again["version"], again["published"]) == ("v0001", False)
    assert project.calls() == before
    assert version_bytes(project.folder / "w") == files
    assert fitted(project.folder / "w") == fits


def test_workers_in_threads_and_in_processes_give_the_same_bytes(project: Project) -> None:
    first = project.run("one", "--", "--direct_num_workers=1")
    second = project.run("two", "--", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert first["published"]
    assert second["published"]
    assert version_bytes(project.folder / "one") == version_bytes(project.folder / "two")


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_votes_are_the_same_and_only_what_was_in_flight_is_paid_twice(
    tmp_path: Path, stub: Callable[..., str]
) -> None:
    kills, concurrency = 20, 8
    chance = random.Random(11)
    prompts = [{"prompt": f"Explain item {i} of the list in a few words."} for i in range(32)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    url = stub(latency_s=0.2, slots=concurrency)
    recipe = recipe_of(url)
    recipe["engines"]["stub"]["concurrency"] = concurrency
    project = Project(tmp_path, url, recipe)
    project.run("undisturbed")
    once = project.stats()["answered"]
    total = len(once)
    assert set(once.values()) == {1}
    paid: list[int] = []  # requests of this workspace answered at each kill
    while len(paid) < kills:
        process = project.start("run", str(project.recipe_path), "--workspace", "killed", "--quiet")
        # A moment is a number of answers, or of seconds after the start: waiting for answers, a slow machine kills as
        # deep into the run as a fast one.
        by_time = len(paid) % 5 == 4 or (paid and paid[-1] == total)
        deadline = time.monotonic() + (chance.uniform(0.1, 3.0) if by_time else 120)
        wanted = project.calls() + chance.randint(1, total // kills)
        while process.poll() is None and time.monotonic() < deadline and (by_time or project.calls() < wanted):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            paid.append(sum(n > 1 for n in project.stats()["answered"].values()))
        process.communicate()
    result = project.run("killed")
    assert result["version"] == "v0001"
    assert sum(0 < n < total for n in paid) >= 8, paid
    # The requests of a run are the same whatever happened to it, and so is what it publishes.
    again = {key: n - 1 for key, n in project.stats()["answered"].items()}
    assert again.keys() == once.keys()
    assert min(again.values()) == 1
    assert sum(again.values()) - total <= kills * concurrency
    assert votes_of(project.folder / "killed") == votes_of(project.folder / "undisturbed")
    assert version_bytes(tmp_path / "killed") == version_bytes(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_server_that_does_everything_wrong_changes_no_vote_and_is_paid_once(
    tmp_path: Path, stub: Callable[..., str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    well = stub()
    project = Project(tmp_path, well, recipe_of(well))
    project.run("well")
    once = project.stats()["answered"]
    faults = dict.fromkeys(("rate_limited", "unavailable", "hang", "cut", "truncate", "malformed"), 0.1)
    ill = stub(storm=20, retry_after="0", latency_s=0.02, heavy_tail=True, **faults)
    recipe = recipe_of(ill)
    recipe["engines"]["stub"] |= {"attempt_s": 15.0, "retries": 30, "backoff_s": 0.01}
    project = Project(tmp_path, ill, recipe)
    result = project.run("ill")
    usage = [numbers for stage in result["stages"] for numbers in stage["usage"].values()]
    assert sum(numbers["retries"] for numbers in usage) > 20
    assert sum(numbers["errors"] for numbers in usage) == 0
    assert project.stats()["answered"] == once
    assert set(once.values()) == {1}
    assert votes_of(tmp_path / "ill") == votes_of(tmp_path / "well")


def votes_of(workspace: Path) -> list[dict[str, Any]]:
    """All votes, less how long they took."""
    votes = table_frame(Workspace.open(str(workspace)), "votes").drop("ms").sort("vote_id").collect()
    return votes.to_dicts()


def test_explain_adds_up_by_hand(published: Published) -> None:
    project = published
    workspace = Workspace.open(str(project.folder / "w"))
    for pair_id in table_frame(workspace, "pairs").collect()["pair_id"].to_list()[:10]:
        for words in ((), ("--dataset", "small")):
            found = json.loads(project.prefine("explain", pair_id, "-w", "w", "--json", *words))
            total = found["prior"] + sum(c["log_odds"] for c in found["contributions"])
            assert math.isclose(1 / (1 + math.exp(-total)), found["p_a_recorded"], abs_tol=1e-9)
            assert found["agrees"]
            assert {v["voter"] for v in found["votes"]} >= {c["voter"] for c in found["contributions"]}
        if pair_id.startswith("0"):
            break


def test_a_spent_budget_stops_cleanly_and_a_larger_one_goes_on(project: Project) -> None:
    project.recipe["judge"]["budget"] = {"max_calls": 20}
    error = project.prefine("run", str(project.recipe_path), "-w", "w", "-q", expect=1)
    assert "budget is spent" in error
    spent = project.calls()
    project.recipe["judge"]["budget"] = {}
    assert project.run("w")["published"]
    assert all(n == 1 for n in project.stats()["answered"].values())
    assert project.calls() > spent


def test_a_new_prompt_costs_only_its_own_calls_and_makes_a_new_version(project: Project) -> None:
    project.run("w")
    before = project.calls()
    with (project.folder / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "A new question about tides.", "kind": "chat"}) + "\n")
    result = project.run("w")
    assert (result["version"], result["published"]) == ("v0002", True)
    assert 0 < project.calls() - before <= 8
    assert all(n == 1 for n in project.stats()["answered"].values())


def test_a_dry_run_counts_what_the_run_then_spends(project: Project) -> None:
    words = ("run", str(project.recipe_path), "-w", "w", "--dry-run", "--json")
    planned = json.loads(project.prefine(*words))
    assert project.calls() == 0
    assert not (project.folder / "w").exists()
    result = project.run("w")
    spent = sum(usage["calls"] for stage in result["stages"] for usage in stage["usage"].values())
    assert sum(cost["calls"] for cost in planned["costs"]) == pytest.approx(spent, rel=0.1)
    again = json.loads(project.prefine(*words))
    assert sum(cost["calls"] for cost in again["costs"]) == 0


def test_until_stops_after_the_stage(project: Project) -> None:
    result = project.run("w", "--until", "generate")
    assert [stage["stage"] for stage in result["stages"]] == ["ingest", "evolve", "screen", "generate"]
    status = json.loads(project.prefine("status", "-w", "w", "--json"))
    assert [row["stage"] for row in status] == list(RUN_ORDER)
    done = [*RUN_ORDER].index("generate") + 1
    assert [row["buckets"] > 0 for row in status] == [True] * done + [False] * (len(status) - done)


def test_an_answer_that_failed_for_now_is_asked_again_by_the_next_run(tmp_path: Path, stub: Callable[..., str]) -> None:
    url = stub(fail_first=2)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS[:4]))
    recipe = recipe_of(url)
    recipe["engines"]["stub"] |= {"retries": 0, "backoff_s": 0.0}
    recipe["generate"]["generators"] = recipe["generate"]["generators"][:1]
    project = Project(tmp_path, url, recipe)
    versions = []
    for _ in range(6):
        done = project.attempt("run", str(project.recipe_path), "--workspace", "w", "--json", "-q")
        if done.returncode == 0:
            versions.append(json.loads(done.stdout.splitlines()[-1]))
    workspace = Workspace.open(str(tmp_path / "w"))
    votes = table_frame(workspace, "votes").filter(pl.col("kind") == "judge").collect()
    assert votes.height == 2 * table_frame(workspace, "pairs").collect().height > 0
    assert not votes["label"].is_in(["error"]).any()


def judge_calls(result: dict[str, Any]) -> float:
    judge = next(stage for stage in result["stages"] if stage["stage"] == "judge")
    return sum(usage["calls"] for usage in judge["usage"].values())


def test_a_sequential_panel_asks_less_and_says_the_same_twice(project: Project) -> None:
    project.recipe["generate"]["generators"] = project.recipe["generate"]["generators"][:1]
    project.recipe["judge"]["judges"] = [
        {"name": f"judge{i}", "plugin": "logprob", "engine": "stub", "top_logprobs": 10 + i} for i in range(3)
    ]
    project.recipe["fuse"] = {"policy": {"plugin": "posterior", "doubtful": "soften"}}
    whole = project.run("whole")
    project.recipe["judge"]["panel"] = {"stop_certainty": 0.65}
    less = project.run("less")
    calls = [judge_calls(result) for result in (whole, less)]
    assert 0 < calls[1] < calls[0]
    again = project.run("again")
    assert again["published"]
    assert version_bytes(project.folder / "again") == version_bytes(project.folder / "less")
