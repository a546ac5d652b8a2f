"""Who may write a version on an object store, where there are no locks.

A claim is an object made by exclusive creation. Its holder renews it while it works; one that was not renewed for
`CLAIM_SECONDS`, or whose process on this host is gone, is abandoned. Whoever takes over from an abandoned claim creates
its successor, an object named by the old claim's token, exclusively again: of several who try, one succeeds, and the
old holder sees that it has a successor and stops. Nobody removes a dead publisher's claim, for removing is not
conditional; files are created exclusively too, so that one who wakes up late overwrites nothing.
"""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from schemas.errors import WorkspaceError

CLAIM_SECONDS = 3600.0
_RENEWALS = 10  # in that time


class Claim:
    """A claim that is held; `what` is its subject in messages."""

    def __init__(self, fs: Any, path: str, token: str, what: str) -> None:
        self.fs, self.path, self.token, self.what = fs, path, token, what
        self._renewed = time.monotonic()

    def check(self) -> None:
        """Make sure that it is still held, and renew it in time.

        Raises:
            WorkspaceError: somebody has taken over.
        """
        self.fs.invalidate_cache()
        holder = _owner(self.fs, self.path)
        if holder is None or holder["token"] != self.token or self.fs.exists(_successor(self.path, self.token)):
            raise WorkspaceError(
                f"another publisher has taken over {self.what}, because this one gave no sign of life for "
                f"{CLAIM_SECONDS / 60:.0f} minutes; run materialise again"
            )
        if time.monotonic() - self._renewed > CLAIM_SECONDS / _RENEWALS:
            self.fs.pipe_file(self.path, _content(self.token))
            self._renewed = time.monotonic()


@contextmanager
def claimed(fs: Any, path: str, what: str) -> Iterator[Claim]:
    """Hold the claim at `path` for the duration of the block; what is removed at its end is only what is ours.

    Raises:
        WorkspaceError: somebody else holds it.
    """
    chain = [path]
    while (owner := _owner(fs, chain[-1])) is not None:
        if not _abandoned(owner):
            raise _held(what, chain[-1])
        chain.append(_successor(path, owner["token"]))
    token = uuid.uuid4().hex
    try:
        fs.pipe_file(chain[-1], _content(token), mode="create")
    except FileExistsError as error:
        raise _held(what, chain[-1]) from error
    claim = Claim(fs, chain[-1], token, what)
    try:
        yield claim
    finally:
        fs.invalidate_cache()
        if not fs.exists(_successor(chain[-1], token)):
            # The first one first: whoever comes then begins a new chain, and ours leads nobody to what is going.
            for mine in chain:
                with suppress(FileNotFoundError):
                    fs.rm_file(mine)


def _held(what: str, path: str) -> WorkspaceError:
    return WorkspaceError(
        f"{what} is being published by somebody else; if that publisher has crashed, wait "
        f"{CLAIM_SECONDS / 60:.0f} minutes or remove {path}"
    )


def _successor(path: str, token: str) -> str:
    return f"{path.partition('.claim')[0]}.claim-{token}"


def _content(token: str) -> bytes:
    return orjson.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": token})


def _owner(fs: Any, path: str) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = orjson.loads(fs.cat_file(path))
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError:  # somebody's, but not to be read: only a person can say whether it is needed
        return {"host": "", "pid": 0, "time": math.inf, "token": ""}
    return owner


def _abandoned(owner: dict[str, Any]) -> bool:
    if time.time() - owner["time"] > CLAIM_SECONDS:
        return True
    return owner["host"] == socket.gethostname() and not _alive(owner["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
