"""Requests that a server turned away for good, remembered beside the answers of a bucket.

Such an error is the server's word and not the model's, so it is no answer: it is kept with what was known of the server
(`server`, see `Engine.fingerprint`) and with the number of runs in which that server was asked. It stands for an answer
within the run that got it, and once a second run has got it, too, until the server is another one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import orjson

from schemas.ids import hash_bytes
from transforms.llm.request import Reply
from transforms.storage.files import file_system, write_atomic
from transforms.storage.journal import Journal, is_abandoned

RUNS = 2  # in which a request is asked of one server before it is left alone
_FILES = "errors-*.jsonl"


@dataclass(frozen=True)
class AskingRun:
    """Who asks: what a run knows of the servers behind its engines.

    Attributes:
        run: a name no other run has.
        servers: engine name -> fingerprint of its server.
        retries_errors: whether every error is asked about again.
    """

    run: str = ""
    servers: Mapping[str, str] = field(default_factory=dict)
    retries_errors: bool = False


@dataclass(frozen=True)
class FinalError:
    """The latest error of one request. `at` is the time in seconds, `runs` how many runs asked this server."""

    request_id: str
    server: str
    run: str
    runs: int
    at: float
    error: str
    cause: str
    ms: float

    def stands(self, engine: str, now: AskingRun) -> bool:
        """Whether it is not asked again in this run."""
        if self.run == now.run and now.run:
            return True
        return not now.retries_errors and self.runs >= RUNS and same_server(self.server, now.servers.get(engine, ""))

    @property
    def reply(self) -> Reply:
        """The error as a reply."""
        return Reply(self.request_id, "error", error=self.error, cause=self.cause, ms=self.ms)


def same_server(one: str, other: str) -> bool:
    """Whether two fingerprints (`ADDRESS:CAPABILITIES`) may be of one server; unknown capabilities equal all."""
    (address, able), (other_address, other_able) = (text.partition(":")[::2] for text in (one, other))
    return address == other_address and (able == other_able or not able or not other_able)


class FinalErrors:
    """The errors of one bucket by request id."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = Journal(root, "errors")
        self._known: dict[str, FinalError] | None = None

    def get(self, request_id: str) -> FinalError | None:
        """The latest error of a request, or None."""
        return self._loaded().get(request_id)

    def put(self, engine: str, reply: Reply, now: AskingRun) -> None:
        """Remember an error, in the journal before anything else sees it.

        Raises:
            WorkspaceError: the disk is full or read-only.
        """
        server, known = now.servers.get(engine, ""), self.get(reply.request_id)
        before = known.runs if known is not None and same_server(known.server, server) else 0
        runs = before + (known is None or known.run != now.run or not now.run)
        what = (reply.error or "", reply.cause or "", reply.ms)
        row = FinalError(reply.request_id, server, now.run, max(1, runs), time.time(), *what)
        self._journal.append(asdict(row))
        self._loaded()[reply.request_id] = row

    def is_new(self, run: str) -> bool:
        """Whether a request was turned away in this run for the first time, so that the next one asks it again."""
        return any(known.run == run and known.runs < RUNS for known in self._loaded().values())

    def load(self) -> None:
        """Read the files now, rather than at the first question."""
        self._loaded()

    def close(self) -> None:
        """Close this process's journal."""
        self._journal.close()

    def compact(self) -> None:
        """Turn the journals that nobody writes any more into one."""
        self.close()
        files = [path for path in sorted(self._root.glob(_FILES)) if is_abandoned(path)]
        if len(files) < 2:
            return
        latest = _latest(files)
        data = b"".join(orjson.dumps(asdict(latest[key])) + b"\n" for key in sorted(latest))
        fs, _ = file_system(str(self._root))
        joined = self._root / f"errors-{hash_bytes(data)}.jsonl"
        write_atomic(fs, str(joined), data)
        for path in files:
            if path != joined:
                path.unlink(missing_ok=True)
        self._known = None

    def _loaded(self) -> dict[str, FinalError]:
        if self._known is None:
            self._known = _latest(sorted(self._root.glob(_FILES)))
        return self._known


def _latest(files: list[Path]) -> dict[str, FinalError]:
    """The last error of every request; a line that a killed process left unfinished is passed over."""
    names = [f.name for f in fields(FinalError)]
    latest: dict[str, FinalError] = {}
    for path in files:
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:  # compacted by another process since it was listed
            continue
        for line in lines:
            try:
                row = orjson.loads(line)
                error = FinalError(**{name: row[name] for name in names})
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
            if error.request_id not in latest or latest[error.request_id].at <= error.at:
                latest[error.request_id] = error
    return latest
