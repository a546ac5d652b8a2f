"""Whether agreement identifies how reliable voters are, and how often a source's labels are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.stats.agreement.ballots import Ballots, merged
from transforms.stats.agreement.dependence import Dependence, Misfit, blocs, consensus, independent, misfit, moments
from transforms.stats.agreement.error_rate import ErrorRate, profile_rate
from transforms.stats.agreement.latent_class import Parameters, fit_upright, start, table_of, weight_covariance

MIN_VOTES = 30  # a voter with fewer keeps its prior
MIN_INDEPENDENT = 3  # voters beside the source; four voters leave three degrees of freedom for a test of the model
MIN_PROMPTS = 30  # which are the units of all tests: fewer cannot contradict anything
MIN_SHARE = 0.05  # of all source labels from which a source of unknown rate leaves the rate of all unknown
SURE = 2.6  # standard errors by which a weight must exceed 0 before its voter identifies anything
MAX_PAIRS_FOR_RATE = 40_000  # its standard error is then far below what the model's own mistakes may be
SOURCE = "source"


@dataclass(frozen=True)
class Identification:
    """What one source, or none, and the others identify; `n` is how many labels the source gave."""

    identified: bool
    rate: ErrorRate | None
    why: str
    unknown: str | None
    used: tuple[str, ...]
    n: int = 0


def _refused(why: str, used: tuple[str, ...] = ()) -> Identification:
    return Identification(False, None, why, why, used)


def identify(ballots: Ballots, dependences: list[Dependence], dependent: frozenset[str]) -> Identification:
    """What each source in turn and the others identify; the rate of all is the mean of theirs, weighted by labels.

    Args:
        dependences: between voters, by index.
        dependent: names of voters that learned from the source's labels and so identify nothing.
    """
    if len(np.unique(ballots.cluster)) < MIN_PROMPTS:
        return _refused(
            f"voters that err together cannot be told from good ones on fewer than {MIN_PROMPTS} prompts: label pairs "
            "by people"
        )
    sources = [v for v, kind in enumerate(ballots.kinds) if kind == SOURCE]
    if not sources:
        return _identified_with(ballots, dependences, dependent, None)
    counts = (ballots.voters_vote()[:, sources] != 0).sum(axis=0)
    each = [
        replace(_identified_with(ballots, dependences, dependent, v), n=int(n))
        for v, n in zip(sources, counts, strict=True)
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


def _mean_rate(known: list[Identification]) -> ErrorRate:
    """Of sources whose labels are on different pairs: the distances to the bounds add up as independent errors do."""
    rates = [(each.n, each.rate) for each in known if each.rate is not None]
    if len(rates) == 1:
        return rates[0][1]
    total = sum(n for n, _ in rates)
    rate = sum(n * one.rate for n, one in rates) / total
    below = sum((n / total * (one.rate - one.low)) ** 2 for n, one in rates) ** 0.5
    above = sum((n / total * (one.high - one.rate)) ** 2 for n, one in rates) ** 0.5
    return ErrorRate(rate, max(rate - below, 0.0), min(rate + above, 1.0), rates[0][1].level, False)


def _identified_with(
    ballots: Ballots, dependences: list[Dependence], dependent: frozenset[str], source: int | None
) -> Identification:
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
        return Identification(True, None, why, f"no source has labelled {MIN_VOTES} of the pairs", names)
    rate = source_rate(core, own, at)
    why = f"agreement of the source with {len(able)} independent voters"
    if rate.coin:
        unknown = "the source's labels cannot be told from coin flips; label pairs of it by people"
        return Identification(True, None, why, unknown, names)
    return Identification(True, rate, why, None, names)


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
