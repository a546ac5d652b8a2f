import random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import message, messages_id
from schemas.pairs import make_pair
from schemas.tables import Pairs, Prompts, rows_frame
from transforms.hygiene.duplicates import KEYS, pair_keys, prompt_keys, resolve
from transforms.hygiene.semantic import semantic_duplicates
from transforms.hygiene.signatures import BANDS, PERMUTATIONS, ROWS, signatures, similarity, word_texts
from transforms.text.similarity import jaccard, normalised, shingles, words

VOCABULARY = [f"word{i}" for i in range(400)]


def prompts(texts: list[str]) -> pl.DataFrame:
    rows = []
    for text in texts:
        prompt = [message("user", text)]
        rows.append({**dict.fromkeys(Prompts.columns()), "prompt_id": messages_id(prompt), "prompt": prompt})
    return rows_frame(rows, Prompts)


def pair(prompt: str, first: str, second: str, context: str | None = None) -> dict[str, Any]:
    row, _ = make_pair(
        [message("user", prompt)], [message("assistant", first)], [message("assistant", second)], context=context
    )
    return {**dict.fromkeys(Pairs.columns()), "origin": "test", **row}


def sentence(rng: random.Random, n: int = 40) -> str:
    return " ".join(rng.choice(VOCABULARY) for _ in range(n))


def edited(text: str, rng: random.Random, changes: int) -> str:
    tokens = text.split()
    for _ in range(changes):
        tokens[rng.randrange(len(tokens))] = rng.choice(VOCABULARY)
    return " ".join(tokens)


