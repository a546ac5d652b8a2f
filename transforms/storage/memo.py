"""Memo tables: an expensive answer is bought once.

A memo is a folder (one bucket of `generations` or `embeddings`). Every process appends to a journal of its
own, one JSON object per line, handed to the operating system in one `write` before the answer is used, so a
process killed at any moment loses at most the answers still on the wire. `compact` turns journals that
nobody writes any more into one Parquet part. Readers take parts and journals together and keep one row an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import dataframely as dy
import numpy as np
import orjson
import polars as pl

from schemas.ids import hash_bytes
from schemas.tables import Embeddings, Generations, polars_schema, primary_key, rows_frame
from transforms.llm.request import Reply, Request
from transforms.storage.files import file_system, parquet_bytes, read_parquet, write_atomic
from transforms.storage.final_errors import AskingRun, FinalErrors
from transforms.storage.journal import Journal, is_abandoned

_JOURNAL = "journal-*.jsonl"
_PART = "part-*.parquet"
ERROR = "error"  # the state of a reply that is none


class _Folder:
    """Parts and journals of one memo folder, read when first asked."""

    table: type[dy.Schema]
    kept: ClassVar[pl.Expr | None] = None  # the rows of parts that count, where not all do

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._rows: dict[str, bytes | int] | None = None  # id -> journal line, or row number in _frame
        self._frame = pl.DataFrame()
        self._journal = Journal(self.root, "journal")
        self.damaged = 0  # unreadable journal lines, which a killed process leaves at most one each

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._loaded())

    def __contains__(self, key: str) -> bool:
        return key in self._loaded()

    def load(self) -> Self:
        """Read the folder now, rather than at the first question (call it off the event loop)."""
        self._loaded()
        return self

    def close(self) -> None:
        """Close this process's journal; another `put` would start a new one."""
        self._journal.close()

    def _loaded(self) -> dict[str, bytes | int]:
        if self._rows is None:
            self._frame = self._read_parts()
            key = primary_key(self.table)
            rows: dict[str, bytes | int] = {}
            if len(self._frame):
                rows.update((name, index) for index, name in enumerate(self._frame[key].to_list()))
            for path in sorted(self.root.glob(_JOURNAL)):
                for name, line in self._read_journal(path):
                    rows.setdefault(name, line)
            self._rows = rows
        return self._rows

    def _read_parts(self) -> pl.DataFrame:
        fs, _ = file_system(str(self.root))
        frames = [read_parquet(fs, str(path)) for path in sorted(self.root.glob(_PART))]
        if self.kept is not None:
            frames = [frame.filter(self.kept) for frame in frames]
        if not frames:
            return pl.DataFrame(schema=polars_schema(self.table))
        return pl.concat(frames).unique(primary_key(self.table), keep="first", maintain_order=True)

    def _read_journal(self, path: Path) -> Iterable[tuple[str, bytes]]:
        key = primary_key(self.table)
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:  # compacted by another process since it was listed
            return
        for line in lines:
            if not line:
                continue
            try:
                row = orjson.loads(line)
                if row.get("state") != ERROR:
                    yield row[key], line
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                self.damaged += 1

    def _row(self, key: str) -> dict[str, Any] | None:
        place = self._loaded().get(key)
        if place is None:
            return None
        if isinstance(place, int):
            return self._frame.row(place, named=True)
        row: dict[str, Any] = orjson.loads(place)
        return row

    def _append(self, key: str, row: Mapping[str, Any]) -> None:
        rows = self._loaded()
        if key in rows:
            return
        rows[key] = self._journal.append(row)

    def compact(self) -> int:
        """Turn the journals nobody writes any more, and the parts there are, into one Parquet part.

        Returns:
            Rows in the part. A crash on the way leaves rows twice, never none.
        """
        self.close()
        journals = [path for path in sorted(self.root.glob(_JOURNAL)) if is_abandoned(path)]
        old_parts = sorted(self.root.glob(_PART))
        if not journals and len(old_parts) < 2:
            return len(self._read_parts())
        rows = [orjson.loads(line) for path in journals for _, line in self._read_journal(path)]
        key = primary_key(self.table)
        frame = pl.concat([self._read_parts(), rows_frame(rows, self.table)])
        frame = frame.unique(key, keep="first").sort(key)
        data = parquet_bytes(frame)
        fs, _ = file_system(str(self.root))
        part = self.root / f"part-{hash_bytes(data)}.parquet"
        write_atomic(fs, str(part), data)
        for path in [*journals, *old_parts]:
            if path != part:
                path.unlink(missing_ok=True)
        self._rows = None
        return len(frame)

    def frame(self) -> pl.DataFrame:
        """All rows as the table's frame, sorted by id."""
        rows = [row for key in self._loaded() if (row := self._row(key)) is not None]
        return rows_frame(rows, self.table).sort(primary_key(self.table))


