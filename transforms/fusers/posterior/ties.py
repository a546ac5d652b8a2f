"""P(neither response is better), from how many more ties than usual the voters cast and how far they are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import scipy

from transforms.stats.logistic import fit_logistic

FEATURES = ("constant", "ties", "decided")
PRIOR_WEIGHTS = (4.0, -1.0)  # of "ties" and "decided"
PRIOR_VARIANCE = (1.0, 4.0, 1.0)
HUMAN_LOG_ODDS = float(scipy.special.logit(0.8))


def tie_features(pairs: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Per pair: `ties` (mean over groups of the share of ties above each voter's usual share) and `decided`
    (tanh of half the fused log-odds, absolute value). Both stay as they are when a and b are exchanged.
    """
    by_group = (
        cells.sort("pair_id", "group", "voter")
        .group_by("pair_id", "group", maintain_order=True)
        .agg(
            ((pl.col("ties") - pl.col("usual_ties")) * pl.col("share")).sum() / pl.col("share").sum(),
            pl.col("log_odds").sum(),
        )
        .group_by("pair_id", maintain_order=True)
        .agg(pl.col("ties").mean(), (pl.col("log_odds").sum() / 2).tanh().abs().alias("decided"))
    )
    return (
        pairs.select("pair_id")
        .join(by_group, on="pair_id", how="left", maintain_order="left")
        .with_columns(pl.col("ties").fill_null(0.0), pl.col("decided").fill_null(0.0))
    )


def fit_ties(features: pl.DataFrame, tie: np.ndarray[Any, np.dtype[np.float64]], prior_tie: float) -> dict[str, Any]:
    """The tie model: weights by feature name.

    Args:
        features: `tie_features` of labelled pairs.
        tie: 1 where humans said neither is better.
        prior_tie: share of ties before any evidence.
    """
    mean = np.array([scipy.special.logit(prior_tie), *PRIOR_WEIGHTS])
    design = np.column_stack([np.ones(len(features)), features["ties"].to_numpy(), features["decided"].to_numpy()])
    weights = fit_logistic(design, tie, np.ones(len(tie)), mean, np.array(PRIOR_VARIANCE)).weights
    return {"weights": dict(zip(FEATURES, weights.tolist(), strict=True)), "n_labels": len(tie)}


def tie_probability(
    model: dict[str, Any], pairs: pl.DataFrame, cells: pl.DataFrame, human: pl.DataFrame
) -> pl.DataFrame:
    """`pair_id, p_tie`: by the tie model, and by each human's own answer."""
    weights = model["weights"]
    human_ties = human.group_by("pair_id").agg(
        ((2 * pl.col("ties") - 1) * pl.col("share") * HUMAN_LOG_ODDS).sum().alias("_human")
    )
    frame = tie_features(pairs.unique("pair_id", maintain_order=True), cells).join(human_ties, on="pair_id", how="left")
    z = (
        weights["constant"]
        + weights["ties"] * frame["ties"].to_numpy()
        + weights["decided"] * frame["decided"].to_numpy()
        + frame["_human"].fill_null(0.0).to_numpy()
    )
    return frame.select("pair_id").with_columns(pl.Series("p_tie", scipy.special.expit(z)))
