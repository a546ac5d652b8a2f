"""What was written in any format, shape or order is read as the same preferences."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import ANY, patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from schemas.errors import DataError
from schemas.messages import message, messages_id
from schemas.pairs import make_pair, mirrored
from schemas.tables import Pairs, Rejects, Votes
from tests.transforms.sources.support import (
    ANY_TEXT,
    SUFFIXES,
    WORDS,
    assert_conserved,
    preferences,
    read_path,
    read_rows,
)
from transforms.sources.plain import text_ids

LABELS = st.sampled_from(["a", "b", "tie"])


def triples(texts: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str, str]]:
    return st.tuples(texts, texts, texts).filter(
        lambda t: t[1] != t[2] and not (t[1].startswith(t[0]) and t[2].startswith(t[0]))
    )


def expected(prompt: str, first: str, second: str, label: str | None, **fields: Any) -> tuple[str, str, str | None]:
    """The oracle: the pair as the schema's own constructor makes it."""
    asked, one, two = message("user", prompt), message("assistant", first), message("assistant", second)
    row, _ = make_pair([asked], [one], [two], first_label=label, origin="s", **fields)
    return row["pair_id"], row["prompt_id"], row["source_label"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(triples(ANY_TEXT), LABELS), min_size=1, max_size=8))
def test_every_file_format_gives_the_pairs_of_make_pair(
    suffix: str, rows: list[tuple[tuple[str, str, str], str]]
) -> None:
    result = read_rows(
        [{"prompt": p, "response_a": a, "response_b": b, "label": label} for (p, a, b), label in rows], suffix
    )
    assert_conserved(result)
    assert result.rejects.is_empty()
    assert preferences(result) == {expected(p, a, b, label) for (p, a, b), label in rows}
    Pairs.validate(result.pairs.unique("pair_id"))
    Votes.validate(result.votes)


def shapes(prompt: str, chosen: str, rejected: str) -> dict[str, dict[str, Any]]:
    """One preference in every shape that is known."""
    full = [[user(prompt), assistant(answer)] for answer in (chosen, rejected)]
    transcripts = [f"\n\nHuman: {prompt}\n\nAssistant: {answer}" for answer in (chosen, rejected)]
    return {
        "chosen": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        "labelled a": {"prompt": prompt, "response_a": chosen, "response_b": rejected, "label": "a"},
        "labelled b": {"prompt": prompt, "response_a": rejected, "response_b": chosen, "label": "B"},
        "rated": {"prompt": prompt, "responses": [rejected, chosen], "scores": [1.0, 4.5]},
        "messages": {"prompt": [user(prompt)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]},
        "json text": {
            "prompt": json.dumps([user(prompt)]),
            "chosen": json.dumps([assistant(chosen)]),
            "rejected": json.dumps([assistant(rejected)]),
        },
        "conversations": {"chosen": full[0], "rejected": full[1]},
        "prompt repeated in messages": {"prompt": prompt, "chosen": full[0], "rejected": full[1]},
        "transcripts": {"chosen": transcripts[0], "rejected": transcripts[1]},
        "prompt repeated in transcripts": {
            "prompt": f"\n\nHuman: {prompt}\n\nAssistant:",
            "chosen": transcripts[0],
            "rejected": transcripts[1],
        },
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=6, deadline=None)
@given(triple=triples(WORDS))
def test_every_shape_gives_the_same_pair(suffix: str, triple: tuple[str, str, str]) -> None:
    for shape, row in shapes(*triple).items():
        result = read_rows([row], suffix)
        assert result.rejects.is_empty(), (shape, result.rejects["detail"].to_list())
        assert preferences(result) == {expected(*triple, "a")}, shape


@settings(max_examples=15, deadline=None)
@given(
    turns=st.lists(st.tuples(WORDS, WORDS), max_size=3),
    last=WORDS,
    answers=st.tuples(WORDS, WORDS).filter(lambda t: t[0] != t[1]),
)
def test_the_prompt_of_two_conversations_is_their_common_beginning(
    turns: list[tuple[str, str]], last: str, answers: tuple[str, str]
) -> None:
    before = [m for question, answer in turns for m in (user(question), assistant(answer))] + [user(last)]
    result = read_rows([{"chosen": [*before, assistant(answers[0])], "rejected": [*before, assistant(answers[1])]}])
    row = result.pairs.row(0, named=True)
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [(m["role"], m["content"]) for m in before]
    assert {row["response_a"][0]["content"], row["response_b"][0]["content"]} == set(answers)


def test_conversations_that_part_at_a_users_turn_part_one_answer_earlier() -> None:
    chosen = [user("q"), assistant("x"), user("thanks"), assistant("welcome")]
    rejected = [user("q"), assistant("x"), user("why?"), assistant("because")]
    row = read_rows([{"chosen": chosen, "rejected": rejected}]).pairs.row(0, named=True)
    assert [m["content"] for m in row["prompt"]] == ["q"]
    assert {len(row["response_a"]), len(row["response_b"])} == {3}


