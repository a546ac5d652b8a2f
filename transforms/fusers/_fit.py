"""Fitting the posterior: features of labelled pairs, priors from self-consistency, width and temperature by folds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from transforms.fusers._calibration import calibration_report, fit_temperature, log_loss
from transforms.fusers._humans import human_accuracy, human_cells, human_targets
from transforms.fusers._logistic import fit_logistic
from transforms.fusers._slices import known_labels
from transforms.fusers._ties import fit_ties, tie_features
from transforms.fusers._votes import assign_slots, cells_of, describe_voters, voter_rows

Floats = NDArray[np.float64]
WIDTHS = (0.1, 0.3, 1.0, 3.0)  # what the prior variances are multiplied with, the best out of fold
GROUP_VARIANCE = 0.25
VOTER_VARIANCE = 3.0
SLICE_VARIANCE = 0.1
MIN_SLICE_LABELS = 8
MIN_LABELS_TO_TUNE = 10
CONSISTENCY_POWER = 4.0
FLOOR = 0.03


def fit_model(
    votes: pl.DataFrame,
    pairs: pl.DataFrame,
    *,
    human_prior: float,
    prior_tie: float,
    trust: float,
    slices: tuple[str, ...],
    folds: int,
) -> dict[str, Any]:
    """See `Posterior.fit`; `votes` are `valid_votes`."""
    pairs = pairs.unique("pair_id").sort("pair_id")
    votes = votes.join(pairs.select("pair_id"), on="pair_id", how="semi")
    machine = votes.filter(pl.col("kind") != "human")
    voters = assign_slots(machine, describe_voters(machine))
    known = known_labels(pairs)
    human_votes = votes.filter(pl.col("kind") == "human")
    humans = human_accuracy(human_votes, known, human_prior)
    targets = human_targets(human_cells(human_votes, humans, human_prior), known)

    labelled = pairs.join(targets, on="pair_id", how="inner", maintain_order="left")
    cells = cells_of(machine.join(labelled.select("pair_id"), on="pair_id", how="semi"), voters)
    design, columns = design_matrix(cells, voters, labelled, slices)
    mean, variance = prior_weights(columns, voters, trust)
    strict = labelled["target"].is_not_null().to_numpy()
    target = labelled["target"].fill_null(0.5).to_numpy()
    fold = np.array([int(p[:15], 16) % folds for p in labelled["prompt_id"].to_list()], dtype=np.int64)
    weights, temperature, out_of_fold, width = _tuned(design, target, strict.astype(np.float64), fold, mean, variance)

    table = dict(zip(columns, weights.tolist(), strict=True))
    model_voters = voter_rows(
        voters.with_columns(
            pl.Series("w_sign", [table.get(("own", "sign", s, ""), 0.0) for s in voters["slot"]], dtype=pl.Float64),
            pl.Series(
                "w_strength", [table.get(("own", "strength", s, ""), 0.0) for s in voters["slot"]], dtype=pl.Float64
            ),
            pl.Series("u_sign", [table.get(("group", "sign", g, ""), 0.0) for g in voters["group"]], dtype=pl.Float64),
            pl.Series(
                "u_strength", [table.get(("group", "strength", g, ""), 0.0) for g in voters["group"]], dtype=pl.Float64
            ),
        )
    )
    _add_reliability(model_voters, cells, labelled, temperature)
    decided = cells.join(
        labelled.select("pair_id").with_columns(pl.Series("_z", out_of_fold / temperature)), on="pair_id", how="left"
    ).with_columns(
        (pl.col("_z") / pl.len().over("pair_id")).alias("log_odds"),
        pl.col("voter").replace_strict(voters["voter"], voters["ties"], return_dtype=pl.Float64).alias("usual_ties"),
    )
    return {
        "voters": model_voters,
        "humans": voter_rows(humans),
        "slices": {
            family: [
                {"level": level, "group": group, "weight": value}
                for (part, name, group, level), value in table.items()
                if part == "slice" and name == family
            ]
            for family in slices
        },
        "temperature": temperature,
        "width": width,
        "tie": fit_ties(tie_features(labelled, decided), labelled["tie"].to_numpy(), prior_tie),
        "calibration": calibration_report(out_of_fold[strict] / temperature, target[strict]),
        "n_pairs": len(pairs),
        "n_votes": len(votes),
        "n_labels": len(labelled),
    }


Column = tuple[str, str, str, str]  # (own|group|slice, sign|strength|family, slot or group, slice level)


def design_matrix(
    cells: pl.DataFrame, voters: pl.DataFrame, labelled: pl.DataFrame, slices: tuple[str, ...]
) -> tuple[Any, list[Column]]:
    """Sparse features of the labelled pairs, one row each, and what each column stands for."""
    numeric = dict(zip(voters["voter"], voters["numeric"], strict=True))
    slots = sorted(set(voters["slot"]))
    groups = sorted(set(voters["group"]))
    numeric_groups = sorted({g for g, n in zip(voters["group"], voters["numeric"], strict=True) if n})
    columns: list[Column] = [("own", "sign", s, "") for s in slots]
    columns += [("own", "strength", s, "") for s in slots if numeric[s]]
    columns += [("group", "sign", g, "") for g in groups]
    columns += [("group", "strength", g, "") for g in numeric_groups]
    for family in slices:
        if family in labelled.columns:
            counts = labelled[family].drop_nulls().value_counts().sort(family)
            levels = counts.filter(pl.col("count") >= MIN_SLICE_LABELS)[family].cast(pl.String).to_list()
            if counts.height > 1:
                columns += [("slice", family, g, level) for level in levels for g in groups]
    index = {column: i for i, column in enumerate(columns)}
    row_of = {pair: i for i, pair in enumerate(labelled["pair_id"].to_list())}
    rows: list[NDArray[np.int64]] = []
    cols: list[NDArray[np.int64]] = []
    values: list[Floats] = []

    def add(keys: list[Column], value: Floats) -> None:
        found = np.array([index.get(key, -1) for key in keys], dtype=np.int64)
        inside = found >= 0
        rows.append(row[inside])
        cols.append(found[inside])
        values.append(value[inside])

    row = np.array([row_of[p] for p in cells["pair_id"].to_list()], dtype=np.int64)
    share = cells["share"].to_numpy()
    shared = share / cells["present"].to_numpy()
    sign, strength = cells["sign"].to_numpy(), cells["strength"].to_numpy()
    slot, group = cells["slot"].to_list(), cells["group"].to_list()
    add([("own", "sign", s, "") for s in slot], sign * share)
    add([("own", "strength", s, "") for s in slot], strength * share)
    add([("group", "sign", g, "") for g in group], sign * shared)
    add([("group", "strength", g, "") for g in group], strength * shared)
    for family in slices:
        if family in labelled.columns:
            level_of = dict(zip(labelled["pair_id"], labelled[family].cast(pl.String), strict=True))
            keys = [("slice", family, g, level_of[p] or "") for g, p in zip(group, cells["pair_id"], strict=True)]
            add(keys, strength * shared)
    shape = (len(labelled), len(columns))
    matrix = sparse.coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=shape)
    return matrix.tocsr(), columns


def prior_weights(columns: list[Column], voters: pl.DataFrame, trust: float) -> tuple[Floats, Floats]:
    """Prior mean and variance of each column's weight, from what is known without labels.

    The mean shares `trust` among the slots in proportion to consistency ** CONSISTENCY_POWER / group size:
    groups count alike however many members they have, and a voter that contradicts itself counts little.
    The variance of a voter's own weight is proportional to its squared consistency.
    """
    slots = voters.filter(pl.col("voter") == pl.col("slot"))
    size = dict(slots.group_by("group").len().iter_rows())
    steady = {row["voter"]: max(row["consistency"], 0.0) for row in slots.iter_rows(named=True)}
    numeric = dict(zip(slots["voter"], slots["numeric"], strict=True))
    group = dict(zip(slots["voter"], slots["group"], strict=True))
    raw = {s: r**CONSISTENCY_POWER / size[group[s]] for s, r in steady.items()}
    mean_consistency = sum(r / size[group[s]] for s, r in steady.items()) / max(len(size), 1)
    total = sum(raw.values())
    mean, variance = np.zeros(len(columns)), np.zeros(len(columns))
    for i, (part, _form, who, _level) in enumerate(columns):
        if part == "own":
            halves = 2.0 if numeric[who] else 1.0
            mean[i] = trust * mean_consistency * raw[who] / total / halves if total > 0 else 0.0
            variance[i] = VOTER_VARIANCE * (steady[who] + FLOOR) ** 2 / halves
        elif part == "group":
            variance[i] = GROUP_VARIANCE
        else:
            variance[i] = SLICE_VARIANCE
    return mean, variance


def _tuned(
    design: Any, target: Floats, weight: Floats, fold: NDArray[np.int64], mean: Floats, variance: Floats
) -> tuple[Floats, float, Floats, float]:
    """Weights, temperature, out-of-fold log-odds (before temperature) and the width chosen."""
    if weight.sum() < MIN_LABELS_TO_TUNE or len(np.unique(fold[weight > 0])) < 2:
        weights = fit_logistic(design, target, weight, mean, variance)
        return weights, 1.0, np.asarray(design @ mean), 1.0
    best: tuple[float, float, Floats] | None = None
    for width in WIDTHS:
        z: Floats = np.zeros(len(target), dtype=np.float64)
        for f in np.unique(fold):
            test = fold == f
            w = fit_logistic(design[~test], target[~test], weight[~test], mean, variance * width)
            z[test] = design[test] @ w
        loss = log_loss(z / fit_temperature(z, target, weight), target, weight)
        if best is None or loss < best[0] - 1e-12:
            best = (loss, width, z)
    assert best is not None
    _, width, z = best
    weights = fit_logistic(design, target, weight, mean, variance * width)
    return weights, fit_temperature(z, target, weight), z, width


def _add_reliability(
    voters: dict[str, dict[str, Any]], cells: pl.DataFrame, labelled: pl.DataFrame, temperature: float
) -> None:
    """Per voter: agreement with the labels and the log-odds that each value of its vote adds when it votes alone."""
    truth = labelled.select("pair_id", (2 * pl.col("target") - 1).alias("_truth")).drop_nulls()
    agreement = (
        cells.join(truth, on="pair_id")
        .with_columns((pl.col("sign") * pl.col("_truth")).alias("_agree"))
        .filter(pl.col("_truth") != 0)
        .group_by("voter")
        .agg(
            pl.len().alias("n"),
            ((pl.col("_agree") > 0).mean() + 0.5 * (pl.col("_agree") == 0).mean()).alias("accuracy"),
        )
    )
    found = {row["voter"]: row for row in agreement.iter_rows(named=True)}
    for name, row in voters.items():
        weight = (row["w_sign"] + row["w_strength"] + row["u_sign"] + row["u_strength"]) / temperature
        bias = row["bias"]
        row["n_labelled"] = found[name]["n"] if name in found else 0
        row["accuracy"] = found[name]["accuracy"] if name in found else None
        row["log_odds"] = {
            "first": weight * (1 - bias),
            "second": weight * (-1 - bias),
            "tie": -weight * bias,
            "a": weight,
            "b": -weight,
        }
        if not math.isfinite(weight):
            raise ValueError(f"voter {name!r} has a weight that is not a number")
