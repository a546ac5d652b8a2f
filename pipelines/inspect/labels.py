"""How many of the answers asked for have come: what a scheduler asks while people label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.runtime.annotation import asked, queue
from pipelines.runtime.run import checked_recipe
from pipelines.runtime.stage import Run
from pipelines.stages.pull import fetch, fetched
from transforms.storage.workspace import Workspace


@dataclass(frozen=True)
class LabelStatus:
    """Answers asked for and answers given.

    Attributes:
        wanted: answers asked for: the sum of the overlaps of all asked pairs.
        answered: valid answers by different people, counted up to what each pair wants.
        pairs: pairs asked about.
        pairs_answered: pairs with every answer they want.
        rejected: answers that could not be believed.
    """

    wanted: int
    answered: int
    pairs: int
    pairs_answered: int
    rejected: int


def label_status(path: Path, root: str) -> LabelStatus:
    """Fetch what is new from the server or the recipe's files and count it; votes change only with stage pull.

    Raises:
        RecipeError: the recipe is wrong.
        WorkspaceError: no workspace at `root`.
        AnnotationServerError: the server does not answer; ask again later.
    """
    file = checked_recipe(path)
    workspace = Workspace.open(root)
    fetch(Run(workspace, file.recipe, file.base_dir.resolve()))
    answers = fetched(workspace)
    on_server = file.recipe.annotate.plugin == "label_studio"
    return counted(asked(workspace) if on_server else queue(workspace), answers.annotations, answers.rejects.height)


def counted(tasks: pl.DataFrame, annotations: pl.DataFrame, rejected: int) -> LabelStatus:
    """Compare what was asked (`schemas.tables.Queue`) with what was answered (`schemas.tables.Annotations`)."""
    people = annotations.filter(~pl.col("cancelled")).group_by("pair_id").agg(pl.col("annotator").n_unique().alias("n"))
    both = tasks.select("pair_id", "overlap").join(people, on="pair_id", how="left").fill_null(0)
    given = both.select(pl.min_horizontal("n", "overlap")).to_series()
    return LabelStatus(
        wanted=int(both["overlap"].sum()),
        answered=int(given.sum()),
        pairs=both.height,
        pairs_answered=int((both["n"] >= both["overlap"]).sum()),
        rejected=rejected,
    )
