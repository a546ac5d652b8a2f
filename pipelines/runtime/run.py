"""A run: the stages of a recipe in order, then the version."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.inspect.estimates import outcome_note
from pipelines.publish.export import export_all
from pipelines.publish.publication import Publication, report_path
from pipelines.runtime.beam_options import beam_flags
from pipelines.runtime.dry_run import Plan, plan
from pipelines.runtime.order import RUN_ORDER, STAGES
from pipelines.runtime.run_stage import StageResult, run_stage
from pipelines.runtime.stage import Run
from pipelines.runtime.summary import Summary
from pipelines.stages.materialise import MATERIALISE
from schemas.errors import UsageError
from schemas.recipe import Recipe
from schemas.recipe_file import RecipeFile, load_recipe
from transforms.plugins.build import check_environment, check_recipe
from transforms.publish.version import PublishResult
from transforms.storage.workspace import Workspace
from transforms.text.notebook import html
from transforms.text.plain import cell

_PUBLISH, _REST, _TOTAL = "publish", "the rest", "total"


@dataclass
class RunResult:
    """What a run did, for people and programs."""

    recipe: str
    workspace: str
    stages: list[Summary] = field(default_factory=list)
    dataset: str | None = None
    version: str | None = None
    published: bool = False
    path: str | None = None
    report: str | None = None
    certificate: dict[str, object] | None = None
    exports: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, `publish` and `total`, as a clock shows them

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the block's seconds to a part of the run."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def shown_seconds(self) -> dict[str, float]:
        """The seconds in whole milliseconds; what no part took stands under `the rest`, so that all sum to `total`."""
        ms = {part: int(1000 * seconds) for part, seconds in self.seconds.items()}
        total = ms.pop(_TOTAL)
        ms |= {_REST: total - sum(ms.values()), _TOTAL: total}
        return {part: n / 1000 for part, n in ms.items()}

    def lines(self) -> list[str]:
        """What came of the run, in sentences: the version, where it lies, its exports, what to know."""
        if not self.version:
            return list(self.notes)
        verb = "published" if self.published else "unchanged, nothing new published:"
        exports = [f"export:  {name} {path}" for name, path in self.exports.items()]
        where = [f"{verb} {self.dataset}@{self.version}", f"dataset: {self.path}", f"report:  {self.report}"]
        return [*where, *exports, *self.notes]

    def _repr_html_(self) -> str:
        from rich.console import Group
        from rich.table import Table

        table = Table("stage", "rows in", "rows out", "rejects", "seconds")
        seconds = self.shown_seconds()
        for stage in self.stages:
            rejects = sum(stage.rejects.values())
            cells = (f"{stage.rows_in:,}", f"{stage.rows_out:,}", f"{rejects:,}", f"{seconds.pop(stage.stage):.3f}")
            table.add_row(stage.stage, *cells)
        for part, shown in seconds.items():
            table.add_row(part, "", "", "", f"{shown:.3f}")
        return html(Group(table, *map(cell, self.lines())))


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C in a run: `result` is what was finished before, `stage` the stage that was not."""

    def __init__(self, result: RunResult, stage: str) -> None:
        super().__init__()
        self.result, self.stage = result, stage


def checked_recipe(path: Path) -> RecipeFile:
    """Load a recipe and check it whole.

    Raises:
        RecipeError: with file, line and field.
    """
    file = load_recipe(path)
    check_recipe(file)
    return file


def dry_run(path: Path, root: str, limit: int | None, flags: Sequence[str]) -> Plan:
    """What the run would cost; see `pipelines.runtime.dry_run`."""
    file = checked_recipe(path)
    return plan(file, root, limit, tuple(beam_flags(file.recipe.beam, flags)))


def run_recipe(
    path: Path,
    root: str,
    until: str | None,
    limit: int | None,
    flags: Sequence[str],
    quiet: bool,
    budget: int | None = None,
    retry_errors: bool = False,
) -> RunResult:
    """Run every stage up to `until` (all, if None) and publish.

    Raises:
        UsageError: unknown stage, wrong recipe.
        PrefineError: a stage failed; run again to resume.
    """
    if until is not None and until not in RUN_ORDER:
        raise UsageError(f"no stage {until!r}; known: {', '.join(RUN_ORDER)}")
    last = len(RUN_ORDER) if until is None else RUN_ORDER.index(until) + 1
    return run_stages(path, root, RUN_ORDER[:last], limit, flags, quiet, budget, retry_errors)


