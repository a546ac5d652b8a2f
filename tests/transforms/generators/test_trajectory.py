import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import unit_interval
from schemas.messages import Message, message
from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run
from transforms.generators.trajectory import Rollout, ahead, defect, steps


def call(name: str) -> Message:
    return message("assistant", "", tool_calls=json.dumps([{"type": "function", "function": {"name": name}}]))


def transcript(*names: str, end: str = "Done.") -> list[Message]:
    out: list[Message] = []
    for name in names:
        out += [call(name), message("tool", f"{name} answered", name=name)]
    return [*out, message("assistant", end)]


def row(*items: dict[str, Any]) -> dict[str, Any]:
    return prompt_row("Book a table for two.", meta=json.dumps({"site": "x", "trajectories": list(items)}))


GOOD = {"messages": transcript("search", "open", "book"), "outcome": True, "return": 0.9, "model": "m1"}
BAD = {"messages": transcript("search", "close", end="I gave up."), "outcome": False, "return": 0.2, "model": "m2"}


@pytest.mark.parametrize("by", ["outcome", "return"])
def test_better_ending_is_preferred(by: str) -> None:
    [pair] = run(build("trajectory", by=[by]), row(BAD, GOOD)).pairs
    winner = pair["source_label"]
    assert pair[f"response_{winner}"] == GOOD["messages"]
    assert pair[f"model_{winner}"] == "m1"
    assert meta(pair) == {"site": "x", "by": by}


@pytest.mark.parametrize("by", ["outcome", "return"])
def test_ties_are_dropped(by: str) -> None:
    other = {**GOOD, "messages": transcript("search", "book")}
    result = run(build("trajectory", by=[by]), row(GOOD, other))
    assert [r["reason"] for r in result.rejects] == ["no_pair"]


def test_small_gaps_are_no_preference() -> None:
    assert not run(build("trajectory", by=["return"], min_gap=0.8), row(GOOD, BAD)).pairs


def test_recorded_defect_is_what_was_done() -> None:
    result = run(build("trajectory", by=["defect"]), row(BAD, GOOD))
    kinds = set()
    for pair in result.pairs:
        facts = meta(pair)["defect"]
        kinds.add(facts["kind"])
        winner, loser = ("a", "b") if pair["source_label"] == "a" else ("b", "a")
        good, bad = pair[f"response_{winner}"], pair[f"response_{loser}"]
        start, end, n = facts["start"], facts["end"], facts["inserted"]
        assert good == GOOD["messages"]
        assert bad[:start] == good[:start]
        assert bad[start + n :] == good[end:]
        inserted = bad[start : start + n]
        if facts["kind"] == "truncated":
            assert (end, n) == (len(good), 0)
            assert 0 < len(bad) < len(good)
        elif facts["kind"] == "redundant":
            assert start == end
            assert inserted == good[start - n : start]
        else:
            assert "".join(map(str, inserted)) in "".join(map(str, BAD["messages"]))
            assert inserted != good[start:end]
    assert kinds == {"truncated", "redundant", "foreign"}


sequences = st.lists(st.sampled_from(["search", "open", "book", "pay"]), max_size=5)


@given(sequences, sequences, st.sampled_from(["truncated", "foreign", "redundant"]), st.integers(0, 30))
def test_no_tool_result_loses_its_call(names: list[str], other: list[str], kind: Any, seed: int) -> None:
    good = Rollout(tuple(transcript(*names)), True, None, None)
    foreign = Rollout(tuple(transcript(*other, end="Other.")), None, None, None)
    splice = defect(kind, good, [foreign], lambda *n: unit_interval(str(seed), *n))
    if splice is None:
        assert kind == "truncated"
        assert not names
        return
    bad = splice.apply(good.messages)
    assert bad != good.messages
    assert bad
    for before, after in zip([None, *bad], bad, strict=False):
        if after["role"] == "tool":
            assert before is not None
            assert before["tool_calls"]
            assert after["name"] in before["tool_calls"]


@given(st.none() | st.booleans(), st.none() | st.booleans())
def test_ahead_is_antisymmetric_and_silent_about_the_unknown(x: bool | None, y: bool | None) -> None:
    first, second = (Rollout((), outcome, None, None) for outcome in (x, y))
    assert ahead(first, second, "outcome", 0.0) == -ahead(second, first, "outcome", 0.0)
    assert (ahead(first, second, "outcome", 0.0) != 0) == (x is not None and y is not None and x != y)


def test_prompt_at_the_start_of_a_transcript_is_left_out() -> None:
    prompt = [message("user", "Book a table for two.")]
    items = ({**GOOD, "messages": prompt + GOOD["messages"]}, {**BAD, "messages": prompt + BAD["messages"]})
    assert (
        run(build("trajectory", by=["outcome"]), row(*items)).pairs
        == run(build("trajectory", by=["outcome"]), row(GOOD, BAD)).pairs
    )


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        ({"messages": []}, "empty"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "no assistant message"),
        ({**GOOD, "return": "high"}, "return"),
        ({**GOOD, "outcome": 1}, "outcome"),
        ("text", "object"),
    ],
)
def test_bad_transcripts_are_rejects_that_say_where(item: Any, detail: str) -> None:
    result = run(build("trajectory", by=["outcome"]), row(GOOD, item))
    [bad] = [r for r in result.rejects if r["reason"] == "bad_trajectory"]
    assert "trajectories[1]" in bad["detail"]
    assert detail in bad["detail"]


def test_row_without_transcripts_is_a_reject() -> None:
    assert [r["reason"] for r in run(build("trajectory"), prompt_row()).rejects] == ["no_trajectories"]


def test_written_intent_becomes_the_prompt() -> None:
    fake = FakeEngine(lambda r: json.dumps({"intent": "I want a table for two tonight."}))
    source = row(GOOD, BAD)
    [pair] = run(build("trajectory", by=["outcome"], writer="small"), source, fake).pairs
    assert pair["prompt"] == [message("user", "I want a table for two tonight.")]
    assert pair["group_id"] == source["prompt_id"]


def test_steps_begin_at_everything_but_tool_results() -> None:
    assert steps(transcript("a", "b")) == [0, 2, 4]
