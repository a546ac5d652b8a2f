from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.pairs import mirrored
from schemas.tables import Votes
from tests.transforms.scorers.pair_rows import LetterEmbedder, frame, pair_row, swapped
from transforms.plugins.registry import find
from transforms.scorers.format import defects

RULES = ("bleu", "checks", "format", "length", "r3", "relevance", "repetition")
CHECKS = json.dumps([{"type": "max_words", "n": 4}, {"type": "contains", "text": "a"}])
words = st.text(alphabet="ab (.`\n", min_size=1, max_size=40)


def rule(name: str, **config: Any) -> Any:
    cls = find("scorers", name)
    return cls(name, cls.Config(**config), seed=0)


def vote(name: str, row: dict[str, Any], **config: Any) -> dict[str, Any] | None:
    rows = rule(name, **config).votes(frame([row]), b"").to_dicts()
    return rows[0] if rows else None


@pytest.mark.parametrize("name", RULES)
@given(texts=st.lists(words, min_size=3, max_size=3, unique=True))
@settings(max_examples=25, deadline=None)
def test_exchanging_responses_mirrors_the_vote(name: str, texts: list[str]) -> None:
    pairs = frame([pair_row(texts[0], texts[1], texts[2], checks=CHECKS, reference="a b a b")])
    votes, mirror = rule(name).votes(pairs, b""), rule(name).votes(swapped(pairs), b"")
    Votes.validate(votes)
    assert votes.height == mirror.height
    for one, two in zip(votes.iter_rows(named=True), mirror.iter_rows(named=True), strict=True):
        assert two["label"] == mirrored(one["label"])
        assert (two["score_a"], two["score_b"]) == (one["score_b"], one["score_a"])
        assert one["p_a"] is None
        assert (one["kind"], one["order"], one["voter"]) == ("rule", "none", name)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_what_it_measures_and_survives_an_empty_bucket(name: str) -> None:
    assert rule(name).measures.endswith(".")
    assert rule(name).fit(frame([]), pl.DataFrame()) == b""
    assert rule(name).votes(frame([]), b"").height == 0


@pytest.mark.parametrize("name", ["checks", "bleu"])
def test_nothing_to_say_is_no_vote(name: str) -> None:
    assert vote(name, pair_row("p", "x", "y")) is None
    assert vote(name, pair_row("p", "x", "y", checks="[]", reference=" ")) is None


def test_checks_counts_what_holds_and_shows_it() -> None:
    got = vote("checks", pair_row("p", "an apple a day keeps", "bob", checks=CHECKS))
    assert got is not None
    assert (got["score_a"], got["score_b"], got["label"]) == (0.5, 0.5, "tie")
    assert json.loads(got["aspects"]) == {
        "checks": ["max_words", "contains"],
        "a": [False, True],
        "b": [True, False],
    }


def test_wrong_checks_are_a_state_with_a_reason() -> None:
    got = vote("checks", pair_row("p", "x", "y", checks='[{"type": "max_wrds"}]'))
    assert got is not None
    assert got["label"] == "invalid"
    assert "max_wrds" in got["detail"]
    assert got["score_a"] is None


def test_length_prefers_the_longer_and_ties_within_the_band() -> None:
    long, short = "word " * 40, "word " * 20
    assert vote("length", pair_row("p", long, short))["label"] == "a"  # type: ignore[index]
    assert vote("length", pair_row("p", long, "word " * 41))["label"] == "tie"  # type: ignore[index]


def test_repetition_is_distinct_over_all_trigrams() -> None:
    got = vote("repetition", pair_row("p", "a b c a b c", "a b c d e f"))
    assert got is not None
    assert (got["score_a"], got["score_b"], got["label"]) == (3 / 4, 1.0, "b")


def test_r3_is_the_product_of_its_three_parts() -> None:
    got = vote("r3", pair_row("cats dogs", "cats purr", "fish swim"))
    assert got is not None
    cosine = 1 / (2**0.5 * 2**0.5)
    assert got["score_a"] == pytest.approx(cosine * 2 / 100 * 1.0)
    assert got["score_b"] == 0.0


def test_relevance_by_embedding_uses_the_cache() -> None:
    scorer = rule("relevance", method="embedding")
    embedder = scorer._embedder = LetterEmbedder()
    pairs = frame([pair_row("aaa", "aab", "jjj")])
    first = scorer.votes(pairs, b"")
    assert first["label"].to_list() == ["a"]
    assert sorted(embedder.bought) == ["aaa", "aab", "jjj"]
    assert scorer.votes(pairs, b"").equals(first)
    assert len(embedder.bought) == 3


def test_bleu_is_sacrebleus_sentence_score() -> None:
    reference = "the cat sat on the mat today"
    row = pair_row("p", reference, "the cat stood on a mat", reference=reference)
    got = vote("bleu", row)
    assert got is not None
    assert got["label"] == "a"
    assert got["score_a"] == pytest.approx(1.0)
    assert got["score_b"] == pytest.approx(
        sacrebleu.sentence_bleu("the cat stood on a mat", [reference], use_effective_order=True).score / 100
    )


def test_bleu_reads_several_references() -> None:
    several = json.dumps(["nothing alike", "exactly this answer"])
    got = vote("bleu", pair_row("p", "exactly this answer", "another", reference=several))
    assert got is not None
    assert got["score_a"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Fine.", []),
        ("  ", ["empty"]),
        ("```python\nx = 1", ["fence"]),
        ("see (this", ["brackets"]),
        ("1) first\n2) second", []),
        ("Sure.\nHuman: and now?", ["role"]),
        ("Done.<|im_end|>", ["template"]),
        ("word " * 25 + "and then the", ["unfinished"]),
    ],
)
def test_format_defects(text: str, wanted: list[str]) -> None:
    assert defects(text) == wanted


def test_format_is_silent_where_both_are_clean() -> None:
    assert vote("format", pair_row("p", "Fine.", "Good.")) is None
    assert vote("format", pair_row("p", "Fine.", "see (this"))["label"] == "a"  # type: ignore[index]
