"""A file of JSON lines that one process appends to, each line handed to the operating system in one write."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import WorkspaceError


class Journal:
    """This process's journal in a folder, made with the first line; locked as long as it is open."""

    def __init__(self, root: Path, kind: str) -> None:
        self._root, self._kind = root, kind
        self._file: int | None = None

    def append(self, row: Mapping[str, Any]) -> bytes:
        """Write a row and return its line.

        Raises:
            WorkspaceError: the disk is full or read-only.
        """
        line = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        try:
            if self._file is None:
                self._root.mkdir(parents=True, exist_ok=True)
                path = self._root / f"{self._kind}-{uuid.uuid4().hex}.jsonl"
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            data = memoryview(line + b"\n")
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self.close()  # the line may be torn; the next row must not be glued to it
            raise WorkspaceError(f"cannot write to the memo {self._root}: {error.strerror}") from error
        return line

    def close(self) -> None:
        """Close it; another row would start a new one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_abandoned(path: Path) -> bool:
    """True when no process holds the journal open for writing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False
