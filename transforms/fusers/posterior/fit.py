"""Fitting the posterior: weights averaged over priors by evidence, and a temperature fitted out of fold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.fusers.posterior.agreement import agreement_of, with_offset
from transforms.fusers.posterior.design import AGREEMENT, LENGTH, columns_of, design_matrix, prior_weights
from transforms.fusers.posterior.priors import Prior, averaged_weights, prior_of, weights_under
from transforms.fusers.posterior.ties import fit_ties, tie_features
from transforms.stats.calibration import calibration_report, fit_temperature
from transforms.stats.human_labels import human_accuracy, human_cells, human_targets
from transforms.stats.isotonic import fit_isotonic, out_of_fold_isotonic
from transforms.stats.known_answers import known_labels
from transforms.stats.vote_cells import assign_slots, cells_of, describe_voters, opinionated, voter_rows

Floats = NDArray[np.float64]
SPREAD = 0.35  # of the logarithm of the temperature
KNOWN_SPREAD = 0.1  # the same where agreement knows the weights
MIN_LABELS_TO_CALIBRATE = 10


@dataclass(frozen=True)
class _Weights:
    """Weights, their temperature, and log-odds of each labelled pair by weights that did not see its prompt."""

    weights: Floats
    temperature: float
    out_of_fold: Floats
    widths: list[dict[str, float]]


def fit_model(
    votes: pl.DataFrame,
    pairs: pl.DataFrame,
    *,
    human_prior: float,
    prior_tie: float,
    trust: float,
    slices: tuple[str, ...],
    folds: int,
    steps: bool = False,
) -> dict[str, Any]:
    """See `Posterior.fit`; `votes` are `valid_votes`, and `steps` asks for an isotonic map after the temperature."""
    pairs = pairs.unique("pair_id").sort("pair_id")
    votes = votes.join(pairs.select("pair_id"), on="pair_id", how="semi", maintain_order="left")
    machine = votes.filter(pl.col("kind") != "human")
    everyone = assign_slots(machine, _described(machine, pairs))
    voters = opinionated(everyone)
    known = known_labels(pairs)
    human_votes = votes.filter(pl.col("kind") == "human")
    humans = human_accuracy(human_votes, known, human_prior)
    targets = human_targets(human_cells(human_votes, humans, human_prior), known)

    labelled = pairs.join(targets, on="pair_id", how="inner", maintain_order="left")
    # A control's answer is its source's label: it is evidence about everybody but the source.
    own = (pl.col("kind") == "source") & pl.col("pair_id").is_in(known["pair_id"].implode())
    evidence = machine.filter(~own).join(labelled.select("pair_id"), on="pair_id", how="semi", maintain_order="left")
    cells = cells_of(evidence, voters)
    agreement = agreement_of(machine, pairs, voters)
    if agreement.identified:
        labelled = with_offset(agreement, cells, labelled)
    columns = columns_of(voters, labelled, slices, agreement=agreement.identified)
    mean, variance = prior_weights(columns, voters, trust, agreement)
    strict = labelled["target"].is_not_null().to_numpy()
    target = labelled["target"].fill_null(0.5).to_numpy()
    fold = np.array([int(p[:15], 16) % folds for p in labelled["prompt_id"].to_list()], dtype=np.int64)
    averaged = _averaged(
        design_matrix(cells, labelled, columns),
        target,
        strict.astype(np.float64),
        fold,
        prior_of(columns, mean, variance, known=agreement.identified),
        KNOWN_SPREAD if agreement.identified else SPREAD,
    )
    table = dict(zip(columns, averaged.weights.tolist(), strict=True))
    everyone = everyone.with_columns(
        pl.Series(f"{short}_{form}", [table.get((part, form, who, ""), 0.0) for who in everyone[key]], dtype=pl.Float64)
        for short, part, key in (("w", "own", "slot"), ("u", "group", "group"))
        for form in ("sign", "strength")
    )
    z = averaged.out_of_fold / averaged.temperature
    knots = fit_isotonic(z[strict], target[strict]) if steps else None
    shown = out_of_fold_isotonic(z[strict], target[strict], fold[strict]) if steps else z[strict]
    return {
        "voters": _reliability(everyone, cells, labelled, averaged.temperature),
        "humans": voter_rows(humans),
        "slices": {
            family: [
                {"level": level, "group": group, "weight": weight}
                for (part, name, group, level), weight in table.items()
                if part == "slice" and name == family
            ]
            for family in slices
        },
        "length": table.get(LENGTH, 0.0),
        "agreement": agreement.to_json() | {"weight": table.get(AGREEMENT, 0.0)},
        "calibrated_by": _calibrated_by(fold[strict], identified=agreement.identified),
        "temperature": averaged.temperature,
        "isotonic": knots,
        "widths": averaged.widths,
        "tie": fit_ties(_tie_features(labelled, cells, voters, z), labelled["tie"].to_numpy(), prior_tie),
        "calibration": calibration_report(shown, target[strict]),
        "n_pairs": len(pairs),
        "n_votes": len(votes),
        "n_labels": len(labelled),
    }


def _calibrated_by(fold: NDArray[np.int64], *, identified: bool) -> str | None:
    """What probabilities rest on: "people" (labels or known answers), "agreement" (of independent voters), or None.

    Args:
        fold: (n,) the folds of the labels that name a side.
    """
    if _can_calibrate(fold):
        return "people"
    return "agreement" if identified else None


def _can_calibrate(fold: NDArray[np.int64]) -> bool:
    """Whether a temperature can be fitted out of fold."""
    return len(fold) >= MIN_LABELS_TO_CALIBRATE and len(np.unique(fold)) > 1


def _described(votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`describe_voters` on the random part of the sample (`drawn`); on all of it for voters that are not in there.

    Pairs that were sent to people are those on which voters differ: among them every voter looks inconsistent.
    """
    if "drawn" not in pairs.columns or pairs["drawn"].all():
        return describe_voters(votes)
    drawn = votes.join(pairs.filter(pl.col("drawn")).select("pair_id"), on="pair_id", how="semi", maintain_order="left")
    others = votes.join(drawn.select("voter").unique(), on="voter", how="anti", maintain_order="left")
    return pl.concat([describe_voters(drawn), describe_voters(others)]).sort("voter")


