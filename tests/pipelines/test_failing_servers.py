"""A server that misbehaves, through stage judge to the votes and the exit code: nothing invalid is scored, nothing is
lost, nothing is paid for twice, and a run that cannot go on says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import dry_run, run_recipe
from schemas.errors import EngineError
from tests.pipelines.conftest import Project
from tests.stub_llm import Options, StubServer
from transforms.llm.client import TURNED_AWAY
from transforms.storage.workspace import Workspace

PAIRS = 40
STATES = ("invalid", "refused", "error")
PATIENT: dict[str, Any] = {"retries": 12, "backoff_s": 0.01, "concurrency": 16}


def judging(folder: Path, url: str, engine: dict[str, Any], pairs: int = PAIRS, **judge: Any) -> Project:
    """Pairs judged by two judges in both orders: four requests a pair."""
    rows = [
        {"prompt": f"question {n // 2}", "chosen": f"a fine answer to {n}", "rejected": f"no answer to {n}"}
        for n in range(pairs)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judges = [{"name": "quick", "plugin": "logprob"}, {"name": "slow", "plugin": "json_verdict"}]
    recipe = {
        "name": "small",
        "buckets": 2,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub", **engine}},
        "judge": {"judges": [{**use, "engine": "stub"} for use in judges], **judge},
    }
    return Project(folder, url, recipe)


def verdict(body: dict[str, Any]) -> str:
    """What both judges can read; a function of the request, as a model at temperature 0 is."""
    return json.dumps({"reasoning": f"of {len(str(body))}", "verdict": "AB"[len(str(body)) % 2]})


def votes_of(project: Project, workspace: str = "w") -> pl.DataFrame:
    frame = table_frame(Workspace.open(str(project.folder / workspace)), "votes").collect()
    return frame.filter(pl.col("kind") == "judge").drop("ms").sort("vote_id")


def until_judge(project: Project, workspace: str = "w", expect: int = 0) -> str:
    words = ("run", str(project.recipe_path), "--workspace", workspace, "--until", "judge", "--json")
    return project.prefine(*words, expect=expect)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Votes by a server that does nothing wrong."""
    with StubServer(reply=verdict) as stub:
        project = judging(tmp_path_factory.mktemp("calm"), stub.url, PATIENT)
        until_judge(project)
        votes = votes_of(project)
    assert votes.height == 4 * PAIRS
    assert not votes["label"].is_in(STATES).any()
    return votes


ALWAYS: dict[str, tuple[dict[str, Any], str]] = {
    "429": ({"rate_limited": 1.0}, "status 429"),
    "429 for an hour": ({"rate_limited": 1.0, "retry_after": "3600"}, "Retry-After"),
    "503": ({"unavailable": 1.0}, "status 503"),
    "bodies that are no replies": ({"malformed": 1.0}, "a body that is no reply"),
}


@pytest.mark.parametrize(
    "fault", [name if name == "429" else pytest.param(name, marks=pytest.mark.slow) for name in ALWAYS]
)
def test_a_stage_whose_requests_all_fail_ends_the_run_and_the_next_one_asks_them_again(
    tmp_path: Path, fault: str, calm: pl.DataFrame
) -> None:
    options, cause = ALWAYS[fault]
    with StubServer(Options(**options), verdict) as stub:
        project = judging(tmp_path, stub.url, {"retries": 1, "backoff_s": 0.01})
        error = project.prefine("run", str(project.recipe_path), "--workspace", "w", expect=1)
        port = stub.port
    assert f"stage judge: {4 * PAIRS} of {4 * PAIRS} requests (100.0%) got no answer" in error
    assert cause in error
    assert "run again, and only these are asked" in error
    assert "Traceback" not in error
    assert not (tmp_path / "w" / "datasets").exists()
    assert votes_of(project)["label"].is_in(STATES).all()
    with StubServer(reply=verdict, port=port) as back:
        until_judge(project)
        assert set(back.stub.answered.values()) == {1}
    assert votes_of(project).equals(calm)


def test_a_few_failures_are_noted_and_mended_by_the_next_run(tmp_path: Path, calm: pl.DataFrame) -> None:
    with StubServer(Options(unavailable=0.2), verdict) as stub:
        project = judging(tmp_path, stub.url, {"retries": 1, "backoff_s": 0.01}, max_failed_share=0.3)
        said = json.loads(until_judge(project).splitlines()[-1])["notes"]
        failed = votes_of(project).filter(pl.col("label") == "error").height
        assert 0 < failed < 0.3 * 4 * PAIRS
        assert any(f"{failed} of {4 * PAIRS} requests" in note and "x status 503" in note for note in said)
        for _ in range(20):
            if not votes_of(project)["label"].is_in(STATES).any():
                break
            until_judge(project)
        assert set(stub.stub.answered.values()) == {1}, "a paid answer was bought again"
    assert votes_of(project).equals(calm)


