"""Writing a dataset version in the format a trainer reads."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas.recipe import PluginUse
from transforms.build import build
from transforms.publish.read import open_version
from transforms.storage.workspace import Workspace


def export_version(root: str, dataset: str, form: str, out: Path, options: dict[str, Any]) -> dict[str, int]:
    """Export NAME or NAME@V; returns rows per split. A folder that was not there appears when it is complete.

    Raises:
        UsageError: no such version, exporter or option.
    """
    workspace = Workspace.open(root)
    exporter = build("exporters", PluginUse.model_validate({**options, "plugin": form}), 0)
    version = open_version(workspace.datasets, dataset)
    if out.exists():
        return dict(exporter.export(version.scan("rows"), out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as staged:
        whole = Path(staged) / out.name
        counts: dict[str, int] = exporter.export(version.scan("rows"), whole)
        whole.rename(out)
    return counts