def test_a_prompt_repeated_in_plain_text_is_cut_off_and_said_so() -> None:
    prompt = "Name a colour of the flag of Italy."
    result = read_rows([{"prompt": prompt, "chosen": f"{prompt}\nGreen.", "rejected": f"{prompt}\nBlue."}])
    assert preferences(result) == {expected(prompt, "Green.", "Blue.", "a")}
    assert result.pairs["tags"].to_list() == [["prompt_stripped"]]
    kept = read_rows(
        [{"prompt": prompt, "chosen": f"{prompt}\nGreen.", "rejected": f"{prompt}\nBlue."}], strip_prompt="never"
    )
    assert preferences(kept) == {expected(prompt, f"{prompt}\nGreen.", f"{prompt}\nBlue.", "a")}


def test_answers_that_begin_with_a_short_prompt_are_left_alone() -> None:
    result = read_rows([{"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"}])
    assert preferences(result) == {expected("Hi", "Hi there", "Hi you", "a")}


def test_two_plain_texts_share_their_beginning_up_to_a_word() -> None:
    result = read_rows([{"chosen": "The sky is blue.", "rejected": "The sky is black."}])
    assert preferences(result) == {expected("The sky is", "blue.", "black.", "a")}


@settings(max_examples=20, deadline=None)
@given(
    prompt=WORDS,
    rated=st.lists(st.tuples(WORDS, st.integers(-3, 3)), min_size=2, max_size=5, unique_by=lambda r: r[0]),
)
def test_rated_responses_give_all_pairs_and_ties_where_scores_are_equal(
    prompt: str, rated: list[tuple[str, int]]
) -> None:
    row = {"prompt": prompt, "responses": [r for r, _ in rated], "scores": [s for _, s in rated]}
    result = read_rows([row])
    assert_conserved(result)
    wanted = {
        expected(prompt, first, second, "a" if s > t else "b" if s < t else "tie")
        for i, (first, s) in enumerate(rated)
        for second, t in rated[i + 1 :]
    }
    assert preferences(result) == wanted
    assert (result.pairs["response_a"] != result.pairs["response_b"]).all()
    tie = pl.col("source_label") == "tie"
    assert result.pairs.filter(tie)["source_strength"].null_count() == result.pairs.filter(tie).height
    assert (result.pairs.filter(~tie)["source_strength"] > 0).all()
    scores = {r: float(s) for r, s in rated}
    joined = result.pairs.join(result.votes, on="pair_id")
    for pair in joined.iter_rows(named=True):
        assert pair["score_a"] == scores[pair["response_a"][0]["content"]]
        assert pair["score_b"] == scores[pair["response_b"][0]["content"]]
    best = read_rows([row], pairing="best_worst")
    assert best.pairs.height == 1
    assert preferences(best) <= wanted
    assert best.pairs["source_strength"].to_list() == [max(scores.values()) - min(scores.values()) or None]


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(triples(ANY_TEXT), LABELS), min_size=1, max_size=6))
def test_exchanged_columns_with_mirrored_labels_are_the_same_data(
    rows: list[tuple[tuple[str, str, str], str]],
) -> None:
    ways = []
    for exchange in (False, True):
        written = []
        for (p, a, b), label in rows:
            first, second, said = (b, a, mirrored(label)) if exchange else (a, b, label)
            models = ("m2", "m1") if exchange else ("m1", "m2")
            written.append(
                {
                    **{"prompt": p, "response_a": first, "response_b": second, "label": said},
                    **{"model_a": models[0], "model_b": models[1]},
                    "humans": [said],
                    "judges": [{"judge": "j|ba" if exchange else "j|ab", "label": said}],
                }
            )
        votes = [
            {"kind": "human", "labels": "humans"},
            {"kind": "judge", "column": "judges", "order_suffix": True},
        ]
        ways.append(read_rows(written, votes=votes))
    assert_frame_equal(ways[0].pairs, ways[1].pairs)
    assert_frame_equal(ways[0].votes.sort("vote_id"), ways[1].votes.sort("vote_id"))


