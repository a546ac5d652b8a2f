"""What the report shows, as small frames computed from a version's own files.

Counts are exact. What needs every pair of voters or every point is computed on a sample: the pairs with the
lowest ids, which is a random sample because ids are hashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from schemas.manifest import Manifest
from schemas.tables import ACTIONS
from transforms.publish.read import Version
from transforms.publish.rows import PUBLISHED
from transforms.report import voters
from transforms.report.census import Census, census_of
from transforms.report.examples import Example, examples
from transforms.report.strength import strength_bands
from transforms.stats.judge_quality import judge_table
from transforms.stats.people import People

SAMPLE_PAIRS = 100_000
MOST_JUDGES = 40
SLICES = ("kind", "language", "origin")


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows; an empty frame leaves its section out.

    `costs` (stage, who, requests, tokens_in, tokens_out), `yields` (generator and any counts) and `queue`
    (the `queue` table) come from the workspace, because a version does not hold them.
    """

    manifest: Manifest
    n_sampled: int
    flow: pl.DataFrame  # level, source, target, n
    voters: pl.DataFrame  # transforms.report.voters.voter_table
    agreement: pl.DataFrame  # voter, other, n, agreement
    reliability: pl.DataFrame  # transforms.stats.calibration.reliability_bins; in-sample
    out_of_fold: pl.DataFrame  # the same by weights that did not see the label
    shares: pl.DataFrame  # action, predicted (null if it was not), actual
    noise: pl.DataFrame  # bin (lower edge), action, n
    ensemble: pl.DataFrame  # mu (towards the source's label), sigma, action
    strength: pl.DataFrame  # transforms.report.strength.strength_bands
    length: pl.DataFrame  # voter, longer, longer_fused
    judges: pl.DataFrame  # transforms.stats.judge_quality.judge_table
    yields: pl.DataFrame  # origin, pairs, per action
    slices: pl.DataFrame  # slice, value, pairs, rows, certainty, noise
    routing: pl.DataFrame  # reason, n
    examples: list[Example]
    costs: pl.DataFrame = field(default_factory=pl.DataFrame)
    queue: pl.DataFrame = field(default_factory=pl.DataFrame)
    asked: pl.DataFrame = field(default_factory=pl.DataFrame)
    people: People | None = None
    outlook: dict[str, Any] | None = None


def report_data(
    version: Version,
    *,
    census: Census | None = None,
    costs: pl.DataFrame | None = None,
    queue: pl.DataFrame | None = None,
    asked: pl.DataFrame | None = None,
    people: People | None = None,
    outlook: dict[str, Any] | None = None,
    examples_per_action: int = 2,
) -> ReportData:
    """Compute the report's figures.

    Args:
        version: a published or staged version.
        census: the counts of all its pairs, if they are known; else they are taken with the version in memory.
        costs: per engine and asker: stage, who, requests, tokens_in, tokens_out.
        queue: the `queue` table.
        asked: per generator, what it asked and got: generator and one column a count.
        people: statistics of the answers.
        outlook: how many labels (`gain`) the next `labels` answers are expected to fix.
        examples_per_action: how many pairs of every action are shown in full.
    """
    manifest = version.manifest
    census = census or census_of(version)
    sampled = pl.col("pair_id") < _cutoff(manifest.n_pairs)
    pairs, verdicts = (version.scan(table).filter(sampled) for table in ("pairs", "verdicts"))
    sample = pairs.drop("prompt_id").join(verdicts, on="pair_id").collect(engine="streaming")
    votes = version.scan("votes").filter(sampled)
    decisive = votes.join(sample.lazy().select("pair_id"), on="pair_id", how="semi").collect(engine="streaming")
    return ReportData(
        manifest=manifest,
        n_sampled=sample.height,
        flow=census.flow,
        voters=voters.voter_table(version.scan("votes"), decisive, sample),
        agreement=voters.agreement(decisive),
        reliability=voters.reliability(decisive, sample),
        out_of_fold=voters.out_of_fold((manifest.estimates or {}).get("calibration")),
        shares=_shares(manifest),
        noise=_noise(census.judged),
        ensemble=_ensemble(decisive, sample),
        strength=strength_bands(decisive, sample),
        length=voters.length_bias(decisive, sample),
        judges=judge_table(decisive, sample, MOST_JUDGES),
        yields=_yields(census.judged),
        slices=_slices(census.judged),
        routing=_routing(census.routed),
        people=people,
        outlook=outlook,
        examples=examples(version, sample, decisive, examples_per_action),
        **{k: v for k, v in {"costs": costs, "queue": queue, "asked": asked}.items() if v is not None},
    )