class Memo(_Folder):
    """Replies of one bucket by request id. An error is no answer: it is never stored as one, and an old one not read.

    Attributes:
        errors: what was turned away for good.
    """

    table = Generations
    kept = pl.col("state") != ERROR

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.errors = FinalErrors(self.root)

    def load(self) -> Self:
        """Read the folder now, the errors, too."""
        self.errors.load()
        return super().load()

    def close(self) -> None:
        """Close this process's journals."""
        self.errors.close()
        super().close()

    def get(self, request_id: str) -> Reply | None:
        """The stored reply, or None."""
        row = self._row(request_id)
        if row is None:
            return None
        fields = {name: row[name] for name in Reply.__dataclass_fields__ if name in row}
        fields["logprobs"] = orjson.loads(row["logprobs"]) if row.get("logprobs") else None
        return Reply(**fields)

    def put(self, request: Request, reply: Reply, run: AskingRun = AskingRun()) -> None:  # noqa: B008 frozen
        """Store a reply, in the journal before anything else sees it; of errors those that asking again does not cure.

        Args:
            run: who asked.

        Raises:
            WorkspaceError: the disk is full or read-only.
        """
        if reply.state == ERROR:
            if not reply.transient:
                self.errors.put(request.engine, reply, run)
            return
        row = {
            "request_id": reply.request_id,
            "engine": request.engine,
            "model": request.model,
            **{name: getattr(reply, name) for name in _REPLY_COLUMNS},
            "logprobs": None if reply.logprobs is None else orjson.dumps(reply.logprobs).decode(),
        }
        self._append(reply.request_id, row)


_REPLY_COLUMNS = tuple(name for name in polars_schema(Generations) if name in Reply.__dataclass_fields__)


class EmbeddingCache(_Folder):
    """Vectors of one bucket by text id (hash of model and text)."""

    table = Embeddings

    def get(self, ids: Sequence[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """The vectors there are among `ids`, each float32 of shape (dimensions,)."""
        rows = {key: self._row(key) for key in ids}
        return {key: np.asarray(row["vector"], dtype=np.float32) for key, row in rows.items() if row is not None}

    def put(self, ids: Sequence[str], vectors: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Store one vector per id as one Parquet part.

        Args:
            ids: text ids.
            vectors: float32 of shape (len(ids), dimensions).

        Raises:
            ValueError: shapes disagree or a value is not finite.
        """
        if vectors.ndim != 2 or len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids but vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector holds NaN or infinity")
        rows = self._loaded()
        new = [index for index, key in enumerate(ids) if key not in rows]
        if not new:
            return
        added = pl.DataFrame(
            {"text_id": [ids[i] for i in new], "vector": vectors[new].astype(np.float32).tolist()},
            schema=polars_schema(Embeddings),
        ).unique("text_id", keep="first", maintain_order=True)
        data = parquet_bytes(added)
        fs, _ = file_system(str(self.root))
        write_atomic(fs, str(self.root / f"part-{hash_bytes(data)}.parquet"), data)
        start = len(self._frame)
        self._frame = pl.concat([self._frame, added])
        rows.update((key, start + index) for index, key in enumerate(added["text_id"].to_list()))
