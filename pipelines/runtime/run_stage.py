"""Running a stage: which buckets are stale, what must stand first, the work on Beam, and that no row was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pipelines.runtime.asking import AskingLane, answer_on_driver, check_answers, serving
from pipelines.runtime.beam_options import run as run_with_beam
from pipelines.runtime.failures import failure_notes
from pipelines.runtime.progress import shown
from pipelines.runtime.stage import CURRENT, Artefacts, Fit, Pass, PerBucket, PerUnit, Run, S, Stage, pass_name
from pipelines.runtime.summary import Summary, summarise
from pipelines.runtime.workers import BucketLane, BucketPassElement, Lane, PassElement, StoredArtefacts, StoredInputs
from schemas.ids import hash_json
from transforms.storage.workspace import Workspace


class StageResult(NamedTuple):
    """What a stage made, added up, and what a person should know of it."""

    summary: Summary
    notes: list[str]


def run_stage(stage: Stage[S], run: Run, quiet: bool) -> StageResult:
    """Bring every bucket of a stage up to date.

    Raises:
        PrefineError: what a worker raised, or what was made is not good enough; finished buckets stay finished.
    """
    for needed in stage.needs:
        run_stage(needed, run, quiet=True)
    run = replace(run, observed=stage.observe(run))
    setup = stage.setup(run)
    keys = keys_of(stage, run, setup)
    artefacts = StoredArtefacts(run.workspace, stage.name, keys.whole)
    pending = keys.pending(run.workspace, stage.name)
    if pending or missing_fits(stage, run, setup, artefacts):
        if isinstance(stage.work, PerUnit):
            _ask(stage, stage.work, run, setup, keys, pending, quiet)
        else:
            _compute(stage, stage.work, run, setup, keys, pending, quiet)
    return _finished(stage, run, setup, artefacts)


def _compute(
    stage: Stage[S], work: PerBucket[S], run: Run, setup: S, keys: Keys, pending: Sequence[int], quiet: bool
) -> None:
    """Take the steps, then make the pending buckets: without workers where there is nothing to do."""
    worker, lane = BucketLane(stage, run, keys.whole, work), keys.lane(pending)
    if stage.is_idle is not None and stage.is_idle(setup):
        worker(lane)
        return
    take_steps(stage, run, setup, keys.whole)
    with shown(run.workspace, stage.name, len(pending), "buckets", quiet):
        run_with_beam(worker, [(element,) for element in lane], run.flags)


def _ask(
    stage: Stage[S], work: PerUnit[S], run: Run, setup: S, keys: Keys, pending: Sequence[int], quiet: bool
) -> None:
    """Have the engines answer for the pending buckets, a lane of them per worker, so that its window spans them all."""
    lane = keys.lane(pending)
    with serving(stage, work, run, setup, pending) as served:
        if work.fit is not None:
            artefacts = StoredArtefacts(run.workspace, stage.name, keys.whole)
            served = answer_on_driver(stage, work, work.fit, run, setup, artefacts, served)
        worker = AskingLane(stage, run, keys.whole, work, served)
        units = sum(work.count(setup, StoredInputs(run.workspace, bucket, stage.reads)) for bucket in pending)
        with shown(run.workspace, stage.name, units, "prompts", quiet):
            if stage.is_idle is not None and stage.is_idle(setup):
                worker(lane)
            else:
                run_with_beam(worker, [lane[i :: served.n_lanes] for i in range(served.n_lanes)], run.flags)


def _finished(stage: Stage[S], run: Run, setup: S, artefacts: Artefacts) -> StageResult:
    """The checkpoints added up, once what was made is found good enough to go on with."""
    summary = summarise(stage.name, list(run.workspace.checkpoints(stage.name).values()))
    notes = []
    if isinstance(stage.work, PerUnit):
        check_answers(stage.name, stage.work.section(run.recipe), run.workspace, summary)
        notes += failure_notes(f"stage {stage.name}", summary.failures, summary.usage)
    if stage.check is not None:
        stage.check(run, setup, summary)
    if stage.notes is not None:
        notes += stage.notes(run, setup, artefacts, summary)
    return StageResult(summary, notes)


class Keys(NamedTuple):
    """What a stage's output depends on, hashed: for what is made of the whole workspace, and for every bucket."""

    whole: str
    buckets: list[str]

    def lane(self, buckets: Sequence[int]) -> Lane:
        """These buckets with their keys, as workers get them."""
        return tuple((bucket, self.buckets[bucket]) for bucket in buckets)

    def pending(self, workspace: Workspace, stage: str) -> list[int]:
        """The buckets whose checkpoint is missing, was made of other inputs, or names a part that is gone."""
        return [bucket for bucket, key in enumerate(self.buckets) if not _is_done(workspace, stage, bucket, key)]


