"""How far a workspace is, stage by stage."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.inspect.estimates import estimate_notes, kept_estimates
from pipelines.inspect.judges import prefix_caches, requests
from pipelines.runtime.order import RUN_ORDER
from pipelines.runtime.progress import read_progress
from pipelines.runtime.summary import summarise
from transforms.storage.workspace import Workspace


def status(root: str) -> list[dict[str, Any]]:
    """Per stage of a run: buckets done, rows, rejects by reason, seconds, ETA; what it asked whom."""
    workspace = Workspace.open(root)
    rows = []
    for name in RUN_ORDER:
        checkpoints = workspace.checkpoints(name)
        summary = summarise(name, list(checkpoints.values()))
        done, total = read_progress(workspace, name)
        eta = summary.seconds / summary.buckets * (workspace.n_buckets - summary.buckets) if summary.buckets else None
        row = {**asdict(summary), "n_buckets": workspace.n_buckets, "units_done": done, "units_total": total}
        asked = {"requests": requests(workspace, name), "prefix_caches": prefix_caches(workspace, name)}
        rows.append({**row, "eta_seconds": eta, **asked})
    return rows


def fusion_notes(root: str) -> list[str]:
    """The estimated share of wrong labels and predicted beside actual actions; empty before a fusion has finished."""
    return estimate_notes(kept_estimates(Workspace.open(root)))