def _shares(manifest: Manifest) -> pl.DataFrame:
    """What the policy was expected to do from its sample, beside what it did."""
    predicted = (manifest.estimates or {}).get("predicted", {})
    total = max(sum(manifest.actions.values()), 1)
    rows = [
        (a, predicted.get(a, 0.0) if predicted else None, manifest.actions.get(a, 0) / total)
        for a in ACTIONS
        if a in predicted or a in manifest.actions
    ]
    schema = {"action": pl.String, "predicted": pl.Float64, "actual": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _cutoff(n_pairs: int) -> str:
    """Ids below this are the sample; "g" is above every hex digit."""
    if n_pairs <= SAMPLE_PAIRS:
        return "g"
    return f"{int(SAMPLE_PAIRS / n_pairs * 16**12):012x}"


def _noise(judged: pl.DataFrame) -> pl.DataFrame:
    counts = judged.filter(pl.col("bin").is_not_null()).group_by("bin", "action").agg(pl.col("n").sum())
    return counts.sort("bin", "action")


def _ensemble(votes: pl.DataFrame, sample: pl.DataFrame, points: int = 4000) -> pl.DataFrame:
    """Points of the mu-sigma plot (Wang et al., "Secrets of RLHF II", 2024), mu seen from the source's label."""
    sign = pl.col("source_label").replace_strict({"a": 1.0, "b": -1.0}, default=None, return_dtype=pl.Float64)
    scored = (
        votes.filter((pl.col("kind") == "reward") & pl.col("aspects").is_not_null())
        .with_columns(
            mu=pl.col("aspects").str.json_path_match("$.mu").cast(pl.Float64, strict=False),
            sigma=pl.col("aspects").str.json_path_match("$.sigma").cast(pl.Float64, strict=False),
        )
        .filter(pl.col("mu").is_not_null() & pl.col("sigma").is_not_null())
        .join(sample.select("pair_id", "action", "source_label"), on="pair_id")
        .with_columns(mu=pl.col("mu") * sign)
        .filter(pl.col("mu").is_not_null())
        .sort("pair_id", "voter")
    )
    return scored.select("voter", "mu", "sigma", "action").head(points)


def _yields(judged: pl.DataFrame) -> pl.DataFrame:
    counts = [pl.col("n").filter(pl.col("action") == action).sum().alias(action) for action in ACTIONS]
    return (
        judged.group_by("origin")
        .agg(pl.col("n").sum().alias("pairs"), *counts, certainty=pl.col("certainty").sum() / pl.col("n").sum())
        .sort("pairs", "origin", descending=[True, False])
    )


def _slices(judged: pl.DataFrame, most: int = 12) -> pl.DataFrame:
    n = pl.col("n")
    frames = [
        judged.group_by(value=pl.col(name).fill_null("unknown"))
        .agg(
            n.sum().alias("pairs"),
            rows=n.filter(pl.col("action").is_in(PUBLISHED)).sum(),
            flipped=n.filter(pl.col("action") == "flip").sum(),
            routed=n.filter(pl.col("action") == "route").sum(),
            certainty=pl.col("certainty").sum() / n.sum(),
            noise=pl.when(pl.col("n_noise").sum() > 0).then(pl.col("noise").sum() / pl.col("n_noise").sum()),
        )
        .sort("pairs", "value", descending=[True, False])
        .head(most)
        .with_columns(slice=pl.lit(name))
        for name in SLICES
    ]
    return pl.concat(frames)


def _routing(routed: pl.DataFrame) -> pl.DataFrame:
    means = routed.with_columns(pl.col("certainty", "disagreement") / pl.col("n"))
    return means.sort("n", "reason", descending=[True, False]).head(12)
