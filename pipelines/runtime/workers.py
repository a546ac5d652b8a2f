"""What travels to Beam's workers: a stage, a run and the key of its artefacts, done for one element."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import polars as pl

from pipelines.runtime.progress import LaneProgress
from pipelines.runtime.stage import RETRY, Artefacts, BucketPass, Inputs, Pass, PerBucket, Run, S, Stage, pass_name
from schemas.errors import WorkspaceError
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output, Workspace

Lane = tuple[tuple[int, str], ...]  # buckets that one worker does, each with the key of its checkpoint


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call, or since it was made."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds


class StoredInputs(Inputs):
    """A bucket's tables in a workspace."""

    def __init__(self, workspace: Workspace, bucket: int, reads: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(bucket, reads)
        self._workspace = workspace

    def read(self, table: str, columns: Sequence[str] | None = None, stage: str | None = None) -> pl.DataFrame:
        """See `Inputs.read`."""
        stages = self.stages(table)
        return self._workspace.read(table, self.bucket, stages if stage is None else (stage,), columns)

    def parts(self, table: str) -> list[str]:
        """See `Inputs.parts`."""
        return self._workspace.parts(table, self.bucket, self.stages(table))


class StoredArtefacts(MutableMapping[str, bytes]):
    """A stage's artefacts of one key, as files of the workspace; they are asked for by name and never deleted."""

    def __init__(self, workspace: Workspace, stage: str, key: str) -> None:
        self._workspace, self._stage, self._key = workspace, stage, key

    def __str__(self) -> str:
        return self._workspace.path("stages", self._stage, self._key)

    def __getitem__(self, name: str) -> bytes:
        data = self._workspace.read_artefact(self._stage, f"{self._key}/{name}")
        if data is None:
            raise KeyError(name)
        return data

    def __setitem__(self, name: str, data: bytes) -> None:
        self._workspace.write_artefact(self._stage, f"{self._key}/{name}", data)

    def __contains__(self, name: object) -> bool:
        return self._workspace.has_artefact(self._stage, f"{self._key}/{name}")

    def __delitem__(self, name: str) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Worker(Generic[S]):
    """A stage's work on one element.

    Attributes:
        key: of the stage's artefacts.
    """

    stage: Stage[S]
    run: Run
    key: str

    @cached_property
    def setup(self) -> S:
        """Plug-ins and settings, built once per process."""
        return self.stage.setup(self.run)

    @property
    def artefacts(self) -> Artefacts:
        """What was fitted."""
        return StoredArtefacts(self.run.workspace, self.stage.name, self.key)

    def inputs(self, bucket: int) -> Inputs:
        """A bucket's tables."""
        return StoredInputs(self.run.workspace, bucket, self.stage.reads)

    def commit(self, bucket: int, key: str, output: Output, seconds: float) -> None:
        """Store a bucket's output; one that lacks answers stays pending.

        Raises:
            WorkspaceError: rows were lost, in the stage or on the way into it.
        """
        check_taken(self.stage, self.run.workspace, bucket, output.rows_in)
        self.run.workspace.commit(self.stage.name, bucket, key if output.complete else f"{RETRY}{key}", output, seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}


def check_taken(stage: Stage[Any], workspace: Workspace, bucket: int, rows_in: int) -> None:
    """Compare the rows that went into a bucket with those that the stages before put out.

    Raises:
        WorkspaceError: they differ, so rows were lost or taken twice between two stages.
    """
    table = stage.conserves
    if table is None:
        return
    before = [c for name in stage.reads[table] if (c := workspace.checkpoint(name, bucket)) is not None]
    if any(checkpoint.rows is None for checkpoint in before):
        return  # checkpoints of earlier releases do not say how many rows a table has
    given = sum((checkpoint.rows or {}).get(table, 0) for checkpoint in before)
    if rows_in != given:
        raise WorkspaceError(
            f"stage {stage.name}, bucket {bucket}: {' and '.join(stage.reads[table])} gave {given} rows of {table} and "
            f"{rows_in} were taken: rows were lost between the stages; please report this as a bug"
        )


@dataclass(frozen=True)
class BucketLane(Worker[S]):
    """The buckets of a lane, one after another."""

    work: PerBucket[S]

    def __call__(self, lane: Lane) -> str:
        """Make and commit each."""
        progress = LaneProgress(self.run.workspace, self.stage.name, lane[0][0], len(lane))
        watch = Stopwatch()
        for bucket, key in lane:
            self.commit(bucket, key, self.work.apply(self.setup, self.inputs(bucket), self.artefacts), watch.lap())
            progress.advance()
        return f"{self.stage.name}: {len(lane)} buckets"


@dataclass(frozen=True)
class PassElement(Worker[S]):
    """One element of a pass."""

    step: Pass[S]

    def __call__(self, element: Any) -> str:
        """Do it."""
        self.step.make(self.run, self.setup, element)
        return f"{self.stage.name}: {element}"


@dataclass(frozen=True)
class BucketPassElement(Worker[S]):
    """One bucket of a pass over all buckets."""

    step: BucketPass[S]

    def __call__(self, bucket: int) -> str:
        """Compute and store its frame."""
        found = self.step.apply(self.setup, self.inputs(bucket), self.artefacts)
        self.artefacts[pass_name(bucket)] = parquet_bytes(found)
        return f"{self.stage.name}: bucket {bucket}"
