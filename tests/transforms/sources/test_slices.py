"""Slices cover a source exactly once, are small values, and change their fingerprint with the content only."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.transforms.sources.support import SUFFIXES, preferences, read_path, source, write
from transforms.sources.count import count_rows
from transforms.sources.read import read
from transforms.sources.slices import slices


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"p{i}", "response_a": f"x{i}", "response_b": "y", "label": "a"} for i in range(start, start + n)
    ]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.sampled_from([b"", b"{}", b'{"a": 1}', b"\r", b"broken"]), min_size=1, max_size=20),
    last=st.booleans(),
    size=st.integers(1, 7),
)
def test_jsonl_slices_are_whole_lines_and_cover_the_file(
    lines: list[bytes], last: bool, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = b'{"prompt": "p"}\n' + b"\n".join(lines) + (b"\n" if last else b"")
    path = tmp_path_factory.mktemp("s") / "f.jsonl"
    path.write_bytes(data)
    cut = slices(source(kind="prompts", path="f.jsonl"), path.parent, rows_per_slice=size)
    assert b"".join(data[s.offset : s.offset + s.length] for s in cut) == data
    for piece in cut:
        part = data[piece.offset : piece.offset + piece.length]
        assert len(part.splitlines() if b"\r" not in part else part.rstrip(b"\n").split(b"\n")) <= size
        assert piece.offset == 0 or data[piece.offset - 1 : piece.offset] == b"\n"
        assert piece.first_row == 1 + data[: piece.offset].count(b"\n")
    assert sum(s.n_rows for s in cut) == data.count(b"\n") + (not data.endswith(b"\n"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_slices_are_picklable_and_hold_no_machine_path_in_ids(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"f.{suffix}", rows(7))
    cut = slices(source(path=str(tmp_path / f"f.{suffix}")), Path("elsewhere"), rows_per_slice=3)
    assert pickle.loads(pickle.dumps(cut)) == cut
    assert {s.ref for s in cut} == {f"f.{suffix}"}
    refs = [ref for s in cut for ref in read(s, source(path="f")).pairs["origin_ref"].to_list()]
    assert refs == [f"f.{suffix}:{i}" for i in range(1, 8)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fingerprints_follow_content_not_time(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"f.{suffix}", rows(4))
    config = source(path=path.name)

    def prints(n: int = 2) -> list[str]:
        return [s.fingerprint for s in slices(config, tmp_path, rows_per_slice=n)]

    before = prints()
    assert len(set(before)) == len(before)
    os.utime(path, (1, 1))
    assert prints() == before
    changed = rows(4)
    changed[3]["label"] = "b"
    write(path, changed)
    assert prints() != before


def test_appended_lines_leave_earlier_slices_as_they_were(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", rows(4))
    before = slices(source(path=path.name), tmp_path, rows_per_slice=2)
    write(path, rows(6))
    after = slices(source(path=path.name), tmp_path, rows_per_slice=2)
    assert after[:2] == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_limit_counts_over_all_files(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    write(folder / f"one.{suffix}", rows(4))
    write(folder / "deeper" / f"two.{suffix}", rows(4, start=4))
    everything = read_path(folder, rows_per_slice=3)
    assert everything.rows_in == 8
    assert set(everything.pairs["origin_ref"].str.split(":").list.first()) == {f"one.{suffix}", f"deeper/two.{suffix}"}
    first = read_path(folder, rows_per_slice=3, limit=6)
    assert first.rows_in == 6
    assert preferences(first) < preferences(everything)
    settings_ = {"name": "s", "kind": "pairs", "path": "data"}
    assert count_rows(settings_, tmp_path, None) == 8
    assert count_rows(settings_, tmp_path, 5) == 5


def test_globs_and_their_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", rows(1))
    (tmp_path / "notes.txt").write_text("x")
    found = slices(source(path="[ab].jsonl"), tmp_path)
    assert [s.ref for s in found] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(DataError, match=r"notes.txt is not one of"):
        slices(source(path="*"), tmp_path)


def test_nothing_there_is_an_error_naming_the_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file at 'absent/\*\.csv'"):
        slices(source(path="absent/*.csv"), tmp_path)


@pytest.mark.parametrize("content", ['{"prompt": 1}', "[1, ", "\n"])
def test_a_json_file_that_is_no_array_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(DataError, match="array of objects"):
        slices(source(path="f.json"), tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_no_bytes_is_an_error_also_beside_others(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a.{suffix}", [{"prompt": "p"}])
    (tmp_path / f"b.{suffix}").touch()
    for path in (f"b.{suffix}", f"*.{suffix}", "."):
        with pytest.raises(DataError, match=rf"b\.{suffix} is empty \(0 bytes\)"):
            slices(source(path=path), tmp_path)


def test_missing_columns_are_found_before_anything_is_read(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write(tmp_path / f"f.{suffix}", [{"prompt": "p", "answer": "x"}])
        with pytest.raises(DataError, match=f"f.{suffix}.*Columns there: prompt, answer"):
            slices(source(path=f"f.{suffix}"), tmp_path)


def test_a_data_set_of_the_library_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "f.jsonl", rows(5))
    wanted = preferences(read_path(tmp_path / "f.jsonl"))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "test.jsonl", rows(5))
    datasets.Dataset.from_list(rows(5)).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows(5))}).save_to_disk(str(tmp_path / "split"))
    for name in ("folder", "saved", "split"):
        config = source(dataset=name, split="test")
        cut = slices(config, tmp_path, tmp_path / "scratch", rows_per_slice=2)
        pairs = pl.concat([read(s, config).pairs for s in cut])
        assert set(pairs.select("pair_id", "prompt_id", "source_label").rows()) == wanted
        assert cut == slices(config, tmp_path, tmp_path / "scratch", rows_per_slice=2)
        assert cut[0].ref == f"{name}[test].parquet"


def test_a_data_set_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data set 'empty' .*cannot be loaded"):
        slices(source(dataset="empty"), tmp_path, tmp_path / "scratch")
    with pytest.raises(DataError, match="scratch folder"):
        slices(source(dataset="empty"), tmp_path)