def corpus(seed: int, n: int = 60) -> list[str]:
    rng = random.Random(seed)
    texts = [sentence(rng) for _ in range(n)]
    texts += [edited(t, rng, rng.randrange(1, 8)) for t in texts[: n // 2]]
    texts += [f"  {t.upper()} \n" for t in texts[: n // 4]]
    return texts


@given(seed=st.integers(0, 50), flips=st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_estimate_is_within_sampling_error_of_the_true_jaccard(seed: int, flips: int) -> None:
    rng = random.Random(seed)
    first = sentence(rng, 80)
    second = edited(first, rng, flips)
    made = signatures(pl.Series([first, second]))
    true = jaccard(shingles(first), shingles(second))
    [estimate] = similarity(made.values, np.array([0]), np.array([1]))
    assert abs(estimate - true) <= 5 * np.sqrt(max(true * (1 - true), 0.01) / PERMUTATIONS)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_signature_of_a_text_does_not_depend_on_its_company(texts: list[str], at: int) -> None:
    together = signatures(pl.Series(texts))
    at %= len(texts)
    alone = signatures(pl.Series([texts[at]]))
    assert (together.values[at] == alone.values[0]).all()
    assert (together.bands[at] == alone.bands[0]).all()


@given(st.text("abzAZ019éßÄж漢_ ,.!-\n'", max_size=80))
@settings(deadline=None)
def test_words_are_those_of_the_row_wise_similarity(text: str) -> None:
    [spaced] = word_texts(pl.Series([text])).to_list()
    assert [w.casefold() for w in spaced.split()] == words(text)


@given(seed=st.integers(0, 30), buckets=st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_outcome_does_not_depend_on_order_or_buckets(seed: int, buckets: int) -> None:
    frame = prompts(corpus(seed))
    whole = resolve(prompt_keys(frame))
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    parts = [prompt_keys(shuffled.gather_every(buckets, i)) for i in range(buckets)]
    assert resolve(pl.concat(parts)).equals(whole)
    assert resolve(pl.concat([*parts, *parts])).equals(whole)


@given(seed=st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_against_all_pairs_by_true_jaccard(seed: int) -> None:
    frame = prompts(corpus(seed))
    texts = {row["prompt_id"]: row["prompt"][0]["content"] for row in frame.to_dicts()}
    drops = resolve(prompt_keys(frame), threshold=0.7)
    assert set(drops["id"]).isdisjoint(drops["kept_id"])
    for row in drops.to_dicts():
        assert row["kept_id"] < row["id"]
        true = jaccard(shingles(texts[row["id"]]), shingles(texts[row["kept_id"]]))
        if row["reason"] == "exact_duplicate":
            assert normalised(texts[row["id"]]) == normalised(texts[row["kept_id"]])
        else:
            assert true >= 0.7 - 0.2
    left = sorted(set(texts) - set(drops["id"]))
    missed = [
        (x, y)
        for i, x in enumerate(left)
        for y in left[i + 1 :]
        if jaccard(shingles(texts[x]), shingles(texts[y])) >= 0.9
    ]
    assert missed == []


def test_banding_promises_what_the_docstring_says() -> None:
    def found(j: float) -> float:
        return 1 - (1 - j**ROWS) ** BANDS

    assert round(found(0.8), 3) == 0.998
    assert round(found(0.5), 2) in (0.28, 0.3)
    assert found(0.25) < 0.006


def test_large_group_of_the_same_text_leaves_one() -> None:
    rng = random.Random(1)
    base = sentence(rng)
    texts = [base + " " * i for i in range(300)] + [f"{base} end{i}" for i in range(300)]
    drops = resolve(prompt_keys(prompts(texts)))
    # Two of these share 38 of at most 40 trigrams.
    assert len(texts) - len(drops) == 1


def test_empty_and_wordless_texts_are_alike_only_if_equal() -> None:
    frame = prompts(["!!!", "???", "!!! ", "one", "One"])
    drops = resolve(prompt_keys(frame))
    assert drops["reason"].to_list() == ["exact_duplicate"] * 2


LONG_A = "The moon pulls the sea towards itself, and so there are two high tides on nearly every day of the year."
LONG_B = "Tides come from wind over the open ocean, which pushes the water to the coast and lets it fall back again."


def frame_of(*rows: dict[str, Any]) -> pl.DataFrame:
    return rows_frame(list(rows), Pairs)


def test_exchanged_responses_are_an_exact_duplicate() -> None:
    one = pair("How do tides work?", LONG_A, LONG_B)
    other = pair("how do  tides work?", LONG_B.upper(), LONG_A)
    assert one["pair_id"] != other["pair_id"]
    drops = resolve(pair_keys(frame_of(one, other)))
    assert drops["reason"].to_list() == ["exact_duplicate"]


def test_near_duplicate_pairs_must_agree_in_prompt_and_context() -> None:
    def rows(prompt: str, context: str | None) -> list[str]:
        drops = resolve(
            pair_keys(
                frame_of(
                    pair("Please tell me in some detail how the tides of the sea work.", LONG_A, LONG_B),
                    pair(prompt, LONG_A + " Yes.", LONG_B, context),
                )
            ),
            other_prompt="drop",
        )
        return drops["reason"].to_list()

    assert rows("Please tell me in some detail how the tides of the sea work!", None) == ["near_duplicate"]
    assert rows("Why is my cat afraid of water?", None) == ["same_responses_other_prompt"]
    assert rows("Please tell me in some detail how the tides of the sea work!", "Prefer brevity.") == []


def test_twins_under_opposite_contexts_are_never_duplicates() -> None:
    more = pair("How do tides work?", LONG_A, LONG_B, "Prefer the response that goes into more detail, please.")
    less = pair("How do tides work?", LONG_A, LONG_B, "Prefer the response that goes into less detail, please.")
    assert len(resolve(pair_keys(frame_of(more, less)), other_prompt="drop")) == 0


def test_short_responses_may_recur_under_other_prompts() -> None:
    frame = frame_of(pair("Is water wet?", "Yes.", "No."), pair("Is fire cold?", "Yes.", "No."))
    assert len(resolve(pair_keys(frame), other_prompt="drop")) == 0


def test_other_prompts_are_kept_unless_asked_for() -> None:
    frame = frame_of(pair("How do tides work?", LONG_A, LONG_B), pair("Why is my cat afraid?", LONG_A, LONG_B))
    assert len(resolve(pair_keys(frame))) == 0
    assert len(resolve(pair_keys(frame), other_prompt="drop")) == 1


def test_nothing_gives_nothing() -> None:
    assert len(resolve(pl.DataFrame(schema=KEYS))) == 0
    assert prompt_keys(prompts([])).schema == pl.Schema(KEYS)


def unit(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:  # type: ignore[type-arg]
    v = rng.normal(size=(n, d)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@given(seed=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_semantic_duplicates_against_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, 40)
    copies = vectors[:20] + 0.02 * rng.normal(size=(20, 8)).astype(np.float32)
    vectors = np.concatenate([vectors, copies / np.linalg.norm(copies, axis=1, keepdims=True)])
    ids = [f"{i:03d}" for i in rng.permutation(len(vectors))]
    drops = semantic_duplicates(ids, vectors, 0.95)
    cosine = {(a, b): float(vectors[i] @ vectors[j]) for i, a in enumerate(ids) for j, b in enumerate(ids)}
    left = sorted(set(ids) - set(drops["id"]))
    assert all(cosine[a, b] < 0.95 for i, a in enumerate(left) for b in left[i + 1 :])
    for row in drops.to_dicts():
        assert row["kept_id"] in left
        assert row["kept_id"] < row["id"]
        assert row["similarity"] == pytest.approx(cosine[row["id"], row["kept_id"]], abs=1e-5)
    order = rng.permutation(len(ids))
    again = semantic_duplicates([ids[i] for i in order], vectors[order], 0.95)
    assert again["id"].to_list() == drops["id"].to_list()


def test_semantic_groups_are_not_mixed_and_bad_vectors_are_refused() -> None:
    vectors = np.ones((2, 4), dtype=np.float32) / 2
    assert len(semantic_duplicates(["a", "b"], vectors, 0.9)) == 1
    assert len(semantic_duplicates(["a", "b"], vectors, 0.9, groups=["x", "y"])) == 0
    with pytest.raises(ValueError, match="unit length"):
        semantic_duplicates(["a", "b"], 2 * vectors)
    with pytest.raises(ValueError, match="1 ids"):
        semantic_duplicates(["a"], vectors)