@pytest.mark.slow
def test_generating_stops_at_its_own_share(tmp_path: Path, stub: Callable[..., str]) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(20)))
    url = stub(unavailable=1.0)
    recipe = {
        "name": "small",
        "buckets": 2,
        "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub", "retries": 0}},
        "generate": {"generators": [{"plugin": "sample_n", "engines": ["stub"], "n": 2}]},
    }
    project = Project(tmp_path, url, recipe)
    error = project.prefine("run", str(project.recipe_path), "--workspace", "w", expect=1)
    assert "stage generate: 40 of 40 requests" in error
    recipe["generate"]["max_failed_share"] = 1.0  # type: ignore[index]
    result = project.run("w", "--until", "generate")
    assert any("stage generate: 40 of 40 requests" in note for note in result["notes"])


def test_what_is_turned_away_for_good_ends_the_run_and_is_asked_of_another_server(
    tmp_path: Path, calm: pl.DataFrame
) -> None:
    with StubServer(Options(bad_request=1.0), verdict) as stub:
        project = judging(tmp_path, stub.url, PATIENT, max_failed_share=0.0)
        error = project.prefine("run", str(project.recipe_path), "--workspace", "w", expect=1)
        port = stub.port
    assert f"stage judge: {4 * PAIRS} of {4 * PAIRS} requests (100.0%) got no answer" in error
    assert f"{4 * PAIRS} x status 400" in error
    assert "maximum context length" in error
    assert not (tmp_path / "w" / "datasets").exists()
    with StubServer(reply=verdict, port=port) as mended:
        until_judge(project)
        assert set(mended.stub.received.values()) == {1}
    assert votes_of(project).equals(calm)


def test_a_few_that_are_turned_away_for_good_are_asked_in_two_runs_and_then_of_another_server(tmp_path: Path) -> None:
    with StubServer(Options(bad_request=0.1, max_model_len=4096), verdict) as stub:
        project = judging(tmp_path, stub.url, PATIENT, max_failed_share=0.3)
        said, sent = [], [0]

        def asked() -> int:
            sent.append(sum(stub.stub.received.values()))
            return sent[-1] - sent[-2]

        for again in (False, True, False, False):  # the second run asks them once more, later ones ask nobody
            said.append(json.loads(until_judge(project).splitlines()[-1])["notes"])
            turned_away = votes_of(project).filter(pl.col("label") == "error").height
            assert 0 < turned_away < 0.3 * 4 * PAIRS
            assert asked() == (turned_away if again else 0 if len(said) > 1 else 4 * PAIRS)
        assert all(notes == said[0] for notes in said)
        assert any(
            f"{turned_away} of {4 * PAIRS} requests" in note and "turned away for good" in note for note in said[0]
        )
        project.recipe["judge"]["max_failed_share"] = 0.0
        for flags, expected in (
            ((), 0),
            (("--retry-errors",), turned_away),
            ((), 0),
        ):  # stricter now: the run ends there
            error = project.prefine("run", str(project.recipe_path), "--workspace", "w", *flags, expect=1)
            assert f"stage judge: {turned_away} of {4 * PAIRS} requests" in error
            assert "--retry-errors" in error
            assert asked() == expected
        stub.stub.options.max_model_len = 8192  # served anew, with more room
        stub.stub.options.bad_request = 0.0
        until_judge(project)
        assert asked() == turned_away
        assert not votes_of(project)["label"].is_in(STATES).any()
        assert set(stub.stub.answered.values()) == {1}, "a paid answer was bought again"


@pytest.mark.parametrize(("status", "ends"), [(403, False), (401, True)])
def test_one_prompt_is_turned_away_and_the_others_go_on(tmp_path: Path, status: int, ends: bool) -> None:
    """A status of all requests, of one of them only; and of all of them after the first answers."""

    seen: list[str] = []

    def special(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        (prompt,) = re.findall(r"question \d+", str(body["messages"][-1]["content"]))
        if prompt not in seen:
            seen.append(prompt)
        place = seen.index(prompt)
        if place == 3 or (ends and place > 3):
            return web.json_response({"error": {"message": "not you", "code": status}}, status=status)
        return None

    with StubServer(reply=verdict, special=special) as stub:
        project = judging(tmp_path, stub.url, {**PATIENT, "concurrency": 1}, max_failed_share=0.3)
        project.recipe["beam"] = {"workers": 1}
        if ends:
            error = project.prefine("run", str(project.recipe_path), "-w", "w", "--until", "judge", expect=1)
            assert "turns requests away with 401: not you" in error
            assert len(seen) == 3 + TURNED_AWAY
            return
        for _ in range(3):
            until_judge(project)
        votes = votes_of(project)
        assert votes.height == 4 * PAIRS
        assert votes.filter(pl.col("label") == "error").height == 8  # two pairs, two judges, both orders
        assert sum(stub.stub.received.values()) == 4 * PAIRS + 8


def test_a_stage_without_a_usable_reply_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(6)))

    def thought(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response:
        message = {"role": "assistant", "content": None, "reasoning_content": "Hm. " * 40}
        choice = {"index": 0, "finish_reason": "length", "message": message}
        usage = {"prompt_tokens": 9, "completion_tokens": 160}
        return web.json_response({"choices": [choice], "usage": usage})

    with StubServer(special=thought) as stub:
        recipe = {
            "name": "small",
            "buckets": 2,
            "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
            "engines": {"stub": {"plugin": "openai", "base_url": stub.url, "model": "stub"}},
            "generate": {"generators": [{"plugin": "sample_n", "engines": ["stub"], "n": 2}]},
        }
        project = Project(tmp_path, stub.url, recipe)
        error = project.prefine("run", str(project.recipe_path), "-w", "w", expect=1)
    assert "stage generate: none of 12 replies can be used" in error
    assert "all 160 tokens went into reasoning; raise max_tokens" in error
    assert not (tmp_path / "w" / "datasets").exists()


FAULTS: dict[str, dict[str, Any]] = {
    "429 storm": {"storm": 100, "retry_after": "0.02"},
    "cut connections": {"cut": 0.3},
    "truncated bodies": {"truncate": 0.3},
    "malformed bodies": {"malformed": 0.3},
    "hanging requests": {"hang": 0.1},
    "answers out of order": {"latency_s": 0.01, "heavy_tail": True},
}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow) if "hang" in name else name for name in FAULTS]
)
def test_the_votes_are_those_of_a_healthy_server(tmp_path: Path, fault: str, calm: pl.DataFrame) -> None:
    patience = PATIENT | ({"attempt_s": 0.5} if fault == "hanging requests" else {}) | {"retries": 60}
    with StubServer(Options(**FAULTS[fault]), verdict) as stub:
        project = judging(tmp_path, stub.url, patience)
        run_recipe(project.recipe_path, str(tmp_path / "w"), "judge", None, (), quiet=True)
        assert set(stub.stub.answered.values()) == {1}, "a paid answer was bought again"
        assert len(stub.stub.answered) == 4 * PAIRS, "an answer is missing"
    assert votes_of(project).equals(calm)