def run_stages(
    path: Path,
    root: str,
    names: Sequence[str],
    limit: int | None,
    flags: Sequence[str],
    quiet: bool,
    budget: int | None = None,
    retry_errors: bool = False,
) -> RunResult:
    """Run the named stages of a recipe in the order given.

    Args:
        budget: replaces the recipe's budget of human answers.
        retry_errors: ask again what servers turned away for good.
    """
    result = RunResult(str(path), root)
    with result.timed(_TOTAL):
        file = checked_recipe(path)
        check_environment(file)
        recipe = file.recipe if budget is None else with_budget(file.recipe, budget)
        workspace = Workspace.create(root, recipe.buckets)
        result.notes += _stranger(workspace, recipe.name)
        workspace.write_artefact("recipe", "last.yaml", file.text.encode())
        beam = tuple(beam_flags(recipe.beam, flags))
        run = Run(workspace, recipe, file.base_dir.resolve(), limit, beam, retries_errors=retry_errors)
        with workspace.alone():
            for name in names:
                try:
                    if name == MATERIALISE.name:
                        _publish(Publication(file, run), result, quiet)
                        continue
                    with result.timed(name):
                        _add(result, run_stage(STAGES[name], run, quiet))
                except KeyboardInterrupt:
                    raise RunInterrupted(result, name) from None
    return result


def _stranger(workspace: Workspace, name: str) -> list[str]:
    """A note if the workspace was last run with a recipe of another name."""
    last = workspace.read_artefact("recipe", "last.yaml")
    found = re.search(r"^name:\s*[\"']?([a-z0-9_-]+)", (last or b"").decode("utf-8", "replace"), re.MULTILINE)
    if found is None or found[1] == name:
        return []
    return [f"note: {workspace.root} is a workspace of the recipe {found[1]!r}; {name!r} has now been run in it"]


def _add(result: RunResult, done: StageResult) -> None:
    result.stages.append(done.summary)
    result.notes += done.notes


_IN_PLACE_OF_BUDGET = ("budget_seconds", "accuracy", "audit_pairs")


def with_budget(recipe: Recipe, answers: int) -> Recipe:
    """The recipe asking people for `answers` answers in total, whatever its own budget."""
    queue = {name: value for name, value in recipe.route.queue.items() if name not in _IN_PLACE_OF_BUDGET}
    route = recipe.route.model_copy(update={"queue": {**queue, "budget": answers}})
    return recipe.model_copy(update={"route": route})


def _publish(publication: Publication, result: RunResult, quiet: bool) -> None:
    with result.timed(_PUBLISH):
        outcome = publication.unchanged()
    if outcome is None:
        with result.timed(MATERIALISE.name):
            _add(result, run_stage(MATERIALISE, publication.run, quiet))
            publication.check_rows(result.stages[-1])
    with result.timed(_PUBLISH):
        _report(publication, publication.publish() if outcome is None else outcome, result)


def _report(publication: Publication, outcome: PublishResult, result: RunResult) -> None:
    """Export the version, and say what and where it is."""
    manifest, file = outcome.manifest, publication.file
    result.dataset, result.version = outcome.name, f"v{outcome.version:04d}"
    result.published, result.path, result.report = outcome.published, outcome.path, report_path(outcome)
    result.certificate = manifest.certificate
    exports, seed = file.recipe.materialise.exports, file.recipe.seed
    exported = export_all(publication.workspace, manifest, exports, seed, file.base_dir)
    result.exports = {export.name: export.path for export in exported}
    result.notes += [f"export {export.name}: {note}" for export in exported for note in export.notes]
    result.notes.append(outcome_note(manifest.n_pairs, manifest.n_rows, manifest.estimates, manifest.certificate))
