"""Reliabilities, dependence and the source's error rate from agreement alone; nobody's label is needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import scipy

from transforms.stats.agreement.ballots import NO_OPINION, Ballots, LengthScale, ballots_of, length_scale, merged
from transforms.stats.agreement.dependence import STRONG, blocs, consensus, dependences, discounts, moments
from transforms.stats.agreement.error_rate import ErrorRate
from transforms.stats.agreement.identify import MAX_PAIRS_FOR_RATE, MIN_VOTES, identify
from transforms.stats.agreement.latent_class import (
    Floats,
    Parameters,
    expectation,
    fit_against,
    fit_upright,
    start,
    table_of,
    weight_covariance,
)

FOLLOWS = 0.3  # share of votes that follow a shortcut from which a voter is named


@dataclass(frozen=True)
class VoterEstimate:
    """What agreement says of one voter.

    `weight` is the log-odds that a vote adds where no shortcut speaks, `error` its standard error, `discount` what a
    vote of it counts beside those it depends on (`alike`), `shortcut` (K,) how it follows "is longer", "by how much"
    and its own family, `follows` the share of its votes that the length explains (0 to 1, negative if it prefers the
    shorter), `longer` the mean of its votes for the longer response (-1 to 1), whatever explains them, `n` its votes.
    """

    voter: str
    group: str
    kind: str
    n: int
    weight: float
    error: float
    shortcut: tuple[float, ...]
    follows: float
    longer: float
    discount: float
    alike: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """The model learned from agreement.

    Attributes:
        voters: one per slot with at least `MIN_VOTES` votes, sorted by name.
        length: gamma, how far the longer response is better.
        scale: how lengths become shortcuts.
        covariance: (V, V) of the weights, prompts being the units.
        blocs: names of voters whose errors are correlated beyond chance, each counted as one.
        shortcuts: names of voters that follow the length more than `FOLLOWS`.
        identified: whether reliabilities are known: at least three voters beside the source that no test finds
            dependent are each better than chance.
        rate: the sources' error rate; None if it is not known.
        n_rate: how many source labels it is about.
        why: what identifies reliabilities, or what is missing, in plain English.
        unknown: why the rate is not known; None if it is.
        used: the voters that identify it (the first of each bloc), the source among them.
    """

    voters: tuple[VoterEstimate, ...]
    length: tuple[float, ...]
    scale: LengthScale
    covariance: tuple[tuple[float, ...], ...]
    blocs: tuple[tuple[str, ...], ...]
    shortcuts: tuple[str, ...]
    identified: bool
    rate: ErrorRate | None
    n_rate: int
    why: str
    unknown: str | None
    used: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The model as JSON; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Agreement:
        """The inverse of `to_json`, whether its tuples are still tuples or have become lists."""
        voters = tuple(
            VoterEstimate(**{**v, "shortcut": tuple(v["shortcut"]), "alike": tuple(v["alike"])}) for v in row["voters"]
        )
        return cls(
            voters=voters,
            length=tuple(row["length"]),
            scale=LengthScale(tuple(row["scale"]["edges"]), row["scale"]["mean"]),
            covariance=tuple(tuple(line) for line in row["covariance"]),
            blocs=tuple(tuple(names) for names in row["blocs"]),
            shortcuts=tuple(row["shortcuts"]),
            identified=row["identified"],
            rate=None if row["rate"] is None else ErrorRate(**row["rate"]),
            n_rate=row["n_rate"],
            why=row["why"],
            unknown=row["unknown"],
            used=tuple(row["used"]),
        )


def learn_agreement(
    cells: pl.DataFrame, pairs: pl.DataFrame, kinds: dict[str, str], dependent: frozenset[str] = frozenset()
) -> Agreement:
    """Learn the model of `latent_class` from votes that are not people's.

    Args:
        cells: `cells_of` (`pair_id, voter, slot, group, opinion`), optionally with `own_family` (+1: the voter's family
            wrote response a, -1: b, 0: neither, both or unknown).
        pairs: `pair_id, prompt_id, log_ratio` (`length_feature`).
        kinds: the kind of each voter; those of kind "source" are set against the others one at a time.
        dependent: voters that learned from the source's labels (heads); they have weights but identify nothing.
    """
    scale = length_scale(pairs["log_ratio"].to_numpy())
    enough = (
        cells.filter((pl.col("voter") == pl.col("slot")) & (pl.col("opinion").abs() > NO_OPINION))
        .group_by("voter")
        .len()
        .filter(pl.col("len") >= MIN_VOTES)
    )
    counted = {name: kinds.get(name, "judge") for name in sorted(enough["voter"])}
    ballots = ballots_of(cells, pairs, counted, scale)
    if not ballots.names:
        nothing = f"no voter has voted on {MIN_VOTES} pairs; label pairs by people"
        return Agreement((), (0.0, 0.0), scale, (), (), (), False, None, 0, nothing, nothing, ())
    m = moments(ballots)
    found = dependences(m, consensus(m))
    discount = discounts(found, len(ballots.names))
    linked = blocs([(d.first, d.second) for d in found if d.correlation >= STRONG], len(ballots.names))
    at, covariance = _weights(ballots, linked)
    identification = identify(ballots, found, dependent)
    follows = _follows(ballots, at)
    return Agreement(
        voters=_estimates(ballots, at, covariance, discount, follows, linked),
        length=tuple(at.length.tolist()),
        scale=scale,
        covariance=tuple(tuple(line) for line in covariance.tolist()),
        blocs=tuple(tuple(ballots.names[v] for v in bloc) for bloc in linked if len(bloc) > 1),
        shortcuts=tuple(name for name, share in zip(ballots.names, follows, strict=True) if abs(share) > FOLLOWS),
        identified=identification.identified,
        rate=identification.rate,
        n_rate=identification.n,
        why=identification.why,
        unknown=identification.unknown,
        used=identification.used,
    )


def truth_log_odds(model: Agreement, cells: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, z` of every pair: log-odds that a is better, given its votes and its length.

    Args:
        model: of `learn_agreement`.
        cells, pairs: as there.

    A pair without votes has what its length says.
    """
    size, side = pl.col("log_ratio").abs(), pl.col("log_ratio").sign()
    # The shortcuts of a pair as it is stored: they turn with its responses.
    shortcuts = pairs.select(
        "pair_id",
        (side * (size > 0).cast(pl.Float64)).alias("_longer"),
        (side * size / model.scale.mean).alias("_by"),
    )
    prior = shortcuts.select(
        "pair_id", (model.length[0] * pl.col("_longer") + model.length[1] * pl.col("_by")).alias("z")
    )
    rows = [(v.voter, v.weight, v.discount, *(*v.shortcut, 0.0)[:3]) for v in model.voters]
    names = ("voter", "_weight", "_counts", "_s0", "_s1", "_s2")
    known = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64) | {"voter": pl.String}, orient="row")
    family = pl.col("own_family").fill_null(0.0).sign() if "own_family" in cells.columns else pl.lit(0.0)
    votes = (
        cells.filter((pl.col("voter") == pl.col("slot")) & (pl.col("opinion").abs() > NO_OPINION))
        .with_columns(family.alias("_family"))
        .join(known, on="voter", maintain_order="left")
        .join(shortcuts, on="pair_id", maintain_order="left")
    )
    pull = pl.col("_s0") * pl.col("_longer") + pl.col("_s1") * pl.col("_by") + pl.col("_s2") * pl.col("_family")
    numbers = votes.select(pl.col("opinion").sign(), "_weight", "_counts", pull.alias("_pull"))
    vote, weight, counts, along = (numbers[name].to_numpy() for name in numbers.columns)
    added = pl.Series("_z", counts * _evidence(vote, weight, along), dtype=pl.Float64)
    sums = votes.select("pair_id").with_columns(added).group_by("pair_id", maintain_order=True).agg(pl.col("_z").sum())
    return prior.join(sums, on="pair_id", how="left", maintain_order="left").select(
        "pair_id", (pl.col("z") + pl.col("_z").fill_null(0.0)).alias("z")
    )


