"""Writing rows in every file format and reading them back as one `Ingested`."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

from transforms.sources.config import SOURCE_ADAPTER, PairsSource, PromptsSource
from transforms.sources.read import Ingested, read
from transforms.sources.slices import slices

SUFFIXES = ("parquet", "jsonl", "json", "csv")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda t: bool(t.strip()) and not t.lstrip().startswith("[{") and not t.startswith("\n\nHuman:")
)
# Free of the marks by which a transcript's turns are told apart, and of space at the ends.
WORDS = st.lists(st.text("abcdé東🙂,.", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join)


def source(**settings: Any) -> PairsSource | PromptsSource:
    return SOURCE_ADAPTER.validate_python({"name": "s", "kind": "pairs", **settings})


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows in the format that the path's suffix names; nested values as JSON text where there are only texts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pl.DataFrame([{n: row.get(n) for n in names} for row in rows], infer_schema_length=None).write_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(names)
            for row in rows:
                cells = (row.get(name, "") for name in names)
                writer.writerow([c if isinstance(c, str) else "" if c is None else json.dumps(c) for c in cells])
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_path(path: Path, rows_per_slice: int = 10_000, **settings: Any) -> Ingested:
    """All of a file's (or folder's) slices, joined."""
    config = source(path=path.name, **settings)
    return join([read(piece, config) for piece in slices(config, path.parent, rows_per_slice=rows_per_slice)])


def join(parts: Sequence[Ingested]) -> Ingested:
    frames = [pl.concat([getattr(part, name) for part in parts]) for name in ("prompts", "pairs", "votes", "rejects")]
    return Ingested(*frames, rows_in=sum(p.rows_in for p in parts), rows_kept=sum(p.rows_kept for p in parts))


def read_rows(
    rows: Sequence[dict[str, Any]], suffix: str = "jsonl", rows_per_slice: int = 10_000, **settings: Any
) -> Ingested:
    with tempfile.TemporaryDirectory() as folder:
        return read_path(write(Path(folder) / f"rows.{suffix}", rows), rows_per_slice, **settings)


def read_bytes(data: bytes, suffix: str = "jsonl", rows_per_slice: int = 10_000, **settings: Any) -> Ingested:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{suffix}"
        path.write_bytes(data)
        return read_path(path, rows_per_slice, **settings)


def assert_conserved(result: Ingested) -> None:
    """Every row is kept, or rejected exactly once."""
    whole = result.rejects.filter(~pl.col("record_id").str.contains("#"))
    assert whole["record_id"].n_unique() == whole.height
    assert result.rows_in == result.rows_kept + whole.height
    rows = (
        result.pairs["origin_ref"].str.split("#").list.first()
        if result.pairs.height
        else pl.Series([], dtype=pl.String)
    )
    assert rows.n_unique() + result.prompts.height == result.rows_kept
    assert not set(rows) & set(whole["record_id"])


def preferences(result: Ingested) -> set[tuple[str, str, str | None]]:
    """(pair, prompt, label) of every pair."""
    return set(result.pairs.select("pair_id", "prompt_id", "source_label").rows())
