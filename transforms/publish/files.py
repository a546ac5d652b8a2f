"""Deterministic Parquet files from a stream of buckets, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from schemas.ids import hash_json
from schemas.manifest import FileEntry
from schemas.tables import SPLITS, DatasetRows, Pairs, Rejects, Verdicts, Votes, polars_schema
from transforms.storage.files import writing

ROWS_PER_FILE = 50_000
ROW_GROUP = 10_000
_TEXTS = ("prompt", "context", "chosen", "rejected")  # pinned by pair_id and chosen_is
_MODULUS = 2**256

EVIDENCE_SCHEMAS: dict[str, pl.Schema] = {
    # Texts of published pairs stand in data/, those of the others in rejects-*.parquet: no text is stored twice.
    # Their lengths in characters remain, for the report's length bias.
    "pairs": pl.Schema(
        [(k, v) for k, v in polars_schema(Pairs).items() if k not in ("prompt", "context", "response_a", "response_b")]
        + [("length_a", pl.Int64()), ("length_b", pl.Int64())]
    ),
    # `raw` is large and `ms` differs from run to run, which would make equal versions unequal.
    "votes": pl.Schema({k: v for k, v in polars_schema(Votes).items() if k not in ("raw", "ms")}),
    "verdicts": polars_schema(Verdicts),
}
EVIDENCE_ORDER = {
    "pairs": ["prompt_id", "pair_id"],
    "votes": ["pair_id", "voter", "order", "sample", "vote_id"],
    "verdicts": ["prompt_id", "pair_id"],
}


@dataclass(frozen=True)
class Bucket:
    """One bucket's share of a version; a frame may be empty but has its table's columns."""

    rows: pl.DataFrame
    rejects: pl.DataFrame
    pairs: pl.DataFrame
    votes: pl.DataFrame
    verdicts: pl.DataFrame


@dataclass
class Tally:
    """What has been written: counts, order-free hashes and the entry of every file."""

    n_pairs: int = 0
    n_rows: int = 0
    n_rejects: int = 0
    rows_by_split: dict[str, int] = field(default_factory=dict)
    rejects_by_reason: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    row_sum: int = 0
    reject_sum: int = 0
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def row_hash(self) -> str:
        """Hash of the set of rows."""
        return hash_json([self.n_rows, f"{self.row_sum:064x}"])

    @property
    def reject_hash(self) -> str:
        """Hash of the set of rejects."""
        return hash_json([self.n_rejects, f"{self.reject_sum:064x}"])


def write_buckets(buckets: Iterable[Bucket], root: Path, rows_per_file: int = ROWS_PER_FILE) -> Tally:
    """Write data, rejects and evidence under `root`.

    Rows are ordered by (prompt_id, pair_id) within a bucket and buckets stand in the order given, so equal
    buckets give equal bytes. At most `rows_per_file` rows of each table, plus one bucket, are in memory.
    """
    tally = Tally()
    writers = {split: TableWriter(root, f"data/{split}", rows_per_file) for split in SPLITS}
    evidence = {name: TableWriter(root, f"evidence/{name}", rows_per_file * 4) for name in EVIDENCE_SCHEMAS}
    rejects = TableWriter(root, "rejects", rows_per_file)
    for bucket in buckets:
        rows = bucket.rows.select(polars_schema(DatasetRows).names()).sort("prompt_id", "pair_id")
        lost = bucket.rejects.select(polars_schema(Rejects).names()).sort("reject_id")
        _count(tally, bucket, rows, lost)
        for split, writer in writers.items():
            writer.add(rows.filter(pl.col("split") == split))
        rejects.add(lost)
        for name, writer in evidence.items():
            frame: pl.DataFrame = getattr(bucket, name)
            if name == "pairs":
                frame = frame.with_columns(length_a=_length("response_a"), length_b=_length("response_b"))
            writer.add(frame.select(EVIDENCE_SCHEMAS[name].names()).sort(EVIDENCE_ORDER[name]))
    for writer in [*writers.values(), rejects, *evidence.values()]:
        tally.files.update(writer.close())
    return tally


def row_sum(rows: pl.DataFrame) -> int:
    """Sum modulo 2^256 of the SHA-256 of every row: equal for equal sets of rows, whatever their order or files."""
    return _sum_of_hashes(rows.drop(c for c in _TEXTS if c in rows.columns))


def reject_sum(rejects: pl.DataFrame) -> int:
    """The same for rejects, by stage, reason and record."""
    return _sum_of_hashes(rejects.select("stage", "reason", "record_id"))


def file_entry(path: Path, rows: int | None = None) -> FileEntry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, bytes=path.stat().st_size, rows=rows)


def write_parquet(frame: pl.DataFrame, path: Path) -> FileEntry:
    """Write a frame with fixed settings and give its entry."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path, compression="zstd", compression_level=3, statistics=True, row_group_size=ROW_GROUP)
    return file_entry(path, frame.height)


def _length(column: str) -> pl.Expr:
    contents = pl.col(column).list.eval(pl.element().struct.field("content").str.len_chars())
    return contents.list.sum().cast(pl.Int64)


def _sum_of_hashes(frame: pl.DataFrame) -> int:
    texts = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
    hashes = (hashlib.sha256(text.encode()).digest() for text in texts)
    return sum(int.from_bytes(h) for h in hashes) % _MODULUS


def _count(tally: Tally, bucket: Bucket, rows: pl.DataFrame, rejects: pl.DataFrame) -> None:
    tally.n_pairs += bucket.pairs.height
    tally.n_rows += rows.height
    tally.n_rejects += rejects.height
    tally.row_sum = (tally.row_sum + row_sum(rows)) % _MODULUS
    tally.reject_sum = (tally.reject_sum + reject_sum(rejects)) % _MODULUS
    reasons = rejects.select(pl.format("{}/{}", "stage", "reason"))
    for counts, frame in (
        (tally.rows_by_split, rows.select("split")),
        (tally.rejects_by_reason, reasons),
        (tally.actions, bucket.verdicts.select("action")),
    ):
        for value, n in frame.to_series().value_counts().iter_rows():
            counts[value] = counts.get(value, 0) + n


class TableWriter:
    """Collects frames and writes `<stem>-00000.parquet`, `-00001`, ... of exactly `rows_per_file` rows."""

    def __init__(self, root: Path, stem: str, rows_per_file: int) -> None:
        self._root, self._stem, self._rows_per_file = root, stem, rows_per_file
        self._pending: list[pl.DataFrame] = []
        self._height = 0
        self._entries: dict[str, FileEntry] = {}

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        self._pending.append(frame)
        self._height += frame.height
        if self._height >= self._rows_per_file:
            self._flush(final=False)

    def close(self) -> dict[str, FileEntry]:
        """Write what is left; an empty table has one empty file if it is not a split."""
        if self._height or (not self._entries and self._pending and not self._stem.startswith("data/")):
            self._flush(final=True)
        return self._entries

    def _flush(self, final: bool) -> None:
        frame = pl.concat(self._pending)
        whole = frame.height if final else frame.height // self._rows_per_file * self._rows_per_file
        written = frame.head(whole)
        for chunk in written.iter_slices(self._rows_per_file) if whole else [written]:
            name = f"{self._stem}-{len(self._entries):05d}.parquet"
            self._entries[name] = write_parquet(chunk, self._root / name)
        rest = frame.slice(whole)
        self._pending, self._height = [rest], rest.height