def _evidence(vote: Floats, weight: Floats, pull: Floats) -> Floats:
    """log P(vote | T = a) / P(vote | T = b), where P(vote = +1 | T) = sigmoid(T weight + pull).

    It equals weight * vote + a function of the pull alone, so a vote's part is linear in it.
    """
    return np.asarray(scipy.special.log_expit(vote * (weight + pull)) - scipy.special.log_expit(vote * (pull - weight)))


def _weights(ballots: Ballots, linked: list[list[int]]) -> tuple[Parameters, Floats]:
    """Parameters of all voters and the covariance of their weights, a bloc being one voter in the likelihood.

    A member of a bloc then has the weight that the voters outside of the bloc see in it (`fit_against`), so a bloc's
    agreement with itself is no evidence of anything; its weights' covariance is its own error alone.
    """
    core = merged(ballots, linked)
    table = table_of(core)
    fitted = fit_upright(table, start(table, consensus(moments(core))))
    errors = weight_covariance(table, fitted)
    n, k = len(ballots.names), 3 if np.any(ballots.family) else 2
    weight, shortcut, covariance = np.zeros(n), np.zeros((n, k)), np.zeros((n, n))
    heads = [unit[0] for unit in linked]
    weight[heads], covariance[np.ix_(heads, heads)] = fitted.weight, errors
    shortcut[heads, : fitted.shortcut.shape[1]] = fitted.shortcut
    for u, unit in enumerate(linked):
        if len(unit) == 1:
            continue
        alone = np.ones(len(linked))
        alone[u] = 0.0
        longer = expectation(replace(table, discount=alone[table.voter_of]), fitted).longer[table.row_of]
        covariance[unit[0], :] = covariance[:, unit[0]] = 0.0
        for v in unit:
            found, error = _against(ballots, v, k, longer)
            weight[v], shortcut[v], covariance[v, v] = found[0], found[1:], error**2
    return Parameters(weight, shortcut, fitted.length), covariance


