"""The posterior's regression: its columns, their values on labelled pairs, and what is believed before any label."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import scipy
from numpy.typing import NDArray

from transforms.stats.agreement.learn import Agreement, VoterEstimate

Floats = NDArray[np.float64]
# (own | group | slice | length | agreement, sign | strength | family, slot or group, level)
Column = tuple[str, str, str, str]
LENGTH: Column = ("length", "", "", "")
AGREEMENT: Column = ("agreement", "", "", "")  # what lengths say of a pair by the model of agreement (`agreement.py`)
GROUP_VARIANCE = 0.25
VOTER_VARIANCE = 3.0
LENGTH_VARIANCE = 1.0
LENGTH_CLIP = 4.0  # e-folds; beyond this a text is a blank or a dump, and how long it is says nothing more
SLICE_VARIANCE = 1.0
CONSISTENCY_POWER = 4.0
MISFIT_VARIANCE = 0.04  # of any weight where agreement knows them, beyond its standard error: a model is a model
FLOOR = 0.03  # of a voter's consistency, so that labels can rescue one that contradicts itself
USUAL_STRENGTH = 0.46  # tanh(1/2): of a vote whose score or logit is its voter's median


def length_feature() -> pl.Expr:
    """log of length_a / length_b (characters), clipped: in [-4, 4], mirrored with the responses; 0 if unknown."""
    ratio = (pl.col("length_a").cast(pl.Float64) + 1) / (pl.col("length_b").cast(pl.Float64) + 1)
    return ratio.log().clip(-LENGTH_CLIP, LENGTH_CLIP).fill_null(0.0)


def columns_of(
    voters: pl.DataFrame, labelled: pl.DataFrame, slices: tuple[str, ...], *, agreement: bool
) -> list[Column]:
    """What is learned: a weight for every slot's votes, every group's mean vote, every (slice, group), and length.

    Args:
        voters: `voter, slot, group, numeric`.
        labelled: the labelled pairs; a slice column counts if it has two values or more.
        slices: names of slice columns.
        agreement: whether reliabilities are known from agreement, which has an opinion by length, too.
    """
    numeric = dict(voters.select("voter", "numeric").iter_rows())
    slots = sorted(set(voters["slot"]))
    groups = sorted(set(voters["group"]))
    numeric_groups = sorted(set(voters.filter(pl.col("numeric"))["group"]))
    columns: list[Column] = [("own", "sign", s, "") for s in slots]
    columns += [("own", "strength", s, "") for s in slots if numeric[s]]
    columns += [("group", "sign", g, "") for g in groups]
    columns += [("group", "strength", g, "") for g in numeric_groups]
    for family in slices:
        if family in labelled.columns:
            levels = sorted(labelled[family].drop_nulls().cast(pl.String).unique())
            if len(levels) > 1:
                columns += [("slice", family, g, level) for level in levels for g in groups]
    columns += [AGREEMENT] if agreement else []
    return [*columns, LENGTH] if "length_a" in labelled.columns else columns


def design_matrix(cells: pl.DataFrame, labelled: pl.DataFrame, columns: list[Column]) -> Any:
    """Values of `columns`, sparse, one row a labelled pair.

    Args:
        cells: `cells_of` the labelled pairs.
        labelled: `pair_id`, slice columns, lengths, and `offset` (log-odds) if `AGREEMENT` is among the columns; its
            order is the order of rows.
    """
    index = {column: i for i, column in enumerate(columns)}
    row_of = {pair: i for i, pair in enumerate(labelled["pair_id"].to_list())}
    row = np.array([row_of[p] for p in cells["pair_id"].to_list()], dtype=np.int64)
    share = cells["share"].to_numpy()
    shared = share / cells["present"].to_numpy()
    sign, strength = cells["sign"].to_numpy(), cells["strength"].to_numpy()
    slot, group = cells["slot"].to_list(), cells["group"].to_list()
    parts: list[tuple[list[Column], Floats]] = [
        ([("own", "sign", s, "") for s in slot], sign * share),
        ([("own", "strength", s, "") for s in slot], strength * share),
        ([("group", "sign", g, "") for g in group], sign * shared),
        ([("group", "strength", g, "") for g in group], strength * shared),
    ]
    for family in sorted({name for part, name, _, _ in columns if part == "slice"}):
        level_of = dict(zip(labelled["pair_id"], labelled[family].cast(pl.String), strict=True))
        keys = [("slice", family, g, level_of[p] or "") for g, p in zip(group, cells["pair_id"], strict=True)]
        parts.append((keys, strength * shared))
    rows, cols, values = [], [], []
    for keys, value in parts:
        places = np.array([index.get(key, -1) for key in keys], dtype=np.int64)
        inside = places >= 0
        rows.append(row[inside])
        cols.append(places[inside])
        values.append(value[inside])
    for column, of_pair in ((LENGTH, length_feature()), (AGREEMENT, pl.col("offset"))):
        if column in index:
            rows.append(np.arange(len(labelled), dtype=np.int64))
            cols.append(np.full(len(labelled), index[column], dtype=np.int64))
            values.append(labelled.select(of_pair).to_series().to_numpy())
    shape = (len(labelled), len(columns))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    return scipy.sparse.coo_matrix(entries, shape=shape).tocsr()


def prior_weights(
    columns: list[Column], voters: pl.DataFrame, trust: float, agreement: Agreement
) -> tuple[Floats, Floats]:
    """Prior mean and variance of each column's weight, from what is known without labels.

    Where agreement identifies reliabilities, the mean of a slot's weight is what agreement says, discounted for the
    voters that it depends on; half of it goes to the strength of voters that give numbers. Elsewhere the mean is the
    slot's part of `trust` (`_shared`), and the variance of a voter's own weight is proportional to its squared
    consistency; where agreement knows the weights, variances are those of their errors and of the model.

    Args:
        columns: `columns_of`.
        voters: `voter, slot, group, numeric, consistency`.
        trust: log-odds of all voters agreeing if nothing is known of any.
        agreement: what the slots' agreement says.
    """
    slots = voters.filter(pl.col("voter") == pl.col("slot"))
    numeric = dict(slots.select("voter", "numeric").iter_rows())
    steady = {voter: max(value, 0.0) for voter, value in slots.select("voter", "consistency").iter_rows()}
    known = {v.voter: v for v in agreement.voters}
    identified = {
        slot: (v.weight * v.discount, (v.error * v.discount) ** 2 + MISFIT_VARIANCE)
        for slot, v in known.items()
        if agreement.identified
    }
    believed = _shared(slots, steady, trust, known)
    mean, variance = np.zeros(len(columns)), np.zeros(len(columns))
    shared = dict.fromkeys(("group", "length", "agreement"), MISFIT_VARIANCE) if agreement.identified else {}
    variances = {"group": GROUP_VARIANCE, "slice": SLICE_VARIANCE, "length": LENGTH_VARIANCE} | shared
    for i, (part, form, who, _level) in enumerate(columns):
        if part == "own":
            halves = 2.0 if numeric[who] else 1.0
            usual = (believed[who], VOTER_VARIANCE * (steady[who] + FLOOR) ** 2)
            whole, spread = identified.get(who, usual)
            mean[i], variance[i] = whole / halves, spread / halves
            if who in identified and form == "strength":
                mean[i] /= USUAL_STRENGTH
        else:
            mean[i], variance[i] = float(part == "agreement"), variances[part]
    return mean, variance


def _shared(
    slots: pl.DataFrame, steady: dict[str, float], trust: float, known: dict[str, VoterEstimate]
) -> dict[str, float]:
    """Each slot's part of `trust` times the voters' mean consistency.

    Parts are in proportion to consistency ** CONSISTENCY_POWER: a voter that contradicts itself neither counts nor
    takes from others. They are divided by the size of the group, or by how many err together, so that groups and blocs
    count alike however many members they have. By how much more often than others a voter prefers the longer response
    (or the shorter), it says nothing of its own; where all of them prefer the longer one, it may well be the better.
    """
    size = dict(slots.group_by("group").len().iter_rows())
    longer = {slot: abs(v.longer) for slot, v in known.items()}
    raw = {}
    for slot, group in slots.select("voter", "group").iter_rows():
        alone, own = 1.0 / size[group], 1.0
        if slot in known:
            others = [longer[other] for other in longer if other != slot]
            excess = longer[slot] - float(np.median(others)) if others else 0.0
            alone, own = min(alone, known[slot].discount), 1.0 - max(excess, 0.0) ** 2
        raw[slot] = steady[slot] ** CONSISTENCY_POWER * alone * own
    total = sum(raw.values())
    if total <= 0:
        return dict.fromkeys(raw, 0.0)
    believed = trust * sum(raw[slot] * r for slot, r in steady.items()) / total
    return {slot: believed * part / total for slot, part in raw.items()}
