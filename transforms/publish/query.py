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
_MOST_SECONDS = 86_400.0


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
        seconds: how long the statement may take, at most a day. DuckDB looks at the clock and at its memory between
            batches of rows: a call of one function on one huge value is not interrupted.

    Raises:
        UsageError: it is not one statement, DuckDB refuses it, or it needs more than `seconds` or `MEMORY`.
        WorkspaceError: a file is missing or damaged.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise UsageError(f"SQL: a statement may take from 0 to {_MOST_SECONDS:,.0f} s, not {seconds:g}")
    files = PartFiles(fs, [file for paths in views.values() for file in paths])
    with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": ""}) as connection:
        connection.register_filesystem(files)
        for name, frame in frames.items():
            connection.register(name, frame.to_arrow())
        for name, paths in views.items():
            try:
                create_view(connection, name, [files.address_of[path] for path in paths])
            except duckdb.Error as error:
                raise files.unreadable(error) from None
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
            raise UsageError(f"SQL: stopped after {seconds:g} s; --seconds allows more") from None
        except duckdb.OutOfMemoryException:
            raise UsageError(
                f"SQL: needs more than {MEMORY} of this machine's memory; ask for less at a time"
            ) from None
        except duckdb.PermissionException as error:
            raise UsageError(f"SQL: {error}") from None
        except duckdb.Error as error:
            if f"{files.protocol}://" in str(error):
                raise files.unreadable(error) from None
            raise UsageError(f"SQL: {error}") from None
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            # What Python cannot hold: half a character in the statement, an interval of ten million years.
            raise UsageError(f"SQL: {type(error).__name__}: {error}") from None
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
        info: dict[str, Any] = self._fs.info(self._there(path))
        return {"name": path, "size": info["size"], "type": "file"}

    def modified(self, path: str) -> Any:
        """When a file was changed last."""
        return self._fs.modified(self._there(path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The file, if it is one of those named and is there; there are no folders."""
        try:
            return [self.info(path)] if detail else [self.info(path)["name"]]
        except FileNotFoundError:
            return []

    def glob(self, path: str, **_: Any) -> list[str]:
        """The same: the names hold no patterns."""
        return list(self.ls(path, detail=False))

    def unreadable(self, error: duckdb.Error) -> WorkspaceError:
        """What DuckDB says of a file, with the file's own path; of what Python raised below it the last line."""
        text = str(error).strip()
        text = text.splitlines()[-1] if "Traceback" in text else text
        for address, path in self.path_of.items():
            text = text.replace(address, path)
        return WorkspaceError(
            f"cannot read the tables: {text} (a run makes missing and damaged files of the workspace anew; `prefine "
            "verify` names those of a version)"
        )

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path}: nothing can be written")
        return self._fs.open(self._there(path), "rb")

    def _there(self, path: str) -> str:
        address = f"{self.protocol}://{path.removeprefix(f'{self.protocol}://')}"
        if address not in self.path_of:
            raise FileNotFoundError(path)
        return self.path_of[address]
