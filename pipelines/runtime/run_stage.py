"""Running a stage: which buckets are stale, what must be known first, the work on Beam, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from pipelines.runtime.asking import AskingLane, answer_on_driver, asked_again, check_answers, serving
from pipelines.runtime.beam_options import run as run_with_beam
from pipelines.runtime.failures import failure_notes
from pipelines.runtime.job import Job, Lane, Stopwatch, prepared
from pipelines.runtime.progress import LaneProgress, shown
from pipelines.runtime.stage import CURRENT, BucketPass, Fit, Pass, PerBucket, PerUnit, Run, S, Stage, pass_name
from pipelines.runtime.summary import Summary, summarise
from transforms.storage.files import parquet_bytes


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
    job, keys = prepared(stage, run)
    pending = job.pending(keys)
    if isinstance(stage.work, PerUnit):
        pending = tuple(sorted({*pending, *asked_again(job, stage.work, keys)}))
    if pending or _missing_fits(job):
        if isinstance(stage.work, PerUnit):
            _ask(job, stage.work, pending, quiet)
        else:
            _compute(job, stage.work, pending, quiet)
    _make_current(job)  # with nothing to do too: a run of other settings may have broken off after its fit
    return _result(job)


def _compute(job: Job[S], work: PerBucket[S], pending: Lane, quiet: bool) -> None:
    """Take the steps, then make the pending buckets; without workers if the stage is idle."""
    worker = BucketLane(job, work)
    if not job.is_idle:
        _take_steps(job)
    with shown(job.run.workspace, job.stage.name, len(pending), "buckets", quiet):
        if job.is_idle:
            worker(pending)
        elif pending:
            run_with_beam(worker, [(element,) for element in pending], job.run.flags)


def _ask(job: Job[S], work: PerUnit[S], pending: Lane, quiet: bool) -> None:
    """Have the engines answer for the pending buckets, a lane of them per worker, so that its window spans them all."""
    buckets = [bucket for bucket, _ in pending]
    with serving(job, work, buckets) as served:
        if work.fit is not None:
            served = answer_on_driver(job, work, work.fit, served)
        worker = AskingLane(job, work, served)
        units = sum(work.count(job.setup, job.inputs(bucket)) for bucket in buckets)
        with shown(job.run.workspace, job.stage.name, units, "prompts", quiet):
            if job.is_idle:
                worker(pending)
            else:
                lanes = [pending[i :: served.n_lanes] for i in range(served.n_lanes)]
                run_with_beam(worker, lanes, job.run.flags)


def _result(job: Job[S]) -> StageResult:
    """The checkpoints added up, once what was made is found good enough to go on with."""
    stage, run, notes = job.stage, job.run, list[str]()
    summary = summarise(stage.name, list(run.workspace.checkpoints(stage.name).values()))
    if isinstance(stage.work, PerUnit):
        check_answers(stage.name, stage.work.section(run.recipe), run.workspace, summary)
        notes += failure_notes(f"stage {stage.name}", summary.failures, summary.usage)
    if stage.check is not None:
        stage.check(run, job.setup, summary)
    if stage.notes is not None:
        notes += stage.notes(run, job.setup, job.artefacts, summary)
    return StageResult(summary, notes)


def _missing_fits(job: Job[Any]) -> list[int]:
    """Which steps are fits whose artefacts are not all there, by place."""
    return [
        place
        for place, step in enumerate(job.stage.steps)
        if isinstance(step, Fit) and not all(name in job.artefacts for name in step.names(job.run, job.setup))
    ]


def _take_steps(job: Job[S]) -> None:
    """Do what must be known before any bucket is done; what is known already is not done again."""
    run, artefacts, missing = job.run, job.artefacts, _missing_fits(job)
    for place, step in enumerate(job.stage.steps):
        if isinstance(step, Fit):
            if place in missing:
                for name, data in step.make(run, job.setup, artefacts):
                    artefacts[name] = data
        elif isinstance(step, Pass):
            _run_pass(job, step, step.elements(run, job.setup))
            step.after(run, job.setup)
        elif missing and place < missing[-1]:  # else the fit that needs it is there
            _run_pass(job, step, [bucket for bucket in run.workspace.buckets if pass_name(bucket) not in artefacts])


def _make_current(job: Job[Any]) -> None:
    """Say which fit is behind the stage's checkpoints."""
    workspace, name, key = job.run.workspace, job.stage.name, job.key.encode()
    is_fitted = any(isinstance(step, Fit) for step in job.stage.steps)
    if is_fitted and workspace.read_artefact(name, CURRENT) != key:
        workspace.write_artefact(name, CURRENT, key)


def _run_pass(job: Job[S], step: Pass[S] | BucketPass[S], elements: Sequence[Any]) -> None:
    if elements:
        run_with_beam(PassElement(job, step), elements, job.run.flags)


@dataclass(frozen=True)
class BucketLane(Generic[S]):
    """What Beam does with a lane: its buckets, one after another."""

    job: Job[S]
    work: PerBucket[S]

    def __call__(self, lane: Lane) -> str:
        """Make and commit each."""
        job = self.job
        progress = LaneProgress(job.run.workspace, job.stage.name, lane[0][0], len(lane))
        watch = Stopwatch()
        for bucket, key in lane:
            job.commit(bucket, key, self.work.apply(job.setup, job.inputs(bucket), job.artefacts), watch.lap())
            progress.advance()
        return f"{job.stage.name}: {len(lane)} buckets"


@dataclass(frozen=True)
class PassElement(Generic[S]):
    """What Beam does with an element of a pass; that of a pass over buckets is a bucket, whose frame is stored."""

    job: Job[S]
    step: Pass[S] | BucketPass[S]

    def __call__(self, element: Any) -> str:
        """Do it."""
        job, step = self.job, self.step
        if isinstance(step, Pass):
            step.make(job.run, job.setup, element)
        else:
            frame = step.apply(job.setup, job.inputs(element), job.artefacts)
            job.artefacts[pass_name(element)] = parquet_bytes(frame)
        return f"{job.stage.name}: {element}"
