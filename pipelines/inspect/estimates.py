"""What fusion says of the whole data set: how many source labels are wrong and how that is known, and what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import polars as pl
import scipy

from pipelines.runtime.stage import CURRENT, PAIR_STAGES, VOTE_STAGES
from schemas.ids import canonical_json
from schemas.rows import HUMAN
from transforms.publish.calibration_source import is_uncalibrated
from transforms.publish.rows import PUBLISHED
from transforms.stats.human_labels import human_label
from transforms.stats.label_noise import worse_chosen
from transforms.stats.prediction_powered import MIN_AUDITED, Predictions, ppi_rate
from transforms.storage.workspace import Workspace

_NAME = "estimates"
NOTHING = Predictions(0.0, 0.0, 0)
_VERDICTS = ("prompt_id", "p_a", "action", "label", "margin", "n_human")
NOBODY = "no voter has been measured: label pairs by people"
CHOSEN = "people's answers are on pairs that were chosen for their doubt; an audit (`audit_share` of the queue) says it"


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
        alone) and `uncalibrated` (why, if so); `noise` (share of the sources' labels that name the worse response:
        `rate, low, high, level, n` and `how` it is known; None where it is not) and `unknown` (why not; None without
        source labels); `accuracy` (`before`: of the sources' labels, `after`: of the published ones; None where nothing
        calibrates them); `expected` (of the wrong labels the shares that the decisions turn, `turned`, and leave out,
        `left_out`); `warnings` (voters that err together or follow the length); `predicted` and `actual` (share of each
        action, from the random part of the fitting sample and in all verdicts); `calibration` (the fuser's own, against
        people's labels, out of fold).
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
    predicted, after, wrong, turned, left_out = NOTHING, NOTHING, 0.0, 0.0, 0.0
    actions: Counter[str] = Counter()
    labelled = []
    for bucket in workspace.buckets:
        verdicts = _sourced_verdicts(workspace, bucket)
        sided = verdicts.filter(pl.col("worse").is_not_null())
        by_people = sided.filter(pl.col("people").is_in(["a", "b"]))
        labelled.append(by_people.select("prompt_id", "source_label", "unseen", "people"))
        predicted = predicted.with_more(Predictions.of(sided["unseen"].to_numpy()))
        after = after.with_more(Predictions.of(_published_right(verdicts)))
        wrong += float(sided["worse"].sum())
        turned += float(sided.filter(pl.col("action") == "flip")["worse"].sum())
        left_out += float(sided.filter(~pl.col("action").is_in(PUBLISHED))["worse"].sum())
        actions.update(dict(verdicts["action"].value_counts().iter_rows()))
    fuser = fused_artefact(workspace, "fuser") or {}
    calibrated_by, calibration, agreement = (fuser.get(key) for key in ("calibrated_by", "calibration", "agreement"))
    agreement = agreement or {"why": NOBODY, "unknown": NOBODY, "rate": None}
    noise = _noise(predicted, pl.concat(labelled), agreement) if predicted.n else None
    unknown = CHOSEN if calibrated_by == "people" else agreement["unknown"]
    total = sum(actions.values())
    return {
        "calibrated_by": calibrated_by,
        "uncalibrated": None if calibrated_by else agreement["why"],
        "noise": noise,
        "unknown": unknown if predicted.n and noise is None else None,
        "accuracy": {"before": noise and 1 - noise["rate"], "after": after.mean} if calibrated_by and after.n else None,
        "expected": {"turned": turned / wrong, "left_out": left_out / wrong} if wrong else None,
        "warnings": _warnings(agreement),
        "predicted": (fused_artefact(workspace, "policy") or {}).get("predicted", {}),
        "actual": {action: n / total for action, n in sorted(actions.items())},
        "calibration": calibration if calibration and calibration["n"] else None,
    }


def _sourced_verdicts(workspace: Workspace, bucket: int) -> pl.DataFrame:
    """The bucket's verdicts with `source_label`, `worse` (`worse_chosen`), `unseen` and `people`.

    `unseen` is `worse` without people's own votes: what was predicted before they spoke. `people` is their label on
    pairs that came with it; pairs that we asked people about were chosen for their doubt and say nothing of the others,
    and the audit has an estimate of its own.
    """
    verdicts = workspace.read("verdicts", bucket, ("fuse",), _VERDICTS)
    pairs = workspace.read("pairs", bucket, PAIR_STAGES, ("source_label",)).select("pair_id", "source_label")
    verdicts = verdicts.join(pairs, on="pair_id", how="left", maintain_order="left").with_columns(worse=worse_chosen())
    if not (verdicts["n_human"] > 0).any():
        return verdicts.with_columns(unseen="worse", people=pl.lit(None, dtype=pl.String))
    votes = workspace.read("votes", bucket, VOTE_STAGES, ("pair_id", "kind", "voter", "label"))
    people = votes.filter(pl.col("kind") == "human")
    contributions = workspace.read("verdicts", bucket, ("fuse",), ("pair_id", "contributions"))
    return with_people(verdicts, people, contributions)


def with_people(verdicts: pl.DataFrame, people: pl.DataFrame, contributions: pl.DataFrame) -> pl.DataFrame:
    """`verdicts` with `unseen` and `people` (see `_sourced_verdicts`).

    Args:
        verdicts: `pair_id, source_label, margin, worse`.
        people: `pair_id, kind, voter, label` of people's votes.
        contributions: `pair_id, contributions` of the verdicts.
    """
    own = (
        contributions.join(people.select("pair_id").unique(), on="pair_id", how="semi", maintain_order="left")
        .explode("contributions")
        .unnest("contributions")
        .filter(pl.col("voter").is_in(people["voter"].unique().implode()))
        .group_by("pair_id", maintain_order=True)
        .agg(pl.col("log_odds").sum().alias("_own"))
    )
    asked = people.filter(pl.col("voter").str.starts_with(HUMAN))
    labels = human_label(people).join(asked, on="pair_id", how="anti").rename({"label": "people"})
    towards = pl.when(pl.col("source_label") == "a").then(1.0).when(pl.col("source_label") == "b").then(-1.0)
    odds = towards * (pl.col("margin") - pl.col("_own"))
    return (
        verdicts.join(own, on="pair_id", how="left", maintain_order="left")
        .join(labels, on="pair_id", how="left", maintain_order="left")
        .with_columns(unseen=pl.coalesce((-odds).map_batches(_expit, return_dtype=pl.Float64), "worse"))
        .drop("_own")
    )


def _expit(z: pl.Series) -> pl.Series:
    return pl.Series(scipy.special.expit(z.to_numpy())).fill_nan(None)


def _published_right(verdicts: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """P(the published label names the better response) of each pair that the decision publishes."""
    p_label = pl.when(pl.col("label") == "a").then("p_a").otherwise(1 - pl.col("p_a"))
    published = verdicts.filter(pl.col("action").is_in(PUBLISHED) & (pl.col("label") != "tie"))
    return published.select(p_label).to_series().to_numpy()


def _noise(predicted: Predictions, labelled: pl.DataFrame, agreement: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many of the sources' labels are wrong: by people if they labelled enough, else by agreement, else None.

    Args:
        predicted: of all pairs whose source names a side.
        labelled: those of them that people labelled: `prompt_id, source_label, unseen, people`.
        agreement: what the fuser's model says of it.
    """
    prompts = labelled["prompt_id"].rank("dense").to_numpy().astype(np.int64)
    wrong = (labelled["people"] != labelled["source_label"]).to_numpy().astype(np.float64)
    people = ppi_rate(predicted, labelled["unseen"].to_numpy(), wrong, prompts)
    if people is not None:
        words = f"{people.n:,} labels of people that came with the sources, if their pairs are like the others"
        return _figures(asdict(people), predicted.n, words)
    if agreement["rate"] is not None:
        return _figures(agreement["rate"], predicted.n, agreement["why"])
    return None


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
    noise, expected, unknown = (values.get(key) for key in ("noise", "expected", "unknown"))
    if noise is not None:
        known = f", known by {noise['how']}" if "how" in noise else ""
        interval = f"{noise['level']:.0%} interval {noise['low']:.1%} to {noise['high']:.1%}"
        yield f"wrong source labels: {noise['rate']:.1%} ({interval}){known}{_corrections(noise, expected)}"
    elif unknown:
        yield f"how many source labels are wrong is not known: {unknown}"
    if is_uncalibrated(values):
        why = values["uncalibrated"]
        yield "probabilities are uncalibrated" + ("" if why == unknown else f": {why}")
    yield from (f"warning: {line}" for line in values.get("warnings", []))
    predicted, actual = values["predicted"], values["actual"]
    shares = [f"{a} {predicted.get(a, 0.0):.1%} / {actual.get(a, 0.0):.1%}" for a in sorted({*predicted, *actual})]
    if shares:
        yield f"actions, predicted / actual: {', '.join(shares)}"


