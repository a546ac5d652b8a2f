"""Accounts: shares of time add up, and a server's own counters are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.llm.metrics import PrefixCache, read_prefix_cache
from transforms.llm.usage import SharedClock, Usage
from transforms.llm.window import Budget

times = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=20)


@given(times)
def test_shares_add_up_to_the_time_in_which_anything_was_in_flight(requests: list[tuple[int, int]]) -> None:
    events = sorted(
        [(start, 1, i) for i, (start, _) in enumerate(requests)]
        + [(start + length, 0, i) for i, (start, length) in enumerate(requests)]
    )
    now = 0.0
    clock = SharedClock(lambda: now)
    begun: dict[int, float] = {}
    shares: dict[int, float] = {}
    for moment, begins, number in events:
        now = float(moment)
        if begins:
            begun[number] = clock.begin()
        else:
            shares[number] = clock.end(begun[number])
    # Second by second: who was in flight, and the whole of it.
    busy = 0
    expected = dict.fromkeys(range(len(requests)), 0.0)
    for second in range(2001):
        open_now = [i for i, (start, length) in enumerate(requests) if start <= second < start + length]
        busy += bool(open_now)
        for i in open_now:
            expected[i] += 1 / len(open_now)
    assert sum(shares.values()) == pytest.approx(busy)
    assert shares == pytest.approx(expected)


def test_the_prefix_cache_counters_of_vllm_are_summed_over_engines() -> None:
    text = """# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 100.0
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 50.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 6.4e+01
vllm:prefix_cache_hits_total{engine="1",model_name="m"} 0.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 9.0
"""
    assert read_prefix_cache(text) == PrefixCache(150.0, 64.0)


@pytest.mark.parametrize("text", ["", "llamacpp:prompt_tokens_total 3\n", "<html>", "vllm:prefix_cache_hits_total{} x"])
def test_other_texts_have_no_counters(text: str) -> None:
    assert read_prefix_cache(text) is None


def test_a_server_that_was_restarted_counts_anew() -> None:
    assert PrefixCache(10, 5).since(PrefixCache(8, 4)) == PrefixCache(2, 1)
    assert PrefixCache(3, 1).since(PrefixCache(8, 4)) == PrefixCache(3, 1)


@given(st.integers(1, 100), st.integers(0, 200), st.integers(1, 8))
def test_what_is_left_of_a_budget_is_never_negative_and_no_limit_stays_none(limit: int, spent: int, lanes: int) -> None:
    left = Budget(max_calls=limit).less(Usage(calls=spent), 1.0)
    assert left == Budget(max_calls=max(0, limit - spent))
    share = left.share(lanes).max_calls
    assert share is not None
    assert (share == 0) == (left.max_calls == 0)
