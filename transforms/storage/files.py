"""Atomic files on a local disk or any fsspec file system.

A reader sees a whole file or none: local writes go to a temporary name, are flushed to the disk and
renamed; an object store's put is atomic by itself.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import orjson
import polars as pl

from schemas.errors import WorkspaceError

TEMPORARY = ".tmp-"
_REMEDY = "if it is damaged, delete it and run again: the run makes it again"


def file_system(root: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path within it."""
    fs, path = fsspec.core.url_to_fs(root)
    return fs, path.rstrip("/")


def is_local(fs: Any) -> bool:
    """Whether an fsspec file system is this machine's disk."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def write_atomic(fs: Any, path: str, data: bytes, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        durable: wait until the disk has it; else a power cut may lose it (not a killed process).

    Raises:
        WorkspaceError: the disk is full, read-only or unreachable; the text names the file.
    """
    with writing(path):
        if not is_local(fs):
            fs.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say of a write in the block that fails which file it was.

    Raises:
        WorkspaceError: the disk is full, read-only or unreachable; the text names the file.
    """
    try:
        yield
    except OSError as error:
        raise WorkspaceError(f"cannot write {path}: {error.strerror or error}") from error


def read_json(fs: Any, path: str) -> Any | None:
    """The JSON value of a file, or None if there is no such file.

    Raises:
        WorkspaceError: the file is there but is not JSON, or cannot be read.
    """
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise WorkspaceError(
            f"{path.rpartition('/')[0]} is a file, or lies below one, where a folder is needed"
        ) from None
    except OSError as error:
        raise WorkspaceError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WorkspaceError(f"{path} is damaged ({error}); {_REMEDY}") from None


def parquet_bytes(frame: pl.DataFrame, rows_per_group: int = 100_000, scratch: bool = False) -> bytes:
    """A frame as Parquet with fixed settings: equal frames give equal bytes.

    Args:
        scratch: read once and soon: compressed for speed, not for size.
    """
    buffer = BytesIO()
    codec: dict[str, Any] = {"compression": "lz4"} if scratch else {"compression": "zstd", "compression_level": 3}
    frame.write_parquet(buffer, statistics=True, row_group_size=rows_per_group, **codec)
    return buffer.getvalue()


def read_parquet(fs: Any, path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """Read one Parquet file.

    Raises:
        WorkspaceError: the file is missing, truncated or not Parquet; the text names it.
    """
    try:
        if is_local(fs):
            return pl.read_parquet(path, columns=columns, memory_map=False)
        return pl.read_parquet(BytesIO(fs.cat_file(path)), columns=columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise WorkspaceError(f"cannot read {path}: {error}; {_REMEDY}") from error


def read_where(fs: Any, paths: list[str], column: str, low: int, high: int, schema: pl.Schema) -> pl.DataFrame:
    """Rows of several Parquet files with low <= `column` < high; a local disk's row groups without any are not read.

    Raises:
        WorkspaceError: a file is missing or damaged.
    """
    if not paths:
        return pl.DataFrame(schema=schema)
    wanted = pl.col(column).is_between(low, high, closed="left")
    if not is_local(fs):
        return pl.concat([read_parquet(fs, path).filter(wanted).select(schema.names()) for path in paths])
    try:
        return pl.scan_parquet(paths).filter(wanted).select(schema.names()).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        for path in paths:  # the error does not say which file it is
            read_parquet(fs, path)
        raise WorkspaceError(f"cannot read {paths[0]} or a part next to it: {error}; {_REMEDY}") from error


def without_slack(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame in memory of its own: what Polars filters or joins keeps all the text it was taken from alive."""
    buffer = BytesIO()
    frame.write_ipc(buffer)
    buffer.seek(0)
    return pl.read_ipc(buffer)


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold an advisory lock file on this host for the duration of the block; False where another process holds it.

    The operating system lets go of it when the holder ends, however it ends.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def file_sha256(path: Path) -> str:
    """SHA-256 of a file (0.3 s a 100 MB), computed once a process for the same size and time stamp."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
