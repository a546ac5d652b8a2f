"""One SQL statement over Parquet files, in a DuckDB that has nothing to write to and nothing else to read.

The database is in memory, its transaction is read-only, DuckDB's own file systems are off, and the one file system it
has left (`PartFiles`) opens the files named in advance, for reading. The workspace may therefore be read-only too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl
from fsspec import AbstractFileSystem

from schemas.errors import UsageError, WorkspaceError
from transforms.publish.catalog import create_view

SECONDS = 300.0
MEMORY = "50%"  # of the machine's
_ELSEWHERE = "for more, open catalog.duckdb (`prefine catalog`) with a DuckDB of your own"


def query(
    sql: str,
    views: Mapping[str, Sequence[str]],
    frames: Mapping[str, pl.DataFrame],
    fs: Any,
    limit: int | None = None,
    seconds: float = SECONDS,
) -> tuple[list[str], list[Any]]:
    """Column names and rows of one statement.

    Args:
        sql: one statement.
        views: view -> paths or URLs of its Parquet files.
        frames: view -> its rows, of what lies in no file.
        fs: the fsspec file system of the files.
        limit: at most this many rows.
        seconds: how long the statement may take.

    Raises:
        UsageError: it is not one statement, DuckDB refuses it, or it needs more than `seconds` or `MEMORY`.
        WorkspaceError: a file is missing or damaged.
    """
    files = PartFiles(fs, [file for paths in views.values() for file in paths])
    with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": ""}) as connection:
        connection.register_filesystem(files)
        for name, frame in frames.items():
            connection.register(name, frame.to_arrow())
        for name, paths in views.items():
            try:
                create_view(connection, name, [files.address_of[path] for path in paths])
            except duckdb.Error as error:
                raise WorkspaceError(f"cannot read {name}: {files.named(str(error))}") from None
        connection.execute("SET allowed_paths = $paths", {"paths": list(files.path_of)})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        connection.execute("BEGIN TRANSACTION READ ONLY")
        stop = threading.Timer(seconds, connection.interrupt)
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1:
                raise UsageError(f"SQL: {len(statements)} statements; write one")
            stop.start()
            result = connection.execute(statements[0])
            rows = result.fetchall() if limit is None else result.fetchmany(limit)
        except duckdb.InterruptException:
            raise UsageError(f"SQL: stopped after {seconds:g} s; {_ELSEWHERE}") from None
        except duckdb.OutOfMemoryException:
            raise UsageError(f"SQL: needs more than {MEMORY} of this machine's memory; {_ELSEWHERE}") from None
        except duckdb.Error as error:
            raise UsageError(f"SQL: {files.named(str(error))}") from None
        finally:
            stop.cancel()
        return [column[0] for column in result.description or []], rows


class PartFiles(AbstractFileSystem):  # type: ignore[misc]
    """Files of another file system under plain names, which DuckDB cannot take for patterns; they can only be read.

    Args:
        fs: the file system they lie on.
        paths: their paths there.
    """

    protocol = "parts"
    cachable = False

    def __init__(self, fs: Any, paths: Sequence[str]) -> None:
        super().__init__()
        self._fs = fs
        self.address_of = {path: f"{self.protocol}://{i}.parquet" for i, path in enumerate(dict.fromkeys(paths))}
        self.path_of = {address: path for path, address in self.address_of.items()}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type of a file.

        Raises:
            FileNotFoundError: it is none of those named.
        """
        found: dict[str, Any] = self._fs.info(self._there(path))
        return {"name": path, "size": found["size"], "type": "file"}

    def modified(self, path: str) -> Any:
        """When a file was changed last."""
        return self._fs.modified(self._there(path))

    def named(self, text: str) -> str:
        """A message with the files' own paths in it."""
        for address, path in self.path_of.items():
            text = text.replace(address, path)
        return text

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path}: nothing can be written")
        return self._fs.open(self._there(path), "rb")

    def _there(self, path: str) -> str:
        address = f"{self.protocol}://{path.removeprefix(f'{self.protocol}://')}"
        if address not in self.path_of:
            raise FileNotFoundError(path)
        return self.path_of[address]
