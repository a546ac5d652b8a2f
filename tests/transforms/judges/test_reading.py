"""What each judge makes of a reply, against independent arithmetic."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import messages_id
from tests.transforms.judges.fixtures import judge, pair, prompt_text, said, votes_of
from transforms.judges._parsing import json_object, openai_schema, tagged
from transforms.judges._verdicts import bracketed_letter
from transforms.judges.context import with_baseline
from transforms.judges.grm import Critique, summed_opinion
from transforms.judges.listwise import sheets
from transforms.judges.logprob import first_token_opinion, letter_mass
from transforms.judges.nuggets import credit
from transforms.llm.request import Reply, Request

P = st.floats(0.001, 1.0)


@given(P, P, P, P)
def test_letters_are_summed_over_their_spellings(a: float, spaced: float, b: float, tie: float) -> None:
    total = a + spaced + b + tie
    a, spaced, b, tie = (value / total for value in (a, spaced, b, tie))
    tokens = {"A": math.log(a), "▁A": math.log(spaced), "Ġb": math.log(b), "**C": math.log(tie)}
    opinion = first_token_opinion(tokens, ties=True, min_mass=0.5)
    assert opinion.p_first == pytest.approx((a + spaced) / (a + spaced + b))
    assert opinion.aspects is not None
    assert opinion.aspects["p_tie"] == pytest.approx(tie)
    shares = {"a": a + spaced, "b": b, "tie": tie}
    best = max(shares.values())
    assert opinion.label in ("tie", *(label for label, share in shares.items() if share > best - 1e-9))
    if sum(share > best - 1e-9 for share in shares.values()) == 1:
        assert shares[opinion.label] == best


def test_words_that_begin_with_a_letter_are_not_the_letter() -> None:
    assert letter_mass({"Answer": -0.1, "Both": -0.2, "Can": -0.3, "AB": -1.0}) == {"a": 0, "b": 0, "tie": 0}


def test_little_mass_on_the_letters_is_invalid() -> None:
    opinion = first_token_opinion({"The": math.log(0.9), "A": math.log(0.05)}, ties=True, min_mass=0.2)
    assert opinion.label == "invalid"
    assert "'The'" in (opinion.detail or "")


def test_equal_probabilities_tie() -> None:
    assert first_token_opinion({"A": -1.0, "B": -1.0}, ties=False, min_mass=0.1).label == "tie"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('<think>{"a": 0}</think>{"a": 1}', {"a": 1}),
        ('Sure:\n```json\n{"a": 1}\n```\nDone.', {"a": 1}),
        ('first {"a": 0}, finally {"a": {"b": "}"}} ok', {"a": {"b": "}"}}),
        ('{"a": 0} {"a": ', {"a": 0}),
        ("[1, 2]", None),
        ("no", None),
        ("{}}{", {}),
    ],
)
def test_the_last_json_object_counts(text: str, found: dict[str, Any] | None) -> None:
    assert json_object(text) == found


@given(st.text(alphabet='{}[]"\\a:,1 ', max_size=200))
def test_any_text_can_be_searched_for_json(text: str) -> None:
    found = json_object(text)
    assert found is None or isinstance(found, dict)


def test_tags_and_brackets() -> None:
    assert tagged("<x>1</x> <X>2\n</X>", "x") == "2"
    assert tagged("<x>1", "x") is None
    assert bracketed_letter("so [[A]], yes [[ A ]]") == "A"
    assert bracketed_letter("[[A]] or [[B]]") is None
    assert bracketed_letter("[A]") is None


def test_schemas_have_no_limits_that_strict_mode_refuses() -> None:
    text = json.dumps(openai_schema("critique", Critique))
    assert not re.search(r"maxLength|minItems|maxItems|minimum|maximum", text)
    assert '"additionalProperties": false' in text


def critique(first: int, second: int) -> Reply:
    body = {"principles": [{"name": "x", "weight": 100}], "critique": "c", "score_A": first, "score_B": second}
    return Reply("0" * 32, "ok", text=json.dumps(body))


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=8), st.integers(0, 8))
def test_samples_are_summed_and_unreadable_ones_left_out_of_both_sums(scores: list[tuple[int, int]], bad: int) -> None:
    replies = [critique(*both) for both in scores] + [Reply("0" * 32, "ok", text="?")] * bad
    opinion = summed_opinion(replies)
    if len(scores) < bad:
        assert opinion.label == "invalid"
        return
    first, second = sum(a for a, _ in scores), sum(b for _, b in scores)
    assert (opinion.score_first, opinion.score_second) == (first, second)
    assert opinion.label == ("tie" if first == second else "a" if first > second else "b")
    assert opinion.p_first is not None
    assert 0 < opinion.p_first < 1


def test_a_list_shows_every_response_once_and_decides_every_pair() -> None:
    texts = [f"answer {n}" for n in range(5)]
    rows = [pair(texts[i], texts[j]) for i in range(5) for j in range(i)]
    for size in (2, 3, 8):
        made = sheets(rows, size, seed=1)
        assert sum(len(sheet.pairs) for sheet in made) == len(rows)
        for sheet in made:
            assert len(sheet.responses) <= size
            needed = {messages_id(row[side]) for row in sheet.pairs for side in ("response_a", "response_b")}
            assert set(sheet.responses) == needed
    assert len(sheets(rows, 8, seed=1)) == 1


def test_lists_cost_two_requests_and_reproduce_the_scores() -> None:
    quality = {f"answer {n}": 1 + n for n in range(5)}
    rows = [pair(f"answer {i}", f"answer {j}") for i in range(5) for j in range(i)]

    def answer(request: Request) -> Reply:
        shown = re.findall(r"answer \d", prompt_text(request))
        return said(request, json.dumps({"scores": {f"model-{k}": quality[t] for k, t in enumerate(shown, 1)}}))

    votes, asked = votes_of(judge("listwise"), rows, answer)
    assert len(asked) == 2
    assert Counter(vote["order"] for vote in votes) == {"ab": 10, "ba": 10}
    by_id = {row["pair_id"]: row for row in rows}
    for vote in votes:
        row = by_id[vote["pair_id"]]
        assert vote["score_a"] == quality[row["response_a"][0]["content"]]
        assert vote["score_b"] == quality[row["response_b"][0]["content"]]


def test_pairs_with_different_contexts_are_not_put_in_one_list() -> None:
    rows = [pair("x", "y", context=context, context_kind="criterion") for context in ("short", "long")]
    _, asked = votes_of(judge("listwise"), rows, lambda r: said(r, "{}"))
    assert len(asked) == 4
    assert all(("short" in prompt_text(r)) != ("long" in prompt_text(r).split("# Task")[0]) for r in asked)


@given(st.lists(st.tuples(st.sampled_from(["support", "partial", "not_support"]), st.floats(0.1, 5)), min_size=1))
def test_credit_is_a_weighted_mean(labels: list[tuple[Any, float]]) -> None:
    worth = {"support": 1.0, "partial": 0.5, "not_support": 0.0}
    expected = math.fsum(worth[label] * w for label, w in labels) / math.fsum(w for _, w in labels)
    assert credit([label for label, _ in labels], [w for _, w in labels]) == pytest.approx(expected)


def test_nuggets_are_read_in_batches_of_ten_and_shared_between_pairs() -> None:
    meta = json.dumps({"nuggets": [f"fact {n}" for n in range(23)]})
    rows = [pair("left", "right", meta=meta)]
    sizes: list[int] = []

    def answer(request: Request) -> Reply:
        count = len(re.findall(r"^\d+\. fact", prompt_text(request), re.MULTILINE))
        sizes.append(count)
        label = "support" if "left" in prompt_text(request) else "partial"
        return said(request, json.dumps({"labels": [label] * count}))

    (vote,), _ = votes_of(judge("nuggets", max_nuggets=23), rows, answer)
    assert sorted(sizes) == [3, 3, 10, 10, 10, 10]
    assert {vote["score_a"], vote["score_b"]} == {1.0, 0.5}


def test_nuggets_are_drawn_from_the_reference_once() -> None:
    def answer(request: Request) -> Reply:
        if "# Source" in prompt_text(request):
            return said(request, json.dumps({"nuggets": ["Paris is the capital.", "Paris is the capital."]}))
        return said(request, json.dumps({"labels": ["support" if "Paris!" in prompt_text(request) else "not_support"]}))

    row = pair("Paris!", "Rome!", reference="Paris is the capital.")
    (vote,), asked = votes_of(judge("nuggets"), [row], answer)
    assert len(asked) == 3
    assert {vote["score_a"], vote["score_b"]} == {0.0, 1.0}
    assert vote["tokens_in"] == 15


@pytest.mark.parametrize("plugin", ["nuggets", "context"])
def test_a_judge_that_does_not_apply_gives_no_vote_and_asks_nothing(plugin: str) -> None:
    assert votes_of(judge(plugin), [pair()], lambda r: said(r, "")) == ([], [])


def test_the_context_judge_keeps_the_context_free_verdict_beside_its_own() -> None:
    row = pair("short", "a long answer", context="Brevity counts.", context_kind="criterion")
    short = "a" if row["response_a"][0]["content"] == "short" else "b"

    def answer(request: Request) -> Reply:
        text = prompt_text(request)
        short_first = text.index("\nshort\n") < text.index("\na long answer\n")
        likes_short = 0.9 if "Brevity" in text else 0.2
        p = likes_short if short_first else 1 - likes_short
        return said(request, "A", logprobs=[{"A": math.log(p), "B": math.log(1 - p)}])

    votes, asked = votes_of(judge("context"), [row], answer)
    assert len(asked) == 4
    for vote in votes:
        aspects = orjson.loads(vote["aspects"])
        assert vote["label"] == short
        assert aspects["label_without"] != short
        p = 0.9 if short == "a" else 0.1
        assert vote["p_a"] == pytest.approx(p)
        assert aspects["p_a_without"] == pytest.approx(0.2 if short == "a" else 0.8)
        sign = 1 if short == "a" else -1
        assert aspects["shift"] == pytest.approx(sign * (math.log(9) + math.log(4)))
        assert vote["tokens_in"] == 10


def test_a_context_free_failure_leaves_the_vote_standing() -> None:
    under = {"aspects": None, "p_a": 0.7, "label": "a", "tokens_in": 1, "tokens_out": 1, "ms": 1.0}
    without = {"label": "error", "p_a": None, "tokens_in": 0, "tokens_out": 0, "ms": 2.0}
    row = with_baseline(under, without)
    assert (row["label"], row["p_a"], row["ms"]) == ("a", 0.7, 3.0)
    assert orjson.loads(row["aspects"]) == {"label_without": "error"}