def keys_of(stage: Stage[S], run: Run, setup: S) -> Keys:
    """Hashes of stage, version, setup and the inputs' parts; what is fitted depends on all inputs."""
    parts, identity = input_parts(stage, run.workspace), setup.identity
    is_fitted = any(isinstance(step, Fit) and step.names(run, setup) for step in stage.steps)
    whole = hash_json([stage.name, stage.version, identity, parts if is_fitted else None])
    own = whole if is_fitted else identity
    by_bucket = [{table: names[bucket] for table, names in parts.items()} for bucket in run.workspace.buckets]
    return Keys(whole, [hash_json([stage.name, stage.version, own, names]) for names in by_bucket])


def input_parts(stage: Stage[Any], workspace: Workspace) -> dict[str, list[list[str]]]:
    """Names of the parts of every table that the stage reads, by bucket."""
    return {
        table: [workspace.parts(table, bucket, stages) for bucket in workspace.buckets]
        for table, stages in stage.reads.items()
    }


def pending_buckets(stage: Stage[Any], run: Run) -> list[int]:
    """The buckets that a run would make."""
    run = replace(run, observed=stage.observe(run))
    return keys_of(stage, run, stage.setup(run)).pending(run.workspace, stage.name)


def stage_artefacts(stage: Stage[Any], run: Run) -> Artefacts:
    """What the stage keeps under the key of the inputs there are now."""
    run = replace(run, observed=stage.observe(run))
    return StoredArtefacts(run.workspace, stage.name, keys_of(stage, run, stage.setup(run)).whole)


def _is_done(workspace: Workspace, stage: str, bucket: int, key: str) -> bool:
    checkpoint = workspace.checkpoint(stage, bucket)
    return checkpoint is not None and checkpoint.key == key and workspace.is_whole(bucket, checkpoint)


def missing_fits(stage: Stage[S], run: Run, setup: S, artefacts: Artefacts) -> list[int]:
    """Which steps are fits whose artefacts are not all there, by place."""
    return [
        place
        for place, step in enumerate(stage.steps)
        if isinstance(step, Fit) and not all(name in artefacts for name in step.names(run, setup))
    ]


def take_steps(stage: Stage[S], run: Run, setup: S, key: str) -> None:
    """Do what must be known before any bucket is done; what is known already is not done again."""
    artefacts = StoredArtefacts(run.workspace, stage.name, key)
    missing = missing_fits(stage, run, setup, artefacts)
    for place, step in enumerate(stage.steps):
        if isinstance(step, Fit):
            if place in missing:
                artefacts.update(step.make(run, setup, artefacts))
        elif isinstance(step, Pass):
            elements = step.elements(run, setup)
            if elements:
                run_with_beam(PassElement(stage, run, key, step), elements, run.flags)
            step.after(run, setup)
        elif missing and place < missing[-1]:  # else the fit that needs it is there
            buckets = [bucket for bucket in run.workspace.buckets if pass_name(bucket) not in artefacts]
            if buckets:
                run_with_beam(BucketPassElement(stage, run, key, step), buckets, run.flags)
    is_fitted = any(isinstance(step, Fit) for step in stage.steps)
    if is_fitted and run.workspace.read_artefact(stage.name, CURRENT) != key.encode():
        run.workspace.write_artefact(stage.name, CURRENT, key.encode())
