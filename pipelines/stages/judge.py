"""Stage judge: LLM judges vote on every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipelines.runtime.asking import engines_of
from pipelines.runtime.stage import PAIR_STAGES, Artefacts, AskingFit, Inputs, PerUnit, Run, Stage, Unit
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.ids import canonical_json
from schemas.recipe import PanelSection
from schemas.tables import Row, Votes, rows_frame
from transforms.engines.base import Engine
from transforms.judges.base import Judge
from transforms.judges.panel.sequential import PanelModel, fit_panel, panel_votes, untrained_panel, words_of
from transforms.llm.request import Ask
from transforms.plugins.build import build
from transforms.stats.human_labels import human_label
from transforms.storage.workspace import Output

JUDGES = "judges.json"  # the judges behind the latest checkpoints: template's hash and model
MIN_LABELLED = 20  # human labels below which a fitted panel would be noise
_PANEL = "panel.json"  # artefact: the fitted panel; empty or absent while it is untrained
HUMAN_STAGES = ("ingest", "pull")  # whose votes of people a panel learns from


class Judges(NamedTuple):
    """The recipe's judges in order, and how the panel stops.

    Attributes:
        labels: what people said of the pairs that a sequential panel is fitted on; None where it is not fitted.
        seed: of the fit's folds.
    """

    judges: tuple[Judge, ...]
    engines: Mapping[str, Engine]
    panel: PanelSection
    labels: dict[str, float] | None
    seed: int

    @property
    def identity(self) -> Any:
        """The judges, how the panel stops, and the people it is fitted on."""
        judges = [[judge.name, judge.identity] for judge in self.judges]
        return [judges, self.panel.model_dump(mode="json", exclude_defaults=True), self.labels]

    @property
    def names(self) -> list[str]:
        """The judges' names."""
        return [judge.name for judge in self.judges]


def _setup(run: Run) -> Judges:
    section = run.recipe.judge
    engines = engines_of(run, Judge, section.judges)
    judges = tuple(build(Judge, use, run.recipe.seed, run.folder) for use in section.judges)
    models = {name: engine.answers_as for name, engine in engines.items()}
    contexts = {name: engine.context_tokens for name, engine in engines.items()}
    for judge in judges:
        judge.bind(models, contexts)
    return Judges(judges, engines, section.panel, run.observed, run.recipe.seed)


def _observe(run: Run) -> dict[str, float] | None:
    """Keep what the judges' votes rest on, for the manifest; people's labels for a panel that learns from them."""
    data = canonical_json({judge.name: judge.evidence for judge in _setup(run).judges})
    if run.workspace.read_artefact("judge", JUDGES) != data:
        run.workspace.write_artefact("judge", JUDGES, data)
    panel = run.recipe.judge.panel
    if not panel.is_sequential:
        return None
    columns = ("pair_id", "kind", "label")
    votes = [run.workspace.read("votes", bucket, HUMAN_STAGES, columns) for bucket in run.workspace.buckets]
    return panel_labels(pl.concat(votes), panel.fit_pairs)


def panel_labels(votes: pl.DataFrame, most: int) -> dict[str, float] | None:
    """What people said of the pairs a sequential panel is fitted on (`human_label`): 1 for a, 0 for b.

    Args:
        votes: `pair_id, kind, label` of any voters.
        most: how many pairs at most: those with the lowest ids.

    Returns:
        None where fewer than `MIN_LABELLED` pairs have a label, so that the first answers change nothing yet.
    """
    decided = human_label(votes).filter(pl.col("label").is_in(["a", "b"])).head(most)
    labels = {pair_id: float(label == "a") for pair_id, label in decided.iter_rows()}
    return labels if len(labels) >= MIN_LABELLED else None


def _is_idle(setup: Judges) -> bool:
    return not setup.judges


def _count(setup: Judges, inputs: Inputs) -> int:
    """Prompts with pairs in the bucket."""
    return inputs.read("pairs", ["prompt_id"])["prompt_id"].n_unique() if setup.judges else 0


def prompt_units(setup: Judges, inputs: Inputs, artefacts: Artefacts, ask: Ask) -> list[Unit]:
    """One unit per prompt: all judges' votes on its pairs, whose requests share a prefix."""
    if not setup.judges:
        return []
    stored = artefacts.get(_PANEL) if _learns(setup) else None
    panel = PanelModel.from_json(stored) if stored else None
    prompts = inputs.read("pairs").partition_by("prompt_id", maintain_order=True)
    stop, change = setup.panel.stop_certainty, setup.panel.min_change
    return [partial(panel_votes, setup.judges, prompt.to_dicts(), ask, panel, stop, change) for prompt in prompts]