def test_ten_thousand_damaged_bodies_score_nothing(tmp_path: Path, calm: pl.DataFrame) -> None:
    fuzz = 10_000 // (4 * PAIRS) + 1
    patience = PATIENT | {"retries": fuzz, "backoff_s": 0.0, "outage_s": 600.0}
    with StubServer(Options(fuzz=fuzz), verdict) as stub:
        project = judging(tmp_path, stub.url, patience)
        run_recipe(project.recipe_path, str(tmp_path / "w"), "judge", None, (), quiet=True)
        assert sum(stub.stub.received.values()) - 4 * PAIRS >= 10_000
        assert set(stub.stub.answered.values()) == {1}
    assert votes_of(project).equals(calm)


def test_a_verdict_outside_the_form_is_invalid_and_never_a_score(tmp_path: Path) -> None:
    """A whole reply whose text is no verdict, or one of neither response."""
    texts = ('{"reasoning": "x", "verdict": "D"}', "A is better", '{"verdict": "A"', "", '["A"]', "I cannot help.")

    def answer(body: dict[str, Any]) -> str:
        return texts[len(str(body["messages"])) % len(texts)]

    with StubServer(reply=answer) as stub:
        project = judging(tmp_path, stub.url, PATIENT)
        project.recipe["judge"]["judges"] = [{"name": "slow", "plugin": "json_verdict", "engine": "stub"}]
        with pytest.raises(EngineError, match=rf"none of {2 * PAIRS} votes counts \(.* invalid"):
            run_recipe(project.recipe_path, str(tmp_path / "w"), "judge", None, (), quiet=True)
        project.recipe["judge"]["max_failed_share"] = 1.0
        result = run_recipe(project.recipe_path, str(tmp_path / "w"), "judge", None, (), quiet=True)
        sent = sum(stub.stub.received.values())
    votes = votes_of(project)
    assert votes.height == sent == 2 * PAIRS
    assert votes["label"].is_in(STATES).all()
    assert votes.select("p_a", "score_a", "score_b").null_count().row(0) == (votes.height,) * 3
    assert votes["detail"].null_count() == 0
    assert any(f"{votes.height} of {votes.height} votes do not count" in note for note in result.notes)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_costs_at_most_what_was_in_flight(tmp_path: Path, calm: pl.DataFrame) -> None:
    with StubServer(Options(latency_s=0.1), verdict) as stub:
        project = judging(tmp_path, stub.url, {"concurrency": 8, "outage_s": 60})
        process = project.start("run", str(project.recipe_path), "-w", "w", "--until", "judge", "--quiet")
        while stub.stub.answered.total() < 20:
            assert process.poll() is None
    with StubServer(reply=verdict, port=stub.port) as back:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        again = [key for key in back.stub.answered if key in stub.stub.answered]
    assert len(again) <= 8
    assert votes_of(project).equals(calm)


def test_a_dry_run_counts_no_tokenizing(tmp_path: Path) -> None:
    project = judging(tmp_path, "http://127.0.0.1:1/v1", {}, pairs=4)
    for judge in project.recipe["judge"]["judges"]:
        judge |= {"context_tokens": 400, "max_tokens": 1, "too_long": "window"}
    planned = dry_run(project.recipe_path, str(tmp_path / "w"), None, ())
    assert sorted((cost.who, cost.calls) for cost in planned.costs) == [("quick", 8), ("slow", 8)]
