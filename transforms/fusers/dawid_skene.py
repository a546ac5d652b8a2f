"""`dawid_skene`: a confusion matrix per voter, learned by expectation maximisation (Dawid & Skene 1979)."""

from __future__ import annotations

import math
from typing import ClassVar

import polars as pl
import scipy
from pydantic import Field

from schemas.tables import PREFERENCES, Row
from transforms.fusers._crowdkit import aggregation, labels_of_humans, quiet_pandas, task_worker_label, worker_cells
from transforms.fusers.base import Fuser
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.stats.verdict_rows import verdicts
from transforms.stats.vote_cells import valid_votes


@register("dawid_skene")
class DawidSkene(Fuser):
    """A baseline: crowd-kit's EM, with the pairs that humans decided as its known answers.

    It takes voters as independent given the truth, so it is overconfident with correlated judges, and where
    most of them share a bias it makes the bias the truth. A judge's two orders are two workers.
    """

    class Config(PluginConfig):
        """Stopping rule."""

        iterations: int = Field(100, ge=1)

    config: Config
    version: ClassVar[int] = 2

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """`priors` of the labels and `errors`: {worker: {vote: {truth: probability}}}."""
        valid = valid_votes(votes).join(pairs.select("pair_id").unique(), on="pair_id", how="semi")
        if not len(valid):
            return {"priors": dict.fromkeys(PREFERENCES, 1 / 3), "errors": {}}
        by_people = labels_of_humans(valid, pairs)
        label = pl.when(pl.col("tie") == 1).then(pl.lit("tie")).when(pl.col("target") == 1).then(pl.lit("a"))
        known = by_people.with_columns(label.when(pl.col("target") == 0).then(pl.lit("b")).alias("label")).drop_nulls(
            "label"
        )
        present = set(valid["label"])
        known = known.filter(pl.col("label").is_in(sorted(present)))
        truth = known.select("pair_id", "label").to_pandas().set_index("pair_id")["label"] if len(known) else None
        em = aggregation("DawidSkene")(n_iter=self.config.iterations)
        with quiet_pandas():
            em.fit(task_worker_label(valid), truth)
        errors: dict[str, dict[str, dict[str, float]]] = {}
        for (worker, vote), row in em.errors_.iterrows():
            errors.setdefault(str(worker), {})[str(vote)] = {str(k): float(v) for k, v in row.items()}
        return {"priors": {str(k): float(v) for k, v in em.priors_.items()}, "errors": errors}

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Verdicts of `pairs` by one E step with the learned matrices."""
        valid = valid_votes(votes)
        rows = [
            {
                "worker": worker,
                "label": vote,
                "log_odds": _log(p.get("a")) - _log(p.get("b")),
                "log_tie": _log(p.get("tie")) - (_log(p.get("a")) + _log(p.get("b"))) / 2,
            }
            for worker, by_vote in model["errors"].items()
            for vote, p in by_vote.items()
        ]
        schema = {"worker": pl.String, "label": pl.String, "log_odds": pl.Float64, "log_tie": pl.Float64}
        cells = worker_cells(valid, pl.DataFrame(rows, schema=schema))
        priors = model["priors"]
        prior = _log(priors.get("a")) - _log(priors.get("b"))
        tie_prior = _log(priors.get("tie")) - (_log(priors.get("a")) + _log(priors.get("b"))) / 2
        # In units where log P(a) = z / 2 and log P(b) = -z / 2, "log_tie" sums to log P(tie).
        p_tie = (
            pairs.select("pair_id")
            .unique(maintain_order=True)
            .join(
                cells.group_by("pair_id").agg(pl.col("log_odds").sum(), pl.col("log_tie").sum()),
                on="pair_id",
                how="left",
            )
            .with_columns(
                ((pl.col("log_odds").fill_null(0.0) + prior) / 2).abs().alias("_half"),
                (pl.col("log_tie").fill_null(0.0) + tie_prior).alias("_tie"),
            )
            .with_columns((pl.col("_half") + (-2 * pl.col("_half")).exp().log1p() - pl.col("_tie")).alias("_against"))
            .select(
                "pair_id",
                (-pl.col("_against")).map_batches(scipy.special.expit, return_dtype=pl.Float64).alias("p_tie"),
            )
        )
        return verdicts(pairs.with_columns(pl.lit(prior).alias("prior")), valid, cells, p_tie)


def _log(probability: float | None) -> float:
    return math.log(max(probability or 0.0, 1e-10))
