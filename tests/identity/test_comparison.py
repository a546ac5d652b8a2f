"""The comparison sees what it must see and lets pass what it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.identity.cases import CASES, NOT_COVERED, uncovered, used_plugins
from tests.identity.comparison import compare_folders, compare_values

CARD = "# small\n\n3 rows\n\nRow hash `{row}`, recipe hash `abc123`, code {code}.\n"
EXPORT = "---\nconfigs: []\n---\nExporter, options, seed: {options}\n"
TRAIN, MANIFEST, README, REPORT = (
    "v0001/data/train-00000.parquet",
    "v0001/manifest.json",
    "v0001/README.md",
    "report.html",
)


def write_version(root: Path, code: str = "0.1.0+aaaaaaaaaaaa") -> Path:
    """A small published version as one code would write it."""
    folder = root / "v0001"
    (folder / "data").mkdir(parents=True)
    pl.DataFrame({"pair_id": ["x", "y", "z"], "p": [0.5, 0.25, float("nan")]}).write_parquet(root / TRAIN)
    (root / README).write_text(CARD.format(row="fff", code=code))
    (folder / REPORT).write_text(f"<html>{code}</html>")
    entries = {name: {"bytes": len(code), "rows": None, "sha256": code} for name in ("README.md", REPORT)}
    entries["data/train-00000.parquet"] = {"bytes": 9, "rows": 3, "sha256": "same"}
    write_manifest(root, {"code_version": code, "recipe": 'text: "code_version"', "files": entries, "voters": {"h": 1}})
    (folder / "evidence.jsonl").write_text('{"vote": 1}\n{"vote": 2}\n')
    return root


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    (root / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return write_version(tmp_path / "old"), write_version(tmp_path / "new", code="0.2.0+bbbbbbbbbbbbbbb")


def places(two: tuple[Path, Path]) -> list[tuple[str, str]]:
    return [(found.file, found.where) for found in compare_folders(*two)]


def edit_manifest(root: Path, **fields: Any) -> None:
    write_manifest(root, json.loads((root / MANIFEST).read_text()) | fields)


def test_what_names_the_code_may_differ(two: tuple[Path, Path]) -> None:
    assert (two[0] / MANIFEST).read_bytes() != (two[1] / MANIFEST).read_bytes()
    assert compare_folders(*two) == []


def test_fields_that_the_change_is_meant_to_alter_may_be_allowed(two: tuple[Path, Path]) -> None:
    edit_manifest(two[1], recipe_hash="def", inputs={"s": "t"})
    card = two[1] / README
    card.write_text(card.read_text().replace("`abc123`", "`def456`"))
    assert {(found.file, found.where) for found in compare_folders(*two, allowed=["recipe_hash"])} == {
        (MANIFEST, "inputs")
    }
    assert compare_folders(*two, allowed=["recipe_hash", "inputs"]) == []


def test_a_changed_value_is_found_by_column_and_row(two: tuple[Path, Path]) -> None:
    pl.DataFrame({"pair_id": ["x", "y", "z"], "p": [0.5, 0.26, float("nan")]}).write_parquet(two[1] / TRAIN)
    assert places(two) == [(TRAIN, "column p, row 1")]


def test_a_changed_number_of_rows_type_or_encoding_is_found(two: tuple[Path, Path]) -> None:
    rows = pl.read_parquet(two[1] / TRAIN)
    for frame, where in ((rows.head(2), "rows"), (rows.cast({"p": pl.Float32}), "schema")):
        frame.write_parquet(two[1] / TRAIN)
        assert places(two) == [(TRAIN, where)]
    rows.write_parquet(two[1] / TRAIN, compression="uncompressed")
    assert places(two) == [(TRAIN, "equal rows in other bytes")]


def test_missing_and_new_files_are_found(two: tuple[Path, Path]) -> None:
    (two[1] / TRAIN).unlink()
    (two[1] / "v0001" / "more.txt").touch()
    assert places(two) == [(TRAIN, ""), ("v0001/more.txt", "")]
    assert [(d.old, d.new) for d in compare_folders(*two)] == [("there", "missing"), ("missing", "there")]


def test_of_a_card_only_the_code_in_the_last_line_may_differ(two: tuple[Path, Path]) -> None:
    card = (two[1] / README).read_text()
    (two[1] / README).write_text(card.replace("3 rows", "4 rows"))
    assert places(two) == [(README, "line 3, byte 0")]
    (two[1] / README).write_text(card.replace("`fff`", "`eee`"))
    assert places(two) == [(README, "line 5, byte 10")]


def test_nothing_in_an_exports_readme_may_differ(two: tuple[Path, Path]) -> None:
    for root, options in zip(two, ("[1]", "[2]"), strict=True):
        (root / README).write_text(EXPORT.format(options=options))
    assert places(two) == [(README, "line 4, byte 26")]


@pytest.mark.parametrize("field", ["sha256", "bytes", "rows"])
def test_a_manifests_entry_of_a_table_may_not_differ(two: tuple[Path, Path], field: str) -> None:
    files = json.loads((two[1] / MANIFEST).read_text())["files"]
    files["data/train-00000.parquet"][field] = 7
    edit_manifest(two[1], files=files)
    assert places(two) == [(MANIFEST, f"files.data/train-00000.parquet.{field}")]


def test_other_fields_of_a_manifest_may_not_differ(two: tuple[Path, Path]) -> None:
    edit_manifest(two[1], recipe='text: "code_versions"', voters={"h": 1.0, "j": 2})
    assert places(two) == [(MANIFEST, "recipe"), (MANIFEST, "voters.h"), (MANIFEST, "voters.j")]


def test_the_same_values_in_another_order_are_other_bytes(two: tuple[Path, Path]) -> None:
    manifest = json.loads((two[1] / MANIFEST).read_text())
    (two[1] / MANIFEST).write_text(json.dumps(dict(reversed(manifest.items())), separators=(",", ":")))
    assert [file for file, _ in places(two)] == [MANIFEST]


def test_a_changed_line_is_found(two: tuple[Path, Path]) -> None:
    (two[1] / "v0001" / "evidence.jsonl").write_text('{"vote": 1}\n{"vote": 3}\n')
    assert places(two) == [("v0001/evidence.jsonl", "line 2, byte 9")]


def test_values_are_compared_by_path() -> None:
    old, new = {"a": [1, {"b": 2}], "c": None}, {"a": [1, {"b": 3}, 4], "d": None}
    assert [where for where, _, _ in compare_values(old, new)] == ["a[1].b", "a[2]", "c", "d"]
    assert compare_values(old, old) == []
    assert compare_values(1, True)
    assert compare_values(1, 1.0)


def test_a_plugin_that_no_case_runs_is_named() -> None:
    assert uncovered({"judges": ["logprob", "new_one"], "engines": ["llamacpp"]}) == ["judges/new_one"]
    assert not used_plugins() & set(NOT_COVERED)
    assert {"demo", "pandalm", "hh_harmless", "llmbar", "ukpconvarg", "gpu_judge"} <= set(CASES)
