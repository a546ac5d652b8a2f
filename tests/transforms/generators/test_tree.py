import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.generators.harness import FakeEngine, build, failed, meta, prompt_row, run, text
from transforms.generators.tree import continued
from transforms.llm.request import Reply, Request


def unfinished(request: Request) -> Reply:
    """A segment that names its request, cut at its budget, so that every level grows."""
    words = f" word{int(request.request_id[:6], 16)} and"
    return Reply(request.request_id, "ok", words, finish_reason="length", tokens_in=1, tokens_out=3)


@pytest.mark.parametrize(("depth", "branching"), [(1, 2), (2, 2), (3, 2), (2, 3)])
def test_each_segment_is_asked_once_and_every_branch_gives_a_pair(depth: int, branching: int) -> None:
    fake = FakeEngine(unfinished)
    result = run(build("tree", engine="small", depth=depth, branching=branching), prompt_row(), fake)
    segments = sum(branching**level for level in range(1, depth + 1))
    assert len(fake.requests) == len({r.request_id for r in fake.requests}) == segments
    inner = sum(branching**level for level in range(depth))
    assert len(result.pairs) == inner


def test_leaves_share_exactly_the_recorded_prefix_and_then_branch() -> None:
    result = run(
        build("tree", engine="small", depth=3, branching=2, pairs_per_node=4), prompt_row(), FakeEngine(unfinished)
    )
    for pair in result.pairs:
        a, b = text(pair["response_a"]), text(pair["response_b"])
        n, branch = meta(pair)["prefix_chars"], meta(pair)["branch"]
        assert a[:n] == b[:n]
        reference = json.loads(pair["origin_ref"])
        first, second = reference["a"]["node"], reference["b"]["node"]
        assert first[: len(branch)] == second[: len(branch)] == branch
        assert first[len(branch)] != second[len(branch)]
        assert a[n:].split()[0] != b[n:].split()[0]


def test_prefix_is_prefilled_for_the_engine_to_go_on_from() -> None:
    fake = FakeEngine(unfinished)
    run(build("tree", engine="small", depth=2), prompt_row(), fake)
    first, second = (
        [r for r in fake.requests if ("continue_final_message" in r.body) == flag] for flag in (False, True)
    )
    texts = {unfinished(r).text for r in first}
    for request in second:
        last = request.body["messages"][-1]
        assert last["role"] == "assistant"
        assert last["content"] in texts


def test_engines_that_repeat_the_prefix_and_engines_that_do_not_give_the_same_tree() -> None:
    def whole_turn(request: Request) -> Reply:
        reply = unfinished(request)
        last = request.body["messages"][-1]
        prefix = last["content"] if last["role"] == "assistant" else ""
        return replace(reply, text=prefix + reply.text)

    generator = build("tree", engine="small", depth=3)
    assert run(generator, prompt_row(), FakeEngine(whole_turn)) == run(generator, prompt_row(), FakeEngine(unfinished))


@given(st.text("ab ."), st.text("ab .", min_size=1))
def test_continuation_keeps_the_prefix(prefix: str, text: str) -> None:
    for way in ("prefill", "instructed"):
        assert continued(prefix, text, way).startswith(prefix)
        assert continued(prefix, text, way).endswith(text)


def test_instructed_continuation_needs_no_prefill() -> None:
    fake = FakeEngine(unfinished)
    result = run(build("tree", engine="small", depth=2, continuation="instructed"), prompt_row(), fake)
    assert result.pairs
    assert all(r.body["messages"][-1]["role"] == "user" for r in fake.requests)


def test_finished_answers_are_leaves_early() -> None:
    fake = FakeEngine()  # every reply ends with "stop"
    run(build("tree", engine="small", depth=5), prompt_row(), fake)
    assert len(fake.requests) == 2


def test_branches_that_agree_are_rejects() -> None:
    result = run(build("tree", engine="small"), prompt_row(), FakeEngine(lambda r: "The same."))
    assert {r["reason"] for r in result.rejects} == {"near_identical_candidate", "no_branch"}
    result = run(build("tree", engine="small"), prompt_row(), FakeEngine(failed))
    assert {r["reason"] for r in result.rejects} == {"generation_error", "no_branch"}


@pytest.mark.parametrize("branching", [2, 3])
def test_leaves_are_made_of_segments_that_are_stored_once(branching: int) -> None:
    engine = FakeEngine(unfinished)
    config = {"depth": 3, "branching": branching, "pairs_per_node": 9}
    made = run(build("tree", engine="small", **config), prompt_row(), engine)
    replies = {request.request_id: unfinished(request).text for request in engine.requests}
    assert len(replies) == len(engine.requests)
    seen: dict[str, str] = {}
    for pair in made.pairs:
        reference, n = json.loads(pair["origin_ref"]), meta(pair)["prefix_segments"]
        trails = {side: reference[side]["segments"] for side in "ab"}
        for side, trail in trails.items():
            response, start = text(pair[f"response_{side}"]), 0
            for request_id, end in trail:
                assert seen.setdefault(request_id, response[:end]) == response[:end]
                assert response[start:end] == replies[request_id]
                start = end
            assert start == len(response)
        assert trails["a"][:n] == trails["b"][:n]
        assert trails["a"][n] != trails["b"][n]
        assert (trails["a"][n - 1][1] if n else 0) == meta(pair)["prefix_chars"]
    assert set(seen) <= set(replies)
    written_out = sum(len(text(pair[f"response_{side}"])) for pair in made.pairs for side in "ab")
    assert sum(map(len, replies.values())) < written_out