ODD = st.one_of(st.none(), st.integers(-2, 2), st.just(""), st.just("  "), st.lists(st.text(max_size=3), max_size=2))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.one_of(ANY_TEXT, ODD, WORDS.map(lambda t: [user(t)])),
            "response_a": st.one_of(ANY_TEXT, ANY_TEXT, ODD),
            "response_b": st.one_of(ANY_TEXT, ANY_TEXT, WORDS.map(lambda t: [assistant(t)]), ODD),
            "label": st.sampled_from(["a", "B", "tie", None, "maybe", ""]),
        },
        optional={
            "context": st.one_of(WORDS, ODD),
            "context_kind": st.sampled_from(["criterion", "mood", None]),
            "strength": st.sampled_from([1, 2.5, 0, -3.0, None, "2", "much"]),
            "group_id": st.sampled_from([1, "g", None, 2.5, True]),
            "tags": st.sampled_from([["x"], None, "y", 3]),
            "other": st.sampled_from([1, None, {"k": 1.5}]),
        },
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, size=st.integers(1, 12))
def test_slices_of_any_size_and_the_careful_path_alone_give_the_same_union(
    rows: list[dict[str, Any]], size: int
) -> None:
    def outcome(rows_per_slice: int) -> Any:
        try:
            return read_rows(rows, rows_per_slice=rows_per_slice)
        except DataError as error:
            return str(error)

    whole, cut = outcome(len(rows)), outcome(size)
    with patch("transforms.sources.read.take_plain", lambda *_: pl.DataFrame({"index": []})):
        careful = outcome(len(rows))
    if isinstance(whole, str):
        assert isinstance(cut, str)
        assert isinstance(careful, str)
        return
    assert_conserved(whole)
    Rejects.validate(whole.rejects)
    for other in (cut, careful):
        assert_conserved(other)
        assert other.rows_in == whole.rows_in
        for name, key in (("pairs", "origin_ref"), ("votes", "vote_id"), ("rejects", "record_id")):
            mine, theirs = (getattr(r, name).sort(key) for r in (whole, other))
            assert_frame_equal(mine.unique(key, maintain_order=True), theirs.unique(key, maintain_order=True))


@given(text=ANY_TEXT, role=st.sampled_from(["user", "assistant"]))
def test_text_ids_are_the_ids_of_messages(text: str, role: str) -> None:
    assert text_ids([text], role) == [messages_id([message(role, text)])]  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_are_preserved_to_the_byte(suffix: str) -> None:
    odd = "\ufeffa\x00b\r\nc\u202ed\u2028e\x85f\u200d\tg "
    result = read_rows([{"prompt": odd, "response_a": odd + "1", "response_b": "x", "label": "a"}], suffix)
    row = result.pairs.row(0, named=True)
    assert row["prompt"][0]["content"] == odd
    assert odd + "1" in (row["response_a"][0]["content"], row["response_b"][0]["content"])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_optional_fields_and_everything_else_are_kept(suffix: str) -> None:
    row = {
        **{"prompt": "p", "response_a": "x", "response_b": "y", "label": "b", "strength": -2},
        **{"ctx": ["one", "two"], "kind": "chat", "language": "en", "user_id": 7, "topic": "t", "id": "r1"},
        **{"tags": ["u"], "checks": [{"type": "max_words", "n": 3}], "reference": "x", "none": None},
    }
    result = read_rows([row], suffix, columns={"context": "ctx"}, constants={"context_kind": "documents"})
    pair = result.pairs.row(0, named=True)
    assert pair["context"] == "one\n\ntwo"
    assert (pair["context_kind"], pair["kind"], pair["language"], pair["user_id"]) == ("documents", "chat", "en", "7")
    assert (pair["tags"], pair["reference"], pair["source_strength"]) == (["u"], "x", 2.0)
    assert json.loads(pair["checks"]) == [{"type": "max_words", "n": 3}]
    assert json.loads(pair["meta"]) == {"topic": "t", "id": "r1"}


@pytest.mark.parametrize("meta", [{"logs": [1, 2], "topic": "old"}, '{"logs": [1, 2], "topic": "old"}'])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_meta_column_gives_its_fields(suffix: str, meta: object) -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "meta": meta, "topic": "new"}
    kept = read_rows([row], suffix).pairs["meta"][0]
    assert json.loads(kept) == {"logs": [1, 2], "topic": "new"}


def test_a_meta_column_of_text_stays_text() -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "meta": "{not json"}
    assert json.loads(read_rows([row]).pairs["meta"][0]) == {"meta": "{not json"}


def test_models_follow_their_responses() -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "model_chosen": "good", "model_rejected": "bad"}
    pair = read_rows([row]).pairs.row(0, named=True)
    models = {pair["response_a"][0]["content"]: pair["model_a"], pair["response_b"][0]["content"]: pair["model_b"]}
    assert models == {"x": "good", "y": "bad"}


def test_parquet_types_that_json_lacks_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt": pl.Series(["p", "q"], dtype=pl.Categorical),
            "response_a": ["x", "x"],
            "response_b": ["y", "y"],
            "label": pl.Series(["a", "tie"], dtype=pl.Enum(["a", "b", "tie"])),
            "when": [date(2024, 1, 2), None],
            "big": pl.Series([2**100, None], dtype=pl.Int128),
            "raw": [b"\xff", None],
            "nan": [float("nan"), 1.0],
        }
    )
    frame.write_parquet(tmp_path / "f.parquet")
    result = read_path(tmp_path / "f.parquet")
    assert preferences(result) == {expected("p", "x", "y", "a"), expected("q", "x", "y", "tie")}
    metas = [json.loads(meta) for meta in result.pairs["meta"]]
    assert metas == [{"when": ANY, "big": ANY, "raw": "b'\\xff'", "nan": ANY}, {"nan": 1.0}]
    assert "2024" in metas[0]["when"]
