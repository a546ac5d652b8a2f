"""Bad rows become rejects that say what to do; bad files become errors; nothing is lost and nothing crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError, PrefineError
from schemas.tables import PAYLOAD_LIMIT, Pairs, Rejects
from tests.transforms.sources.support import SUFFIXES, assert_conserved, read_bytes, read_path, read_rows, source, write
from transforms.sources.read import check_rejects

GOOD = {"prompt": "p", "response_a": "x", "response_b": "y", "label": "a"}
RATED = {"prompt": "p", "responses": ["x", "y"], "scores": [1, 2]}


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"prompt": 5}, "bad_prompt", "prompt"),
        ({"prompt": None}, "empty_prompt", "prompt"),
        ({"prompt": " \n"}, "empty_prompt", "prompt"),
        ({"prompt": []}, "empty_prompt", "prompt"),
        ({"prompt": [{"role": "wizard", "content": "x"}]}, "bad_prompt", "prompt"),
        ({"prompt": [{"role": "user", "content": 3}]}, "bad_prompt", "prompt"),
        ({"response_a": ""}, "empty_response", "response_a"),
        ({"response_b": None}, "empty_response", "response_b"),
        ({"response_b": {"text": "x"}}, "bad_response", "response_b"),
        ({"response_b": "x"}, "identical_responses", "response_b"),
        ({"response_b": "y" * 101}, "too_long", "response_b"),
        ({"prompt": "y" * 101}, "too_long", "prompt"),
        ({"label": "left"}, "unknown_label", "label"),
        ({"label": ["a"]}, "unknown_label", "label"),
        ({"strength": "very"}, "bad_number", "strength"),
        ({"context": "c", "context_kind": "mood"}, "bad_field", "context_kind"),
        ({"checks": "short please"}, "bad_field", "checks"),
        ({"tags": [1]}, "bad_field", "tags"),
        ({"kind": 1.5}, "bad_field", "kind"),
    ],
)
def test_a_bad_row_is_rejected_with_reason_and_field(change: dict[str, Any], reason: str, field: str) -> None:
    result = read_rows([GOOD, {**GOOD, **change}, GOOD], max_chars=100)
    assert_conserved(result)
    Rejects.validate(result.rejects)
    assert result.pairs.height == 2
    reject = result.rejects.row(0, named=True)
    assert (reject["reason"], reject["record_id"], reject["stage"]) == (reason, "rows.jsonl:2", "ingest")
    assert field in reject["detail"]
    assert json.loads(reject["payload"]) == {**GOOD, **change}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": [1]}, "length_mismatch"),
        ({"responses": "x"}, "bad_field"),
        ({"scores": None}, "bad_field"),
        ({"responses": ["x", ""]}, "too_few_responses"),
        ({"scores": [1, "high"]}, "too_few_responses"),
        ({"scores": [1, None]}, "too_few_responses"),
        ({"responses": ["x", "x"]}, "identical_responses"),
        ({"models": ["m"]}, "length_mismatch"),
    ],
)
def test_bad_rated_rows(change: dict[str, Any], reason: str) -> None:
    result = read_rows([RATED, {**RATED, **change}])
    assert_conserved(result)
    assert result.rows_kept == 1
    whole = result.rejects.filter(pl.col("record_id") == "rows.jsonl:2")
    assert whole["reason"].to_list() == [reason]


def test_one_bad_response_of_three_costs_its_pairs_only() -> None:
    result = read_rows([{"prompt": "p", "responses": ["x", "", "y"], "scores": [1, 2, 3]}])
    assert_conserved(result)
    assert result.pairs.height == 1
    assert result.rejects.select("record_id", "reason").rows() == [("rows.jsonl:1#1", "empty_response")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "p", "respon', "malformed_json"),
        (b'{"prompt": "\xff", "response_a": "x", "response_b": "y", "label": "a"}', "invalid_utf8"),
        (b'{"prompt": "\\ud800", "response_a": "x", "response_b": "y", "label": "a"}', "lone_surrogate"),
        (b'{"prompt": "p", "response_a": "x", "response_b": "y", "label": NaN}', "malformed_json"),
        (b"[1, 2]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"[" * 5000, "malformed_json"),
    ],
)
def test_an_unreadable_line_costs_one_row(line: bytes, reason: str) -> None:
    good = json.dumps(GOOD).encode()
    result = read_bytes(b"\xef\xbb\xbf" + good + b"\r\n\r\n" + line + b"\n" + good)
    assert_conserved(result)
    assert result.pairs["origin_ref"].to_list() == ["rows.jsonl:1", "rows.jsonl:4"]
    assert result.rejects.select("record_id", "reason").rows() == [("rows.jsonl:3", reason)]


@pytest.mark.parametrize("rows_per_slice", [1, 2, 100])
def test_bad_csv_rows(rows_per_slice: int) -> None:
    data = (
        b"\xef\xbb\xbfprompt,response_a,response_b,label\n"
        b'p,"x, ""q""\r\nnew",y,a\n'
        b"p,\xffx,y,a\n"
        b"\n"
        b"p,x,y,tie,more,cells\n"
        b"p,x\n"
        b"p,x,z,b\n"
    )
    result = read_bytes(data, "csv", rows_per_slice)
    assert_conserved(result)
    assert result.pairs["origin_ref"].to_list() == ["rows.csv:1", "rows.csv:6"]
    texts = {m["content"] for name in ("response_a", "response_b") for (m,) in result.pairs[name].to_list()}
    assert texts == {'x, "q"\r\nnew', "y", "x", "z"}
    assert result.rejects.sort("record_id").select("record_id", "reason").rows() == [
        ("rows.csv:2", "invalid_utf8"),
        ("rows.csv:4", "malformed_csv"),
        ("rows.csv:5", "empty_response"),
    ]


@pytest.mark.parametrize("rows_per_slice", [1, 100])
def test_quotes_inside_unquoted_csv_cells_are_text(rows_per_slice: int) -> None:
    data = b'prompt,response_a,response_b,label\np,a 5" disk,y,a\np,"a, b",y,b\n'
    result = read_bytes(data, "csv", rows_per_slice)
    assert_conserved(result)
    texts = {m["content"] for name in ("response_a", "response_b") for (m,) in result.pairs[name].to_list()}
    assert texts == {'a 5" disk', "a, b", "y"}


@pytest.mark.parametrize("rows_per_slice", [2, 100])
def test_blank_csv_lines_are_no_rows(rows_per_slice: int) -> None:
    data = b"prompt,response_a,response_b,label\np,x,y,a\n\np,x,z,b\n"
    result = read_bytes(data, "csv", rows_per_slice)
    assert_conserved(result)
    assert (result.rows_in, result.rows_kept) == (2, 2)


def test_invalid_utf8_inside_parquet_costs_one_row(tmp_path: Path) -> None:
    raw = pa.array([b"p", b"p\xff", b"q"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, [None, *raw.buffers()[1:]])
    others = {n: pa.array([v] * 3) for n, v in GOOD.items() if n != "prompt"}
    pq.write_table(pa.table({"prompt": text, **others}), tmp_path / "bad.parquet")
    result = read_path(tmp_path / "bad.parquet", rows_per_slice=2)
    assert_conserved(result)
    assert result.pairs["origin_ref"].to_list() == ["bad.parquet:1", "bad.parquet:3"]
    assert result.rejects.select("record_id", "reason").rows() == [("bad.parquet:2", "invalid_utf8")]


def test_a_ten_megabyte_response_is_one_reject_with_a_short_payload() -> None:
    result = read_rows([{**GOOD, "response_a": "x" * 10_000_000}, GOOD])
    assert_conserved(result)
    reject = result.rejects.row(0, named=True)
    assert reject["reason"] == "too_long"
    assert "10000000 characters" in reject["detail"]
    assert "max_chars" in reject["detail"]
    assert len(reject["payload"]) == PAYLOAD_LIMIT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_another_kind_is_an_error_naming_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(bytes(range(256)) * 10)
    if suffix == "jsonl":  # each line fails for itself
        result = read_path(path)
        assert result.rows_kept == 0
        assert_conserved(result)
    else:
        with pytest.raises(DataError, match=f"rows.{suffix}"):
            read_path(path)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    edit = st.tuples(st.integers(0, len(data)), st.integers(0, 8), st.binary(max_size=6))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        out = data
        for at, cut, new in edits:
            out = out[:at] + new + out[at + cut :]
        return out

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def _file_bytes(suffix: str, tmp: Path) -> bytes:
    rows = [{**GOOD, "prompt": f'p{i}, "é"\n'} for i in range(4)]
    return write(tmp / f"seed.{suffix}", rows).read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_give_rejects_or_an_error_and_never_crash(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = data.draw(mutated(_file_bytes(suffix, tmp_path_factory.mktemp("seed"))))
    try:
        result = read_bytes(damaged, suffix, rows_per_slice=2)
    except PrefineError:
        return
    assert_conserved(result)
    Rejects.validate(result.rejects)
    Pairs.validate(result.pairs.unique("pair_id"))


def test_more_rejects_than_allowed_stop_the_source_with_counts_and_an_example() -> None:
    result = read_rows([GOOD, {**GOOD, "label": "left"}, {**GOOD, "prompt": 5}])
    config = source(path="x", max_reject_share=0.5)
    with pytest.raises(DataError, match=r"2 of 3 rows.*1 bad_prompt, 1 unknown_label.*rows.jsonl:2: Field label"):
        check_rejects(config, result.rows_in, result.rows_kept, result.rejects)
    check_rejects(source(path="x", max_reject_share=0.7), result.rows_in, result.rows_kept, result.rejects)


def test_a_source_without_any_usable_row_stops() -> None:
    result = read_rows([{**GOOD, "label": "left"}])
    with pytest.raises(DataError, match="1 of 1 rows"):
        check_rejects(source(path="x", max_reject_share=1.0), 1, 0, result.rejects)
    with pytest.raises(DataError, match="no rows"):
        check_rejects(source(path="x"), 0, 0, result.rejects.clear())