def _corrections(noise: Mapping[str, Any], expected: Mapping[str, float] | None) -> str:
    """What becomes of the wrong labels: their number by the rate, their fate by the posterior."""
    if not expected:
        return ""
    n = noise["rate"] * noise["n"]
    turned, left_out = n * expected["turned"], n * expected["left_out"]
    return f"; of about {n:,.0f} the decisions turn {turned:,.0f} and leave out {left_out:,.0f}"


def outcome_note(
    n_pairs: int, n_rows: int, values: Mapping[str, Any] | None, certificate: Mapping[str, Any] | None
) -> str:
    """The run's last sentence: how many pairs came in, how many rows go out, how right their labels are, how we know.

    Args:
        values: `estimates` with `audited_noise`.
        certificate: of the published labels, by an audit.
    """
    values = values or {}
    if "calibrated_by" not in values:  # published before probabilities said what they rest on
        return f"in {n_pairs:,} pairs, out {n_rows:,} rows"
    sentence = f"in {n_pairs:,} pairs, out {n_rows:,} rows; expected label accuracy "
    audited = values.get("audited_noise")
    if certificate is not None and certificate["accuracy"] is not None and certificate["audited"] >= MIN_AUDITED:
        before = f"{1 - audited['rate']:.1%} -> " if audited else ""
        return f"{sentence}{before}{certificate['accuracy']:.1%}, known by an audit of {certificate['audited']:,} pairs"
    accuracy = values.get("accuracy")
    if accuracy is None:
        return f"{sentence}not known: {values['uncalibrated'] or NOBODY}"
    noise = values["noise"]
    known = {"people": "people's labels", "agreement": "agreement of independent voters"}[values["calibrated_by"]]
    before = f"{accuracy['before']:.1%} -> " if noise else ""
    return f"{sentence}{before}{accuracy['after']:.1%}, known by {noise['how'] if noise else known}"
