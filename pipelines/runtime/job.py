"""A stage in a run: what its driver and its workers hand to its functions, and the keys of what they make."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic

import polars as pl

from pipelines.runtime.stage import RETRY, Artefacts, Fit, Inputs, Run, S, Stage
from schemas.errors import WorkspaceError
from schemas.ids import hash_json
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
        return self._workspace.read(table, self.bucket, self.stages(table, stage), columns)

    def parts(self, table: str) -> list[str]:
        """See `Inputs.parts`."""
        return self._workspace.parts(table, self.bucket, self.stages(table))


class StoredArtefacts:
    """A stage's artefacts of one key, as files of the workspace; they are asked for by name and never deleted."""

    def __init__(self, workspace: Workspace, stage: str, key: str) -> None:
        self._workspace, self._stage, self._key = workspace, stage, key

    def __str__(self) -> str:
        return self._workspace.path("stages", self._stage, self._key)

    def get(self, name: str) -> bytes | None:
        """The artefact, or None."""
        return self._workspace.read_artefact(self._stage, f"{self._key}/{name}")

    def __getitem__(self, name: str) -> bytes:
        data = self.get(name)
        if data is None:
            raise KeyError(name)
        return data

    def __setitem__(self, name: str, data: bytes) -> None:
        self._workspace.write_artefact(self._stage, f"{self._key}/{name}", data)

    def __contains__(self, name: object) -> bool:
        return self._workspace.has_artefact(self._stage, f"{self._key}/{name}")


@dataclass(frozen=True)
class Job(Generic[S]):
    """A stage in a run. Picklable; plug-ins are built anew in every process.

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
    def is_idle(self) -> bool:
        """Whether the recipe asks nothing of the stage."""
        return self.stage.is_idle is not None and self.stage.is_idle(self.setup)

    @property
    def artefacts(self) -> Artefacts:
        """What was fitted."""
        return StoredArtefacts(self.run.workspace, self.stage.name, self.key)

    def inputs(self, bucket: int) -> Inputs:
        """A bucket's tables."""
        return StoredInputs(self.run.workspace, bucket, self.stage.reads)

    def pending(self, keys: Sequence[str]) -> Lane:
        """The buckets whose checkpoint is missing, was made of other inputs, or names a part that is gone."""
        return tuple((bucket, key) for bucket, key in enumerate(keys) if not self._is_done(bucket, key))

    def _is_done(self, bucket: int, key: str) -> bool:
        workspace = self.run.workspace
        checkpoint = workspace.checkpoint(self.stage.name, bucket)
        return checkpoint is not None and checkpoint.key == key and workspace.is_whole(bucket, checkpoint)

    def commit(self, bucket: int, key: str, output: Output, seconds: float) -> None:
        """Store a bucket's output; one that lacks answers stays pending.

        Raises:
            WorkspaceError: rows were lost, in the stage or on the way into it.
        """
        check_taken(self.stage, self.run.workspace, bucket, output.rows_in)
        self.run.workspace.commit(self.stage.name, bucket, key if output.complete else f"{RETRY}{key}", output, seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}


def prepared(stage: Stage[S], run: Run) -> tuple[Job[S], list[str]]:
    """Observe what lies outside the tables, build what the stage works with, and hash what its output depends on.

    To observe may be to act: push offers the queue to people, pull fetches their answers. If anything is fitted on the
    whole workspace, every bucket depends on all inputs.

    Returns:
        The job, and the key of every bucket's checkpoint.
    """
    run = replace(run, observed=stage.observe(run))
    setup = stage.setup(run)
    identity, parts = setup.identity, input_parts(stage, run.workspace)
    is_fitted = any(isinstance(step, Fit) and step.names(run, setup) for step in stage.steps)
    whole = hash_json([stage.name, stage.version, identity, parts if is_fitted else None])
    own = whole if is_fitted else identity
    by_bucket = [{table: names[bucket] for table, names in parts.items()} for bucket in run.workspace.buckets]
    job = Job(stage, run, whole)
    vars(job)["setup"] = setup  # where the cached property keeps it
    return job, [bucket_key(stage, own, names) for names in by_bucket]


def bucket_key(stage: Stage[Any], identity: Any, parts: Mapping[str, Sequence[str]]) -> str:
    """Key of a bucket's checkpoint: all that its output depends on."""
    return hash_json([stage.name, stage.version, identity, parts])


def input_parts(stage: Stage[Any], workspace: Workspace) -> dict[str, list[list[str]]]:
    """Names of the parts of every table that the stage reads, by bucket."""
    return {
        table: [workspace.parts(table, bucket, stages) for bucket in workspace.buckets]
        for table, stages in stage.reads.items()
    }


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
