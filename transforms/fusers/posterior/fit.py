"""Fitting the posterior: weights averaged over prior widths by evidence, and a temperature fitted out of fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.fusers.posterior.agreement import agreement_of, with_offset
from transforms.fusers.posterior.design import AGREEMENT, LENGTH, columns_of, design_matrix, prior_weights
from transforms.fusers.posterior.ties import fit_ties, tie_features
from transforms.stats.calibration import calibration_report, fit_temperature
from transforms.stats.human_labels import human_accuracy, human_cells, human_targets
from transforms.stats.isotonic import fit_isotonic, out_of_fold_isotonic
from transforms.stats.known_answers import known_labels
from transforms.stats.logistic import fit_logistic
from transforms.stats.vote_cells import assign_slots, cells_of, describe_voters, opinionated, voter_rows

Floats = NDArray[np.float64]
WIDTHS = {0.3: 1 / 3, 1.0: 1 / 3, 3.0: 1 / 3}  # what prior variances of weights are multiplied with: how probable it is
KNOWN_WIDTHS = {
    1.0: 0.9,
    6.0: 0.09,
    36.0: 0.01,
}  # the same where agreement knows the weights: wide if labels contradict
KNOWN_SPREAD = 0.1  # of the logarithm of the temperature, there
SLICE_WIDTHS = (0.01, 0.1, 1.0, 5.0)  # and those of the slices' changes to them
NEGLIGIBLE = 0.05  # posterior probability of a pair of widths below which it is left out
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
    is_slice = np.array([column[0] == "slice" for column in columns], dtype=bool)
    averaged = _averaged(
        design_matrix(cells, labelled, columns),
        target,
        strict.astype(np.float64),
        fold,
        mean,
        variance,
        is_slice,
        known=agreement.identified,
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
    design: Any,
    target: Floats,
    counts: Floats,
    fold: NDArray[np.int64],
    mean: Floats,
    variance: Floats,
    is_slice: NDArray[np.bool_],
    *,
    known: bool,
) -> _Weights:
    """Weights averaged over prior widths in proportion to their evidence (MacKay 1992), then calibrated.

    Evidence needs no held-out labels, so fifty labels can tell whether slices matter; the temperature is fitted
    on predictions out of fold, because weights are surer of the labels they saw.
    """

    def prior_variance(width: float, slice_width: float) -> Floats:
        return np.where(is_slice, variance * slice_width, variance * width)

    if counts.sum() < 1:
        return _Weights(mean, 1.0, np.asarray(design @ mean), [])
    chance = KNOWN_WIDTHS if known else WIDTHS
    grid = [(w, s) for w in chance for s in (SLICE_WIDTHS if is_slice.any() else SLICE_WIDTHS[:1])]
    fits = [fit_logistic(design, target, counts, mean, prior_variance(*point)) for point in grid]
    evidence = np.array([f.evidence + np.log(chance[w]) for f, (w, _) in zip(fits, grid, strict=True)])
    share = np.exp(evidence - evidence.max())
    share = np.where(share / share.sum() < NEGLIGIBLE, 0.0, share)
    share /= share.sum()
    weights = np.sum([s * f.weights for s, f in zip(share, fits, strict=True)], axis=0)
    used = [(s, point) for s, point in zip(share.tolist(), grid, strict=True) if s > 0]
    widths = [{"voters": w, "slices": s, "probability": p} for p, (w, s) in used]
    if not _can_calibrate(fold[counts > 0]):
        return _Weights(weights, 1.0, np.asarray(design @ mean), widths)
    z: Floats = np.zeros(len(target), dtype=np.float64)
    for f in np.unique(fold):
        test = fold == f
        for probability, point in used:
            fit = fit_logistic(design[~test], target[~test], counts[~test], mean, prior_variance(*point))
            z[test] += probability * (design[test] @ fit.weights)
    temperature = fit_temperature(z, target, counts, **({"spread": KNOWN_SPREAD} if known else {}))
    return _Weights(weights, temperature, z, widths)


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
