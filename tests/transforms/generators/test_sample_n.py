import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.generators.harness import FakeEngine, build, failed, prompt_row, run, text
from transforms.generators._sampling import pairings
from transforms.llm.request import Reply, Request


def draw(*fields: str) -> float:
    from schemas.ids import unit_interval

    return unit_interval("0", *fields)


@given(n=st.integers(0, 9), k=st.integers(1, 50))
def test_random_policy_draws_distinct_pairs_without_replacement(n: int, k: int) -> None:
    chosen = pairings(n, "random", k, draw)
    assert len(chosen) == len(set(chosen)) == min(k, n * (n - 1) // 2)
    assert set(chosen) <= set(combinations(range(n), 2))


@given(n=st.integers(2, 9))
def test_all_and_adjacent(n: int) -> None:
    assert pairings(n, "all", 1, draw) == list(combinations(range(n), 2))
    assert pairings(n, "adjacent", 1, draw) == [(i, i + 1) for i in range(n - 1)]


@given(scores=st.lists(st.integers(1, 9), min_size=2, max_size=9), k=st.integers(1, 5))
def test_ranked_policies_put_the_higher_score_first(scores: list[int], k: int) -> None:
    best_worst = pairings(len(scores), "best_worst", k, draw, scores)
    assert len(best_worst) == (max(scores) > min(scores))
    for i, j in best_worst:
        assert scores[i] == max(scores)
        assert scores[j] == min(scores)
    for i, j in pairings(len(scores), "random_of_top", k, draw, scores):
        assert scores[i] == max(scores) > scores[j]
        assert sum(s > scores[j] for s in scores) < max(2, round(len(scores) / 2))


def test_same_seed_same_pairs_and_another_seed_other_pairs() -> None:
    row = prompt_row()
    config = {"engines": ["small", "large"], "temperatures": [0.5, 1.0], "n": 6}
    first, again, other = (run(build("sample_n", seed=s, **config), row) for s in (1, 1, 2))
    assert first == again
    assert {p["pair_id"] for p in first.pairs}.isdisjoint(p["pair_id"] for p in other.pairs)


def test_every_engine_and_temperature_is_used_and_recorded(engine: FakeEngine) -> None:
    generator = build("sample_n", engines=["small", "large"], temperatures=[0.2, 1.0], n=8, policy="all")
    result = run(generator, prompt_row(), engine)
    used = [(r.engine, r.model, r.body["temperature"]) for r in engine.requests]
    assert sorted(used) == sorted([(e, f"{e}-weights", t) for e in ("small", "large") for t in (0.2, 1.0)] * 2)
    assert len({r.body["seed"] for r in engine.requests}) == 8
    by_id = {r.request_id: r for r in engine.requests}
    for pair in result.pairs:
        reference = json.loads(pair["origin_ref"])
        for side in "ab":
            made = by_id[reference[side]["request_id"]]
            assert pair[f"model_{side}"] == made.model
            assert reference[side]["temperature"] == made.body["temperature"]


def test_near_identical_candidates_are_rejected_not_paired() -> None:
    def answer(request: Request) -> str:
        sample = int(request.salt.rsplit("/", 1)[1])
        return "Tides follow the moon  and the sun." if sample % 2 else "tides follow the moon and the SUN."

    result = run(build("sample_n", engines="small", n=4), prompt_row(), FakeEngine(answer))
    assert not result.pairs
    assert sorted(r["reason"] for r in result.rejects) == ["near_identical_candidate"] * 3 + ["no_pair"]


@pytest.mark.parametrize(("state", "reason"), [("error", "generation_error"), ("refused", "generation_refused")])
def test_failed_replies_are_rejects_with_their_state(state: str, reason: str) -> None:
    def answer(request: Request):  # type: ignore[no-untyped-def]
        return failed(request, state) if request.salt.endswith("/0") else None

    result = run(build("sample_n", engines="small", n=3, policy="all"), prompt_row(), FakeEngine(answer))
    assert [r["reason"] for r in result.rejects] == [reason]
    assert len(result.pairs) == 1
    assert (result.counts["asked"], result.counts["answered"], result.counts["parsed"]) == (3, 2, 2)


def test_empty_reply_is_a_reject() -> None:
    result = run(build("sample_n", engines="small", n=2), prompt_row(), FakeEngine(lambda r: "  \n"))
    assert {r["reason"] for r in result.rejects} == {"generation_empty", "no_pair"}


def test_best_worst_pairs_the_extremes_of_the_ratings() -> None:
    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        if not content.startswith("Rate"):
            return f"The answer, version {request.salt.rsplit('/', 1)[1]}, is here."
        return str(9 - 2 * int(content.split("version ")[1][0]))

    generator = build("sample_n", engines="small", rater="large", policy="best_worst", n=4, near_identical=1.0)
    [pair] = run(generator, prompt_row(), FakeEngine(answer)).pairs
    assert {text(pair["response_a"])[20:21], text(pair["response_b"])[20:21]} == {"0", "3"}
    assert pair["source_label"] is None


def test_unreadable_ratings_leave_the_candidate_out() -> None:
    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        return "no idea" if content.startswith("Rate") else None

    generator = build("sample_n", engines="small", rater="small", policy="best_worst", n=3)
    result = run(generator, prompt_row(), FakeEngine(answer))
    assert sorted(r["reason"] for r in result.rejects) == ["no_pair"] + ["unrated"] * 3


def test_ranked_policy_without_a_rater_is_refused() -> None:
    with pytest.raises(ValueError, match="rater"):
        build("sample_n", engines="small", policy="best_worst")


@pytest.mark.parametrize("keeps", [False, True])
def test_thoughts_are_in_no_response_unless_they_are_wanted(keeps: bool) -> None:
    def thinking(request: Request) -> Reply:
        return Reply(request.request_id, "ok", text=f"Answer {request.salt}.", reasoning=f"A plan for {request.salt}.")

    config = {"engines": ["small"], "n": 3, "policy": "all", "near_identical": 1.0}
    out = run(build("sample_n", keep_reasoning=keeps, **config), prompt_row(), FakeEngine(thinking))
    assert len(out.pairs) == 3
    for pair in out.pairs:
        for side in ("response_a", "response_b"):
            assert text(pair[side]).startswith("<think>\nA plan for ") == keeps
            assert text(pair[side]).split("</think>")[-1].strip().startswith("Answer")


def test_a_rater_gets_the_tokens_it_needs_and_what_it_said_is_told() -> None:
    def wordy(request: Request) -> Reply | None:
        if "rate" not in request.salt:
            return None
        return Reply(request.request_id, "ok", text="Let me see", finish_reason="length")

    engine = FakeEngine(wordy)
    config = {"engines": ["small"], "n": 3, "policy": "best_worst", "rater": "large", "rating_tokens": 77}
    out = run(build("sample_n", **config), prompt_row(), engine)
    assert {r.body["max_tokens"] for r in engine.requests if "rate" in r.salt} == {77}
    details = {reject["detail"] for reject in out.rejects if reject["reason"] == "unrated"}
    assert details == {"no readable rating from the rater: the reply is 'Let me see', cut off: raise rating_tokens"}
