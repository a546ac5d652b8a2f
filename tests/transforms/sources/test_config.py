"""What a recipe may say of a source, and what it is told when the columns are otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import DataError
from tests.transforms.sources.support import SUFFIXES, preferences, read_rows, source
from transforms.sources.config import label_key
from transforms.sources.detect import detect
from transforms.sources.labels import UnknownLabel, read_label

PAIR = {"prompt": "p", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "x", "colums": {}}, "colums"),
        ({"path": "x", "kind": "triples"}, "triples"),
        ({}, "exactly one of `path` and `dataset`"),
        ({"path": "x", "dataset": "y"}, "exactly one of `path` and `dataset`"),
        ({"path": "x", "columns": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"path": "x", "kind": "prompts", "columns": {"chosen": "q"}}, "unknown field 'chosen'"),
        ({"path": "x", "constants": {"label": "a"}}, "unknown field 'label'"),
        ({"path": "x", "constants": {"context_kind": "mood"}}, "context_kind must be one of"),
        ({"path": "x", "constants": {"tags": "t"}}, "must be a list"),
        ({"path": "x", "constants": {"kind": "k"}, "columns": {"kind": "k"}}, "both `columns` and `constants`"),
        ({"path": "x", "votes": [{"kind": "oracle"}]}, "oracle"),
        ({"path": "x", "labels": {1: "left"}}, "left"),
        ({"path": "x", "limit": 0}, "limit"),
        ({"path": "x", "max_reject_share": 1.5}, "max_reject_share"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        source(**settings)
    assert words in str(error.value)


def test_a_config_is_hashable_by_its_identity_wherever_the_file_lies() -> None:
    one, two = source(path="a.jsonl", limit=3), source(path="b.jsonl")
    assert one.identity == two.identity
    assert one.identity != source(path="a.jsonl", max_chars=5).identity
    assert one.identity != source(path="a.jsonl", name="other").identity


@pytest.mark.parametrize(
    ("present", "form"),
    [
        (["prompt", "chosen", "rejected"], "chosen_rejected"),
        (["chosen", "rejected", "score"], "conversations"),
        (["prompt", "response_a", "response_b", "label"], "labelled"),
        (["prompt", "responses", "scores"], "rated"),
    ],
)
def test_the_columns_tell_the_format(present: list[str], form: str) -> None:
    assert detect(source(path="x"), present, "file").format == form


def test_mapped_columns_decide_between_formats() -> None:
    both = ["prompt", "chosen", "rejected", "response_a", "response_b", "winner"]
    with pytest.raises(DataError, match=r"several formats.*`format`"):
        detect(source(path="x"), both, "file")
    mapped = {"response_a": "response_a", "label": "winner"}
    assert detect(source(path="x", columns=mapped), both, "file").format == "labelled"
    layout = detect(source(path="x", format="chosen_rejected"), both, "file")
    assert (layout.format, layout.columns["chosen"]) == ("chosen_rejected", "chosen")
    assert "response_a" not in layout.taken


@pytest.mark.parametrize(
    ("settings", "present", "words"),
    [
        ({}, ["prompt", "response_a", "respons_b", "label"], ["f.csv", "'response_b'", "did you mean 'respons_b'?"]),
        ({}, ["prompt", "response_a", "response_b", "lable"], ["f.csv", "'label'", "did you mean 'lable'?"]),
        ({"columns": {"label": "winner"}}, ["prompt", "response_a", "response_b", "win"], ["'winner'", "'win'"]),
        ({}, ["a", "b"], ["no pairs that can be recognised", "Columns there: a, b"]),
        ({"format": "rated"}, ["prompt", "responses"], ["'scores'"]),
        (
            {"votes": [{"kind": "human", "labels": "hl"}], "columns": {"label": None}},
            [*PAIR],
            ["votes of kind human", "'hl'"],
        ),
        ({"kind": "prompts"}, ["promt"], ["'prompt'", "did you mean 'promt'?"]),
    ],
)
def test_a_missing_column_is_named_with_file_and_nearest(
    settings: dict[str, Any], present: list[str], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        detect(source(path="x", **settings), present, "f.csv")
    for word in words:
        assert word in str(error.value)


def test_votes_need_one_pair_per_row() -> None:
    config = source(path="x", votes=[{"kind": "human", "labels": "h"}])
    with pytest.raises(DataError, match="one pair per row"):
        detect(config, ["prompt", "responses", "scores", "h"], "f")


def test_a_column_missing_from_the_first_rows_only_is_found() -> None:
    rows = [{"text": "?"}] * 1200 + [{**PAIR, "label": "a"}]
    result = read_rows(rows)
    assert (result.rows_in, result.rows_kept) == (1201, 1)


def test_an_optional_column_of_few_rows_is_read_in_those() -> None:
    rows = [{**PAIR, "label": "a"}] * 1200 + [{**PAIR, "label": "b", "language": "en"}]
    result = read_rows(rows, rows_per_slice=500)
    assert result.pairs["language"].drop_nulls().to_list() == ["en"]


def test_pairs_without_labels_are_read_when_the_recipe_says_so() -> None:
    result = read_rows([PAIR], columns={"label": None})
    assert result.pairs["source_label"].to_list() == [None]
    assert result.votes.is_empty()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("values", [(1, 2, 0), (0, 1, 2), (True, False, None), (1.0, 2.0, 0.0)])
def test_numbers_are_refused_as_labels_until_explained(suffix: str, values: tuple[Any, ...]) -> None:
    rows = [{**PAIR, "prompt": f"p{i}", "label": v} for i, v in enumerate(values)]
    with pytest.raises(DataError, match=r"`labels: \{1: a, 2: b, 0: tie\}`"):
        read_rows(rows, suffix)
    meaning = {value: label for value, label in zip(values, ("a", "b", "tie"), strict=True) if value is not None}
    explained = read_rows(rows, suffix, labels=meaning)
    words = [{**PAIR, "prompt": f"p{i}", "label": label} for i, label in enumerate(("a", "b", "tie"))]
    wanted = preferences(read_rows(words[: len(meaning)]))
    assert {p for p in preferences(explained) if p[2]} == wanted


def test_label_words_and_maps() -> None:
    assert [read_label(v, {}, "w") for v in ("a", "B", " Tie ", None, "", float("nan"))] == [
        *("a", "b", "tie"),
        *(None, None, None),
    ]
    assert read_label("model_a", {"model_a": "a"}, "w") == "a"
    assert read_label("both bad", {"both bad": None}, "w") is None
    assert read_label("b", {"b": "a"}, "w") == "a"
    with pytest.raises(UnknownLabel, match="known labels: 1, a, b, tie"):
        read_label("2", {"1": "a"}, "w")
    assert label_key(1) == label_key(1.0) == label_key("1") == label_key(" 1.00 ") == "1"
    assert label_key(True) == label_key("True") == "true"
    assert label_key("1.5") == "1.5"
