"""A run: the stages of a recipe in order, then the version."""

from __future__ import annotations

from collections.abc import Sequence
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
from transforms.storage.workspace import Workspace
from transforms.text.notebook import html
from transforms.text.plain import cell


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
        for stage in self.stages:
            rejects = sum(stage.rejects.values())
            cells = (f"{stage.rows_in:,}", f"{stage.rows_out:,}", f"{rejects:,}", f"{stage.seconds:.1f}")
            table.add_row(stage.stage, *cells)
        return html(Group(table, *map(cell, self.lines())))


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
    file = checked_recipe(path)
    check_environment(file)
    recipe = file.recipe if budget is None else with_budget(file.recipe, budget)
    workspace = Workspace.create(root, recipe.buckets)
    workspace.write_artefact("recipe", "last.yaml", file.text.encode())
    result = RunResult(str(path), root)
    beam = tuple(beam_flags(recipe.beam, flags))
    run = Run(workspace, recipe, file.base_dir.resolve(), limit, beam, retries_errors=retry_errors)
    with workspace.alone():
        for name in names:
            if name == MATERIALISE.name:
                _publish(Publication(file, run), result, quiet)
            else:
                _add(result, run_stage(STAGES[name], run, quiet))
    return result


def _add(result: RunResult, done: StageResult) -> None:
    result.stages.append(done.summary)
    result.notes += done.notes


def with_budget(recipe: Recipe, answers: int) -> Recipe:
    """The recipe asking people for `answers` answers in total, whatever its own budget."""
    queue = {name: value for name, value in recipe.route.queue.items() if name not in ("budget_seconds", "accuracy")}
    route = recipe.route.model_copy(update={"queue": {**queue, "budget": answers}})
    return recipe.model_copy(update={"route": route})


def _publish(publication: Publication, result: RunResult, quiet: bool) -> None:
    outcome = publication.unchanged()
    if outcome is None:
        _add(result, run_stage(MATERIALISE, publication.run, quiet))
        publication.check_rows(result.stages[-1])
        outcome = publication.publish()
    result.dataset, result.version = outcome.name, f"v{outcome.version:04d}"
    result.published, result.path, result.report = outcome.published, outcome.path, report_path(outcome)
    result.certificate = outcome.manifest.certificate
    file = publication.file
    exports, seed = file.recipe.materialise.exports, file.recipe.seed
    exported = export_all(publication.workspace, outcome.manifest, exports, seed, file.base_dir)
    result.exports = {export.name: export.path for export in exported}
    result.notes += [f"export {export.name}: {note}" for export in exported for note in export.notes]
    manifest = outcome.manifest
    result.notes.append(outcome_note(manifest.n_pairs, manifest.n_rows, manifest.estimates, manifest.certificate))