def all_votes(_: Judges, inputs: Inputs, results: list[list[Row]]) -> Output:
    """The votes on a bucket's pairs, and how many of them do not count."""
    n_pairs = inputs.read("pairs", []).height
    votes = [vote for unit in results for vote in unit]
    invalid = sum(vote["label"] in ("invalid", "refused", "error") for vote in votes)
    return Output(
        {"votes": rows_frame(votes, Votes)},
        rows_in=n_pairs,
        rows_out=n_pairs,
        counts={"votes": len(votes), "not_counted": invalid},
    )


def _learns(setup: Judges) -> bool:
    return setup.panel.is_sequential and setup.labels is not None


def _labelled_units(setup: Judges, inputs: Inputs, ask: Ask) -> list[Unit]:
    """The whole panel's votes on every pair with a human label."""
    rows = inputs.read("pairs").filter(pl.col("pair_id").is_in(list(setup.labels or {})))
    return [partial(_labelled, setup.judges, row, ask) for row in rows.iter_rows(named=True)]


async def _labelled(judges: Sequence[Judge], pair: Row, ask: Ask) -> tuple[str, list[Row]]:
    return pair["prompt_id"], await panel_votes(judges, [pair], ask)


def panel_from_labels(setup: Judges, results: Sequence[tuple[str, list[Row]]]) -> bytes:
    """Order, weights and stopping from the whole panel's words on pairs with human labels.

    Args:
        results: per pair its prompt's id and the panel's votes.

    Returns:
        Empty if fewer than `MIN_LABELLED` pairs got a word: the panel stays untrained.
    """
    prompt_of = {vote["pair_id"]: prompt for prompt, votes in results for vote in votes}
    words = words_of([vote for _, votes in results for vote in votes], setup.names)
    if len(words) < MIN_LABELLED:
        return b""
    labels, pairs = setup.labels or {}, sorted(words)
    targets = np.array([labels[pair] for pair in pairs])
    groups = [prompt_of[pair] for pair in pairs]
    costs = [setup.panel.costs.get(name, 1.0) for name in setup.names]
    stacked = np.stack([words[pair] for pair in pairs])
    return fit_panel(stacked, targets, groups, setup.names, costs, seed=setup.seed).to_json()


def _check(run: Run, _: Judges, summary: Summary) -> None:
    """End the run where no vote counts, unless the recipe lets all fail.

    Raises:
        EngineError: with counts, and what the judges' words were taken for.
    """
    votes, lost = summary.counts.get("votes", 0), summary.counts.get("not_counted", 0)
    if votes and lost == votes and run.recipe.judge.max_failed_share < 1.0:
        raise EngineError(
            f"stage judge: none of {votes:,} votes counts ({_why_not(run)}): a version without a judge's vote is "
            "worse than none. Change the judges' template, model or max_tokens, or allow it with "
            "max_failed_share: 1"
        )


def _why_not(run: Run) -> str:
    """The votes that do not count, by state, with an example."""
    frames = [run.workspace.read("votes", bucket, ("judge",), ("label", "detail")) for bucket in run.workspace.buckets]
    votes = pl.concat(frames)
    counts = votes["label"].value_counts().sort("count", "label", descending=[True, False])
    examples: list[str] = votes["detail"].drop_nulls().sort().head(1).to_list()
    states = ", ".join(f"{n:,} {label}" for label, n in counts.iter_rows())
    return "; for example: ".join([states, *examples])


def _notes(_run: Run, setup: Judges, _artefacts: Artefacts, summary: Summary) -> list[str]:
    """Which votes do not count, and whether the panel can stop at all."""
    notes = []
    votes, lost = summary.counts.get("votes", 0), summary.counts.get("not_counted", 0)
    if lost:
        notes.append(f"stage judge: {lost:,} of {votes:,} votes do not count (invalid, refused or error)")
    if setup.judges and setup.panel.is_sequential and setup.labels is None:
        notes.append(untrained_note(setup.names, setup.panel.stop_certainty))
    return notes


def untrained_note(names: Sequence[str], stop_certainty: float) -> str:
    """What a panel can do without people's labels."""
    note = (
        f"stage judge: the panel is untrained, for fewer than {MIN_LABELLED} pairs have a human label (in sources or "
        "through `annotate`): judges count alike, and min_change has no effect"
    )
    most = untrained_panel(names).most_certain(len(names) - 1)
    if most >= stop_certainty:
        return note
    return f"{note}; P(the label) is {most:.2f} at most before the last judge, so stop_certainty spares no pair a judge"


JUDGE = Stage(
    name="judge",
    version=1,
    reads={"pairs": PAIR_STAGES},
    setup=_setup,
    observe=_observe,
    work=PerUnit(
        section=attrgetter("judge"),
        engines=attrgetter("engines"),
        count=_count,
        units=prompt_units,
        output=all_votes,
        fit=AskingFit(_PANEL, "to fit the panel", _learns, _labelled_units, panel_from_labels),
    ),
    is_idle=_is_idle,
    conserves="pairs",
    check=_check,
    notes=_notes,
)
