"""What fusion says of the whole data set: how many source labels are wrong and how that is known, and what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import polars as pl
from scipy.special import expit

from pipelines.runtime.stage import CURRENT, PAIR_STAGES, VOTE_STAGES
from schemas.ids import canonical_json
from transforms.annotate.votes import HUMAN
from transforms.publish.rows import PUBLISHED
from transforms.stats.human_labels import human_label
from transforms.stats.label_noise import worse_chosen
from transforms.stats.prediction_powered import MIN_AUDITED, PredictionPoweredRate, Predictions, ppi_rate
from transforms.storage.workspace import Workspace

_NAME = "estimates"
NOTHING = Predictions(0.0, 0.0, 0)
_VERDICTS = ("prompt_id", "p_a", "p_tie", "noise", "action", "label", "margin", "n_human")
NOBODY = "no voter has been measured: label pairs by people, or add judges of other families"


def fused_artefact(workspace: Workspace, name: str) -> Any:
    """A JSON artefact of the fit behind the current verdicts, or None before the first fusion."""
    current = workspace.read_artefact("fuse", CURRENT)
    data = None if current is None else workspace.read_artefact("fuse", f"{current.decode()}/{name}")
    return None if data is None else orjson.loads(data)


def estimates(workspace: Workspace, *, finished: bool = False) -> dict[str, Any] | None:
    """What is known of the verdicts there are; None before the first fusion.

    Args:
        workspace: whose verdicts.
        finished: the fuse stage has just done every bucket, so that what is computed may be kept with its fit.

    Returns:
        `calibrated_by` (what probabilities rest on: "people", "agreement" of independent voters, or None: the prior
        alone); `noise` (share of the sources' labels that name the worse response: `rate, low, high, level, n` and
        `how` it is known; None where it is not) and `unknown` (why not; None without source labels); `accuracy`
        (`before`: of the sources' labels, `after`: of the published ones; None where nothing calibrates them);
        `expected` (how many labels are wrong, `turned` and `left_out` by the decisions); `warnings` (voters that err
        together or follow the length); `predicted` and `actual` (share of each action, from the random part of the
        fitting sample and in all verdicts); `calibration` (the fuser's own, against people's labels, out of fold).
    """
    current = workspace.read_artefact("fuse", CURRENT)
    if current is None:
        return None
    known = kept_estimates(workspace)
    if known is None:
        known = _computed(workspace)
        if finished:
            workspace.write_artefact("fuse", f"{current.decode()}/{_NAME}", canonical_json(known))
    return known


def kept_estimates(workspace: Workspace) -> dict[str, Any] | None:
    """What a finished fusion left of `estimates`, or None."""
    kept: dict[str, Any] | None = fused_artefact(workspace, _NAME)
    return kept


def _computed(workspace: Workspace) -> dict[str, Any]:
    predicted, after = NOTHING, NOTHING
    expected = dict.fromkeys(("wrong", "turned", "left_out"), 0.0)
    actions: Counter[str] = Counter()
    labelled = []
    for bucket in workspace.buckets:
        verdicts = workspace.read("verdicts", bucket, ("fuse",), _VERDICTS).with_columns(worse=worse_chosen())
        if (verdicts["n_human"] > 0).any():
            labelled.append(_by_people(workspace, bucket, verdicts))
        worse = verdicts.filter(pl.col("worse").is_not_null())
        predicted = predicted.with_more(Predictions.of(worse["worse"].to_numpy()))
        after = after.with_more(Predictions.of(_published_right(verdicts)))
        expected["wrong"] += float(worse["worse"].sum())
        expected["turned"] += float(worse.filter(pl.col("action") == "flip")["worse"].sum())
        expected["left_out"] += float(worse.filter(~pl.col("action").is_in(PUBLISHED))["worse"].sum())
        actions.update(dict(verdicts["action"].value_counts().iter_rows()))
    fuser = fused_artefact(workspace, "fuser") or {}
    noise = _noise(predicted, labelled, fuser)
    calibrated_by, calibration = fuser.get("calibrated_by"), fuser.get("calibration")
    agreement = fuser.get("agreement") or {}
    before = None if noise is None else 1 - noise["rate"]
    total = sum(actions.values())
    return {
        "calibrated_by": calibrated_by,
        "noise": noise,
        "unknown": agreement.get("why", NOBODY) if noise is None and (predicted.n or not calibrated_by) else None,
        "accuracy": {"before": before, "after": after.mean} if calibrated_by and after.n else None,
        "expected": expected,
        "warnings": _warnings(agreement),
        "predicted": (fused_artefact(workspace, "policy") or {}).get("predicted", {}),
        "actual": {action: n / total for action, n in sorted(actions.items())},
        "calibration": calibration if calibration and calibration["n"] else None,
    }


def _published_right(verdicts: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """P(the published label names the better response) of each pair that the decision publishes."""
    p_label = pl.when(pl.col("label") == "a").then("p_a").otherwise(1 - pl.col("p_a"))
    published = verdicts.filter(pl.col("action").is_in(PUBLISHED) & (pl.col("label") != "tie"))
    return published.select(p_label).to_series().to_numpy()


def _by_people(workspace: Workspace, bucket: int, verdicts: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id, predicted, wrong` of the bucket's pairs that people labelled unasked.

    `predicted` is what the verdict says of the source's label without the people's own votes. Pairs that we asked
    people about were chosen for their doubt and say nothing of the others; the audit has an estimate of its own.
    """
    votes = workspace.read("votes", bucket, VOTE_STAGES, ("pair_id", "kind", "voter", "label"))
    labels = human_label(votes).filter(pl.col("label").is_in(["a", "b"])).rename({"label": "people"})
    asked = votes.filter((pl.col("kind") == "human") & pl.col("voter").str.starts_with(HUMAN))
    labels = labels.join(asked, on="pair_id", how="anti")
    people = votes.filter(pl.col("kind") == "human")["voter"].unique()
    contributions = workspace.read("verdicts", bucket, ("fuse",), ("pair_id", "contributions"))
    own = (
        contributions.join(labels, on="pair_id", how="semi")
        .explode("contributions")
        .unnest("contributions")
        .filter(pl.col("voter").is_in(people.implode()))
        .group_by("pair_id")
        .agg(pl.col("log_odds").sum())
    )
    sources = workspace.read("pairs", bucket, PAIR_STAGES, ("pair_id", "source_label"))
    sided = sources.filter(pl.col("source_label").is_in(["a", "b"]))
    found = labels.join(sided, on="pair_id").join(verdicts.select("pair_id", "prompt_id", "margin"), on="pair_id")
    found = found.join(own, on="pair_id", how="left").sort("pair_id")
    towards = pl.when(pl.col("source_label") == "a").then(1.0).otherwise(-1.0)
    odds = towards * (pl.col("margin") - pl.col("log_odds").fill_null(0.0))
    return found.select(
        "prompt_id",
        odds.map_batches(lambda z: pl.Series(expit(-z.to_numpy())), return_dtype=pl.Float64).alias("predicted"),
        (pl.col("people") != pl.col("source_label")).cast(pl.Float64).alias("wrong"),
    )


def _noise(predicted: Predictions, labelled: list[pl.DataFrame], fuser: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many of the sources' labels are wrong: by people if they labelled enough, else by agreement, else None."""
    if not predicted.n:
        return None
    people = _rate_by_people(predicted, pl.concat(labelled)) if labelled else None
    if people is not None:
        words = f"{people.n:,} labels of people that came with the sources, if their pairs are like the others"
        return _figures(asdict(people), predicted.n, words)
    agreement = fuser.get("agreement") or {}
    if fuser.get("calibrated_by") == "agreement" and agreement["rate"] is not None:
        return _figures(agreement["rate"], predicted.n, agreement["why"])
    return None


def _rate_by_people(predicted: Predictions, labelled: pl.DataFrame) -> PredictionPoweredRate | None:
    prompts = labelled["prompt_id"].rank("dense").to_numpy().astype(np.int64)
    return ppi_rate(predicted, labelled["predicted"].to_numpy(), labelled["wrong"].to_numpy(), prompts)


def _figures(rate: Mapping[str, Any], n: int, how: str) -> dict[str, Any]:
    return {name: rate[name] for name in ("rate", "low", "high", "level")} | {"n": n, "how": how}


def _warnings(agreement: Mapping[str, Any]) -> list[str]:
    """Voters whose agreement is no evidence, by name."""
    blocs = [f"{', '.join(names)} err together and count as one voter" for names in agreement.get("blocs", [])]
    followers = agreement.get("shortcuts", [])
    by_length = [f"{', '.join(followers)}: votes follow the length of the responses"] if followers else []
    return [*blocs, *by_length]


def estimate_notes(values: dict[str, Any] | None) -> list[str]:
    """The estimates as notes for a person."""
    return [] if values is None else list(_notes(values))


def _notes(values: Mapping[str, Any]) -> Iterator[str]:
    noise, expected = values["noise"], values.get("expected", {})
    if noise is not None:
        yield (
            f"wrong source labels: {noise['rate']:.1%} ({noise['level']:.0%} interval {noise['low']:.1%} to "
            f"{noise['high']:.1%}), known by {noise['how']}; of about {expected['wrong']:,.0f} the decisions turn "
            f"{expected['turned']:,.0f} and leave out {expected['left_out']:,.0f}"
        )
    elif values.get("unknown"):
        yield f"how many source labels are wrong is not known: {values['unknown']}"
    if not values.get("calibrated_by"):
        yield "probabilities are uncalibrated: nothing but the prior says how far voters can be believed"
    yield from (f"warning: {line}" for line in values.get("warnings", []))
    predicted, actual = values["predicted"], values["actual"]
    shares = [f"{a} {predicted.get(a, 0.0):.1%} / {actual.get(a, 0.0):.1%}" for a in sorted({*predicted, *actual})]
    if shares:
        yield f"actions, predicted / actual: {', '.join(shares)}"


def outcome_note(
    n_pairs: int, n_rows: int, values: Mapping[str, Any] | None, certificate: Mapping[str, Any] | None
) -> str:
    """The run's last sentence: how many pairs came in, how many rows go out, how right their labels are, how we know.

    Args:
        values: `estimates` with `audited_noise`.
        certificate: of the published labels, by an audit.
    """
    sentence = f"in {n_pairs:,} pairs, out {n_rows:,} rows; expected label accuracy "
    values = values or {}
    audited = values.get("audited_noise")
    if certificate is not None and certificate["accuracy"] is not None and certificate["audited"] >= MIN_AUDITED:
        before = f"{1 - audited['rate']:.1%} -> " if audited else ""
        return f"{sentence}{before}{certificate['accuracy']:.1%}, known by an audit of {certificate['audited']:,} pairs"
    accuracy = values.get("accuracy")
    if accuracy is None:
        return f"{sentence}not known: {values.get('unknown') or NOBODY}"
    noise = values["noise"]
    known = {"people": "people's labels", "agreement": "agreement of independent voters"}[values["calibrated_by"]]
    before = "" if noise is None else f"{accuracy['before']:.1%} -> "
    return f"{sentence}{before}{accuracy['after']:.1%}, known by {noise['how'] if noise else known}"