def _against(ballots: Ballots, v: int, k: int, longer: Floats) -> tuple[Floats, float]:
    """`fit_against` of voter `v` on at most `MAX_PAIRS_FOR_RATE` of its votes, evenly spread over the bins."""
    columns = np.flatnonzero(ballots.voter_of == v)
    vote = ballots.vote[:, columns].sum(axis=1, dtype=np.float64)
    family = ballots.vote[:, columns].astype(bool) @ ballots.family[columns]
    rows = np.flatnonzero(vote)
    rows = rows[:: max(1, len(rows) // MAX_PAIRS_FOR_RATE)]
    pull = np.column_stack([ballots.length[ballots.bin_of[rows]], family[rows]])[:, :k]
    return fit_against(vote[rows], pull, longer[rows])


def _follows(ballots: Ballots, at: Parameters) -> Floats:
    """(V,) how much more often a voter chooses the longer response than the shorter if either is right as often."""
    sizes = np.diff(ballots.starts).astype(np.float64)
    pull = at.shortcut[:, :2] @ ballots.length.T
    both = scipy.special.expit(pull + at.weight[:, None]) + scipy.special.expit(pull - at.weight[:, None]) - 1.0
    unequal = sizes[1:].sum()
    return np.asarray(both[:, 1:] @ sizes[1:] / unequal if unequal > 0 else np.zeros(len(pull)))


def _estimates(
    ballots: Ballots, at: Parameters, covariance: Floats, discount: Floats, follows: Floats, linked: list[list[int]]
) -> tuple[VoterEstimate, ...]:
    bloc_of = {v: bloc for bloc in linked for v in bloc}
    votes = ballots.voters_vote()
    counts = (votes != 0).sum(axis=0)
    unequal = votes[ballots.starts[1] :]
    longer = unequal.sum(axis=0, dtype=np.float64) / np.maximum((unequal != 0).sum(axis=0), 1)
    return tuple(
        VoterEstimate(
            voter=name,
            group=ballots.groups[v],
            kind=ballots.kinds[v],
            n=int(counts[v]),
            weight=float(at.weight[v]),
            error=float(np.sqrt(covariance[v, v])),
            shortcut=tuple(at.shortcut[v].tolist()),
            follows=float(follows[v]),
            longer=float(longer[v]),
            discount=float(discount[v]),
            alike=tuple(ballots.names[other] for other in bloc_of[v] if other != v),
        )
        for v, name in enumerate(ballots.names)
    )