def _averaged(
    design: Any, target: Floats, counts: Floats, fold: NDArray[np.int64], prior: Prior, spread: float
) -> _Weights:
    """Weights averaged over the hypotheses of `priors.py`, then calibrated.

    Evidence needs no held-out labels, so fifty labels can tell whether slices matter; the temperature is fitted
    on predictions out of fold, because weights are surer of the labels they saw.
    """
    if counts.sum() < 1:
        return _Weights(prior.mean, 1.0, np.asarray(design @ prior.mean), [])
    weights, used = averaged_weights(design, target, counts, prior)
    widths = [asdict(h) for h in used]
    if not _can_calibrate(fold[counts > 0]):
        return _Weights(weights, 1.0, np.asarray(design @ prior.mean), widths)
    z: Floats = np.zeros(len(target), dtype=np.float64)
    for f in np.unique(fold):
        test = fold == f
        z[test] = design[test] @ weights_under(used, design[~test], target[~test], counts[~test], prior)
    return _Weights(weights, fit_temperature(z, target, counts, spread), z, widths)


def _tie_features(labelled: pl.DataFrame, cells: pl.DataFrame, voters: pl.DataFrame, z: Floats) -> pl.DataFrame:
    """`tie_features` of the labelled pairs with out-of-fold log-odds `z`."""
    odds = labelled.select("pair_id").with_columns(pl.Series("_z", z))
    decided = (
        cells.join(odds, on="pair_id", how="left", maintain_order="left")
        .join(voters.select("voter", pl.col("ties").alias("usual_ties")), on="voter", maintain_order="left")
        .with_columns((pl.col("_z") / pl.len().over("pair_id")).alias("log_odds"))
    )
    return tie_features(labelled, decided)


def _reliability(
    voters: pl.DataFrame, cells: pl.DataFrame, labelled: pl.DataFrame, temperature: float
) -> dict[str, dict[str, Any]]:
    """The reliability table: `voters` with agreement with the labels, and the log-odds of each value of a lone vote."""
    truth = labelled.select("pair_id", (2 * pl.col("target") - 1).alias("_truth")).filter(pl.col("_truth") != 0)
    agree = pl.col("sign") * pl.col("_truth")
    agreement = (
        cells.join(truth, on="pair_id")
        .group_by("voter")
        .agg(
            pl.len().cast(pl.Int64).alias("n_labelled"),
            ((agree > 0).mean() + 0.5 * (agree == 0).mean()).alias("accuracy"),
        )
    )
    rows = voter_rows(
        voters.join(agreement, on="voter", how="left", maintain_order="left").with_columns(
            pl.col("n_labelled").fill_null(0)
        )
    )
    for row in rows.values():
        weight = (row["w_sign"] + row["w_strength"] + row["u_sign"] + row["u_strength"]) / temperature
        bias = row["bias"]
        row["log_odds"] = {
            "a": weight,
            "b": -weight,
            "first": weight * (1 - bias),
            "second": -weight * (1 + bias),
            "tie": -weight * bias,
        }
    return rows
