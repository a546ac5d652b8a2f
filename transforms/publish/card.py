"""The dataset card: README.md with the metadata block of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from schemas.manifest import Manifest
from schemas.tables import DatasetRows, polars_schema
from transforms.publish.calibration_source import BELIEFS, is_uncalibrated
from transforms.publish.features import features
from transforms.stats.certificate_text import notes_of

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)


def size_category(rows: int) -> str:
    """The Hub's size category."""
    return next((name for limit, name in SIZES if rows < limit), "n>1B")


def dataset_card(manifest: Manifest) -> str:
    """The card of a version: `load_dataset(folder)` reads its configuration from here."""
    metadata = {
        "pretty_name": manifest.name,
        "size_categories": [size_category(manifest.n_rows)],
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "reward-model", "prefine"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in manifest.rows_by_split],
            }
        ],
        "dataset_info": {"config_name": "default", "features": features(polars_schema(DatasetRows))},
    }
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    splits = "\n".join(f"| {s} | {n:,} |" for s, n in manifest.rows_by_split.items())
    predicted = (manifest.estimates or {}).get("predicted", {})
    actions = "\n".join(
        f"| {a} | {manifest.actions.get(a, 0):,} | {manifest.actions.get(a, 0) / max(manifest.n_pairs, 1):.1%} | "
        f"{'' if not predicted else format(predicted.get(a, 0.0), '.1%')} |"
        for a in sorted({*manifest.actions, *predicted})
    )
    rejects = "\n".join(f"| {r} | {n:,} |" for r, n in manifest.rejects_by_reason.items())
    return f"""---
{head}---

# {manifest.label}

{manifest.n_rows:,} preferences from {manifest.n_pairs:,} pairs. Every row's `chosen` was decided by a fused posterior;
`p_chosen` is its probability, `margin` its absolute log-odds, `decided_by` the voter that counted most. The folder
`evidence` holds every vote and the arithmetic of every label: `prefine explain PAIR_ID`.

| split | rows |
|---|---|
{splits}

| action | pairs | share | predicted |
|---|---|---|---|
{actions}

| left out because | records |
|---|---|
{rejects}
{_noise(manifest.estimates)}{_certified(manifest.certificate)}
Row hash `{manifest.row_hash}`, recipe hash `{manifest.recipe_hash}`, code {manifest.code_version}.
"""


def _noise(estimates: Mapping[str, Any] | None) -> str:
    """How many source labels are wrong and how that is known; empty where no source gave labels."""
    known = estimates or {}
    estimators = [("the posterior", known.get("noise")), ("a random audit", known.get("audited_noise"))]
    rows = "\n".join(
        f"| {noise.get('how', name)} | {noise['rate']:.1%} | {noise['low']:.1%} to {noise['high']:.1%} |"
        for name, noise in estimators
        if noise is not None
    )
    unknown = known.get("unknown")
    lines = [f"How many of the sources' labels are wrong is not known: {unknown}."] if unknown else []
    if is_uncalibrated(known):
        lines.append(f"**Uncalibrated**: `p_chosen`, `margin` and `weight` {BELIEFS}.")
    if rows:
        lines.append(f"""How many of the sources' labels are wrong:

| known by | wrong source labels | 95% interval |
|---|---|---|
{rows}""")
    return "\n" + "\n\n".join(lines) + "\n" if lines else ""


def _certified(certificate: Mapping[str, Any] | None) -> str:
    """What the audit says of the labels, overall and by slice; empty where nobody was asked."""
    if certificate is None:
        return ""
    parts = [("all", certificate)]
    for name, values in certificate["slices"].items():
        parts += [(f"{name}: {value}", f) for value, f in values.items()]
    rows = "\n".join(
        f"| {name} | {f['accuracy']:.1%} | {f['low']:.1%} to {f['high']:.1%} | {f['audited']:,} |"
        if f["accuracy"] is not None
        else f"| {name} | NOT_AUDITED | | {f['audited']:,} |"
        for name, f in parts
    )
    notes = "\n\n".join(notes_of(certificate))
    return f"""
How many labels are right, estimated from a random audit whose answers took no part in any label:

| labels | right | {certificate["level"]:.0%} interval | audited pairs |
|---|---|---|---|
{rows}

{notes}
"""
