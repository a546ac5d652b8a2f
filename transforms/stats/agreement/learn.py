"""Reliabilities, dependence and the source's error rate from agreement alone; nobody's label is needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import scipy
from numpy.typing import NDArray

from transforms.stats.agreement.ballots import NO_OPINION, Ballots, LengthScale, ballots_of, length_scale, merged
from transforms.stats.agreement.dependence import (
    STRONG,
    Dependence,
    Misfit,
    blocs,
    consensus,
    dependences,
    discounts,
    independent,
    misfit,
    moments,
)
from transforms.stats.agreement.error_rate import ErrorRate, profile_rate
from transforms.stats.agreement.latent_class import (
    Floats,
    Parameters,
    Table,
    by_cluster,
    expectation,
    fit_against,
    fit_upright,
    prior_precision,
    start,
    table_of,
)

MIN_VOTES = 30  # a voter with fewer keeps its prior
MIN_INDEPENDENT = 3  # voters beside the source; four voters leave three degrees of freedom for a test of the model
MIN_PROMPTS = 30  # which are the units of all tests: fewer cannot contradict anything
MIN_SHARE = 0.05  # of all source labels from which a source of unknown rate leaves the rate of all unknown
SURE = 2.6  # standard errors by which a weight must exceed 0 before its voter identifies anything
FOLLOWS = 0.3  # share of votes that follow a shortcut from which a voter is named
MAX_PAIRS_FOR_RATE = 40_000  # its standard error is then far below what the model's own mistakes may be
SOURCE = "source"


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


@dataclass(frozen=True)
class _Identification:
    """What one source, or none, and the others identify; `n` is how many labels the source gave."""

    identified: bool
    rate: ErrorRate | None
    why: str
    unknown: str | None
    used: tuple[str, ...]
    n: int = 0


def _refused(why: str, used: tuple[str, ...] = ()) -> _Identification:
    return _Identification(False, None, why, why, used)


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
    identification = _identified(ballots, found, dependent)
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


def weight_covariance(table: Table, at: Parameters) -> Floats:
    """(V, V) sandwich covariance of the weights, prompts being the units (Huber 1967, White 1982)."""
    score = expectation(table, at, by_row=True).score
    assert score is not None
    information = (score * table.count[:, None]).T @ score + np.diag(prior_precision(at))
    inverse = np.linalg.inv(information)
    sums = by_cluster(table, score)
    meat = sums.T @ sums + np.diag(prior_precision(at))
    n = table.n_voters
    return np.asarray((inverse @ meat @ inverse)[:n, :n])


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


def _identified(ballots: Ballots, dependences: list[Dependence], dependent: frozenset[str]) -> _Identification:
    """`_identify` with each source in turn; the rate of all is the mean of theirs, weighted by their labels."""
    if len(np.unique(ballots.cluster)) < MIN_PROMPTS:
        return _refused(
            f"voters that err together cannot be told from good ones on fewer than {MIN_PROMPTS} prompts: label pairs "
            "by people"
        )
    sources = [v for v, kind in enumerate(ballots.kinds) if kind == SOURCE]
    if not sources:
        return _identify(ballots, dependences, dependent, None)
    counts = (ballots.voters_vote()[:, sources] != 0).sum(axis=0)
    each = [
        replace(_identify(ballots, dependences, dependent, v), n=int(n)) for v, n in zip(sources, counts, strict=True)
    ]
    known = [one for one in each if one.rate is not None]
    lacking = [(one.n, ballots.names[v], one) for v, one in zip(sources, each, strict=True) if one.rate is None]
    largest = max(each, key=lambda one: (one.identified, one.n))
    n_known, n_lacking = sum(one.n for one in known), sum(n for n, _, _ in lacking)
    if n_lacking > MIN_SHARE * (n_known + n_lacking):
        _, name, first = max(lacking, key=lambda entry: entry[0])
        unknown = f"{first.unknown} (source {name})" if len(sources) > 1 else first.unknown
        return replace(largest, rate=None, unknown=unknown, n=0)
    return replace(largest, rate=_mean_rate(known), unknown=None, n=n_known)


def _mean_rate(known: list[_Identification]) -> ErrorRate:
    """Of sources whose labels are on different pairs: the distances to the bounds add up as independent errors do."""
    rates = [(each.n, each.rate) for each in known if each.rate is not None]
    if len(rates) == 1:
        return rates[0][1]
    total = sum(n for n, _ in rates)
    rate = sum(n * one.rate for n, one in rates) / total
    below = sum((n / total * (one.rate - one.low)) ** 2 for n, one in rates) ** 0.5
    above = sum((n / total * (one.high - one.rate)) ** 2 for n, one in rates) ** 0.5
    return ErrorRate(rate, max(rate - below, 0.0), min(rate + above, 1.0), rates[0][1].level, False)


def _identify(
    ballots: Ballots, dependences: list[Dependence], dependent: frozenset[str], source: int | None
) -> _Identification:
    """Merge what depends on each other until the model fits, then ask whether enough voters are left."""
    links = [(d.first, d.second) for d in dependences]
    for group in set(ballots.groups):
        members = [v for v, g in enumerate(ballots.groups) if g == group]
        links += [(members[0], other) for other in members[1:]]
    other_sources = {v for v, kind in enumerate(ballots.kinds) if kind == SOURCE and v != source}
    allowed = [v for v, name in enumerate(ballots.names) if name not in dependent and v not in other_sources]
    units = [[v for v in bloc if v in allowed] for bloc in blocs(links, len(ballots.names))]
    # What depends on the source is no witness of it.
    units = [[source] if source is not None and source in unit else unit for unit in units if unit]
    ballots = _sampled(ballots, MAX_PAIRS_FOR_RATE)
    while True:
        core = merged(ballots, units)
        own = next((u for u, unit in enumerate(units) if source in unit), None) if source is not None else None
        others = [u for u in range(len(units)) if u != own]
        names = tuple(core.names)
        if len(others) + (own is not None) <= MIN_INDEPENDENT:
            return _refused(_too_few(len(others), own is not None), names)
        table = table_of(core)
        # The prior of the source's weight would make labels without an error look dependent on everybody.
        at = fit_upright(table, start(table, consensus(moments(core))), flat=own)
        test = misfit(table, at)
        if independent(test, len(units)):
            break
        worst = np.unravel_index(int(np.argmax(test.z)), test.z.shape)
        if test.z[worst] <= test.limit:
            return _refused(_no_fit(test), names)
        first, second = sorted((int(worst[0]), int(worst[1])))
        joined = sorted(units[first] + units[second])
        joined = [source] if source is not None and source in joined else joined
        units = sorted([unit for u, unit in enumerate(units) if u not in (first, second)] + [joined])
    error = np.sqrt(np.diag(weight_covariance(table, at)))
    able = [u for u in others if at.weight[u] > SURE * error[u]]
    # Three voters alone fit any model: without the source a fourth must agree with what three say.
    if len(able) + (own is not None) <= MIN_INDEPENDENT:
        return _refused(_too_few(len(able), own is not None, "better than chance and "), names)
    if own is None:
        why = f"agreement of {len(able)} independent voters"
        return _Identification(True, None, why, f"no source has labelled {MIN_VOTES} of the pairs", names)
    rate = source_rate(core, own, at)
    why = f"agreement of the source with {len(able)} independent voters"
    if rate.coin:
        unknown = "the source's labels cannot be told from coin flips; label pairs of it by people"
        return _Identification(True, None, why, unknown, names)
    return _Identification(True, rate, why, None, names)


def source_rate(core: Ballots, own: int, begin: Parameters) -> ErrorRate:
    """Error rate of voter `own`: the widest of the intervals in which difficulty does and does not touch it."""
    found = []
    for touched in (False, True):
        alike = np.ones(len(core.names), dtype=bool)
        alike[own] = touched
        table = table_of(core, alike=alike)
        found.append(profile_rate(table, own, begin, difficulty=True))
    return ErrorRate(
        found[0].rate,
        min(f.low for f in found),
        max(f.high for f in found),
        found[0].level,
        any(f.coin for f in found),
    )


def _sampled(ballots: Ballots, most: int) -> Ballots:
    """About `most` pairs, by whole prompts; prompts are numbered in the order of their ids, so the first are random."""
    n = len(ballots.cluster)
    if n <= most:
        return ballots
    kept: NDArray[np.bool_] = ballots.cluster < (ballots.cluster.max() + 1) * most / n
    counts = [int(kept[rows].sum()) for rows in ballots.bins]
    return replace(
        ballots,
        pairs=ballots.pairs.filter(pl.Series(kept)),
        turn=ballots.turn[kept],
        vote=ballots.vote[kept],
        cluster=ballots.cluster[kept],
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _too_few(n: int, with_source: bool, quality: str = "") -> str:
    found = {0: "no voter", 1: "one voter"}.get(n, f"{n} voters")
    beside, are = " beside the source" if with_source else "", "are" if n > 1 else "is"
    return (
        f"{found}{beside} {are} {quality}independent, and {MIN_INDEPENDENT + (not with_source)} are needed to know how "
        "reliable voters are: label pairs by people, or add judges of other families"
    )


def _no_fit(test: Misfit) -> str:
    if abs(test.joint) > test.limit:
        return "voters err on the same pairs, so their agreement does not tell how often they are right; label pairs"
    return "voters disagree in a way that independent voters would not; label pairs by people"
