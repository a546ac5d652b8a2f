"""What every stage is: a pure function of a bucket's inputs, checkpointed by their hash."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipelines.runtime.beam_options import run
from pipelines.runtime.progress import LaneProgress, shown
from pipelines.runtime.stage import RETRY
from pipelines.runtime.summary import Summary, summarise
from schemas.ids import hash_json
from schemas.recipe import Recipe
from transforms.storage.workspace import Checkpoint, Output, Workspace

Reads = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Stage:
    """A stage of one recipe over one workspace. Picklable: workers build plug-ins for themselves.

    Attributes:
        recipe: the whole recipe.
        base_dir: where relative paths of the recipe start.
        limit: at most this many source rows per source; None for all.
        flags: Beam flags.
    """

    workspace: Workspace
    recipe: Recipe
    base_dir: Path
    limit: int | None = None
    flags: tuple[str, ...] = ()

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[Reads] = ()
    counts_units: ClassVar[bool] = False  # whether process_lane reports progress in units of its own

    @property
    def identity(self) -> Any:
        """Everything but the inputs that can change the output."""
        return None

    def key(self, bucket: int) -> str:
        """Hash of stage, identity and the bucket's input parts."""
        inputs = {table: self.workspace.parts(table, bucket, stages) for table, stages in self.reads}
        return hash_json([self.name, self.version, self.identity, inputs])

    @property
    def is_idle(self) -> bool:
        """Whether the recipe asks nothing of this stage: its buckets are then committed without Beam."""
        return False

    def refresh(self) -> None:
        """Bring in what lies outside the workspace, before it is known which buckets are stale."""

    def check(self, summary: Summary) -> None:
        """Raise where what the stage made is not good enough to go on with."""

    def reopen(self, is_lacking: Callable[[Checkpoint], bool]) -> None:
        """Have the next run do again the buckets that lack answers: what did not answer may do so by then."""
        for bucket, checkpoint in self.workspace.checkpoints(self.name).items():
            if is_lacking(checkpoint) and not checkpoint.key.startswith(RETRY):
                again = replace(checkpoint, key=f"{RETRY}{checkpoint.key}")
                self.workspace.write_checkpoint(self.name, bucket, again)

    def notes(self, summary: Summary) -> list[str]:
        """What a person should know of what the stage made."""
        return []

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Whatever must stand before workers start (a server, a fitted model), for the duration of the block."""
        yield self

    def process(self, bucket: int) -> Output:
        """Make the stage's output of one bucket."""
        raise TypeError(f"stage {self.name} works lane by lane")

    def process_lane(self, buckets: Sequence[int], commit: Callable[[int, Output], None]) -> None:
        """Process several buckets in any order and commit each as soon as it is done."""
        for bucket in buckets:
            commit(bucket, self.process(bucket))

    def lanes(self, pending: Sequence[int], workers: int) -> list[tuple[int, ...]]:
        """The Beam elements: by default a bucket each."""
        return [(bucket,) for bucket in pending]

    def units(self, pending: Sequence[int]) -> tuple[int, str]:
        """What the progress bar counts: how many at least, and their name."""
        return len(pending), "buckets"

    def pending(self) -> list[int]:
        """Buckets whose checkpoint is missing, was made from other inputs, or names a part that is gone."""
        stale = []
        for bucket in self.workspace.buckets:
            checkpoint = self.workspace.checkpoint(self.name, bucket)
            made = checkpoint is not None and checkpoint.key == self.key(bucket)
            if checkpoint is None or not made or not self.workspace.is_whole(bucket, checkpoint):
                stale.append(bucket)
        return stale

    def input_parts(self) -> dict[str, list[list[str]]]:
        """Parts of every input table by bucket: what a model fitted on the whole workspace depends on."""
        return {
            table: [self.workspace.parts(table, bucket, stages) for bucket in self.workspace.buckets]
            for table, stages in self.reads
        }


@dataclass(frozen=True)
class StageWork:
    """The element function of a stage: process a lane of buckets and commit each."""

    stage: Stage

    def __call__(self, lane: tuple[int, ...]) -> str:
        """Process and commit the lane's buckets."""
        stage, workspace = self.stage, self.stage.workspace
        keys = {bucket: stage.key(bucket) for bucket in lane}
        progress = None if stage.counts_units else LaneProgress(workspace, stage.name, lane[0], len(lane))
        started = time.perf_counter()

        def commit(bucket: int, output: Output) -> None:
            nonlocal started
            now = time.perf_counter()
            key = keys[bucket] if output.complete else f"{RETRY}{keys[bucket]}"
            workspace.commit(stage.name, bucket, key, output, now - started)
            started = now
            if progress:
                progress.advance()

        stage.process_lane(lane, commit)
        return f"{stage.name}: {len(lane)} buckets"


def run_stage(stage: Stage, quiet: bool) -> Summary:
    """Bring every bucket of a stage up to date and add up the checkpoints.

    Raises:
        PrefineError: what a worker raised, or too much failed; finished buckets stay finished.
    """
    stage.refresh()
    pending = stage.pending()
    if pending:
        with stage.ready(pending) as ready, shown(stage.workspace, stage.name, *stage.units(pending), quiet):
            if stage.is_idle:
                StageWork(ready)(tuple(pending))
            else:
                run(StageWork(ready), ready.lanes(pending, stage.recipe.beam.workers), stage.flags)
    summary = summarise(stage.name, list(stage.workspace.checkpoints(stage.name).values()))
    stage.check(summary)
    return summary
