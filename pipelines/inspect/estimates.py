"""What fusion says of the whole data set: how many source labels are wrong, what the policy would do, calibration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from pipelines.runtime.stage import CURRENT
from schemas.ids import canonical_json
from transforms.stats.label_noise import noise_rate, noise_sums
from transforms.storage.workspace import Workspace

_NAME = "estimates"


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
        `noise` (`transforms.stats.label_noise.noise_rate`, None without source labels); `predicted` and `actual`
        (share of each action, from the random part of the fitting sample and in all verdicts); `calibration` (the
        fuser's own, against people's labels, out of fold; None if the fuser measures none).
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
    sums: dict[str, float] = {}
    actions: Counter[str] = Counter()
    for bucket in workspace.buckets:
        verdicts = workspace.read("verdicts", bucket, ("fuse",), ("prompt_id", "noise", "action"))
        for key, value in noise_sums(verdicts).items():
            sums[key] = sums.get(key, 0.0) + value
        actions.update(dict(verdicts["action"].value_counts().iter_rows()))
    total = sum(actions.values())
    calibration = (fused_artefact(workspace, "fuser") or {}).get("calibration")
    return {
        "noise": noise_rate(sums),
        "predicted": (fused_artefact(workspace, "policy") or {}).get("predicted", {}),
        "actual": {action: n / total for action, n in sorted(actions.items())},
        "calibration": calibration if calibration and calibration["n"] else None,
    }


def estimate_notes(values: dict[str, Any] | None) -> list[str]:
    """The estimates as notes for a person."""
    if values is None:
        return []
    lines = []
    noise = values["noise"]
    if noise is not None:
        lines.append(
            f"estimated share of wrong source labels: {noise['rate']:.1%} ({noise['level']:.0%} interval "
            f"{noise['low']:.1%} to {noise['high']:.1%})"
        )
    predicted, actual = values["predicted"], values["actual"]
    shares = [f"{a} {predicted.get(a, 0.0):.1%} / {actual.get(a, 0.0):.1%}" for a in sorted({*predicted, *actual})]
    if shares:
        lines.append(f"actions, predicted / actual: {', '.join(shares)}")
    return lines
