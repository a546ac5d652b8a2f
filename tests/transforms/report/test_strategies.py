from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import Pairs, rows_frame
from tests.transforms.generators.harness import build, meta, prompt_row, run
from transforms.report.strategies import distinct_n, embedding_spread, yield_table


@given(st.integers(2, 12), st.integers(0, 50))
def test_spread_is_the_mean_over_all_pairs(n: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    oracle = np.mean([1 - vectors[i] @ vectors[j] for i, j in combinations(range(n), 2)])
    assert embedding_spread(vectors) == pytest.approx(oracle)


def test_distinct_n_at_its_ends() -> None:
    assert distinct_n(["a b c d"], 2) == 1.0
    assert distinct_n(["a a a a a"], 1) == pytest.approx(1 / 5)
    assert distinct_n(["a"], 2) is None
    assert embedding_spread(np.ones((1, 3))) is None


@given(st.lists(st.text("abc ", max_size=12), max_size=6), st.integers(1, 3))
def test_distinct_n_is_a_share_and_falls_under_repetition(texts: list[str], n: int) -> None:
    once = distinct_n(texts, n)
    if once is not None:
        assert 0 < once <= 1
        assert distinct_n(texts * 3, n) == pytest.approx(once / 3)


def test_table_counts_what_each_strategy_gave() -> None:
    generators = [build("sample_n", engines="small", n=4), build("context_reversal", engines="small")]
    made = {g.name: run(g, prompt_row()) for g in generators}
    pairs = rows_frame([p for m in made.values() for p in m.pairs], Pairs)
    kept = pairs.filter(pl.col("origin") != "sample_n")
    verdicts = pairs.select("pair_id", margin=pl.lit(-2.0))
    vectors = {"context_reversal": np.eye(4)}
    table = yield_table({n: m.counts for n, m in made.items()}, kept, verdicts, vectors)
    assert table["generator"].to_list() == sorted(made)
    reversal, sample = table.to_dicts()
    assert (sample["asked"], sample["kept"], sample["kept_share"], sample["tokens_per_kept"]) == (4, 0, 0.0, None)
    own = made["context_reversal"]
    assert reversal["valid"] == reversal["kept"] == len(own.pairs)
    assert reversal["tokens_per_kept"] * reversal["kept"] == pytest.approx(
        own.counts["tokens_in"] + own.counts["tokens_out"]
    )
    assert reversal["spread"] == pytest.approx(1.0)
    assert reversal["margin_p50"] == 2.0
    assert sample["judged"] == 0
    assert yield_table({n: m.counts for n, m in made.items()}, kept)["judged"].to_list() == [None, None]


def test_diversity_is_compared_on_equal_numbers_of_pairs() -> None:
    made = run(build("sample_n", engines="small", n=8, policy="all"), prompt_row())
    kept = rows_frame(made.pairs, Pairs)
    [whole] = yield_table({"sample_n": made.counts}, kept, sample=3).to_dicts()
    lowest = sorted(made.pairs, key=lambda p: p["pair_id"])[:3]
    texts = [p[f"response_{s}"][0]["content"] for s in "ab" for p in lowest]
    assert whole["kept"] == len(made.pairs) > 3
    assert whole["distinct_2"] == pytest.approx(distinct_n(texts, 2))


def test_personas_are_counted_and_compared() -> None:
    generator = build("persona", engine="small", population=4, personas_per_prompt=3)
    made = [run(generator, prompt_row(f"Explain matter {i}.")) for i in range(5)]
    pairs = rows_frame([p for m in made for p in m.pairs], Pairs)
    [row] = yield_table({"persona": made[0].counts}, pairs).to_dicts()
    assert row["personas"] == pairs["user_id"].n_unique() > 1
    assert 0 < row["persona_spread"] <= 1
    other = run(build("sample_n", engines="small"), prompt_row())
    [plain] = yield_table({"sample_n": other.counts}, rows_frame(other.pairs, Pairs)).to_dicts()
    assert (plain["personas"], plain["persona_spread"]) == (None, None)


def test_prompts_that_were_kept_count_as_kept() -> None:
    made = run(build("prompt_evolve", engine="small", k=3), prompt_row())
    assert [meta(p)["evolution"]["name"] for p in made.prompts] == ["prompt_evolve"] * len(made.prompts)
    none = rows_frame([], Pairs)
    [row] = yield_table({"prompt_evolve": made.counts}, none, prompts={"prompt_evolve": 1}).to_dicts()
    assert (row["valid"], row["kept"], row["kept_share"]) == (len(made.prompts), 1, 1 / len(made.prompts))
    assert row["tokens_per_kept"] == made.counts["tokens_in"] + made.counts["tokens_out"]
