"""The report of a version: gathered from the version's files and the workspace's checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import UsageError
from schemas.manifest import Manifest
from transforms.publish.store import Datasets
from transforms.storage.workspace import Workspace

REPORT = "report.html"


def report_documents(workspace: Workspace, manifest: Manifest, folder: Path) -> Mapping[str, bytes]:
    """Further files of the version."""
    return {}


def write_report(root: str, dataset: str, out: Path | None) -> str:
    """Copy a version's report to `out`, or just say where it is.

    Raises:
        UsageError: no such version.
    """
    store = Datasets(f"{Workspace.open(root).root.rstrip('/')}/datasets")
    name, version = store.resolve(dataset)
    path = store.path(name, f"v{version:04d}", REPORT)
    if not store.fs.exists(path):
        raise UsageError(f"{name}@v{version:04d} has no report")
    if out is None:
        return store.url(name, f"v{version:04d}", REPORT)
    with store.fs.open(path, "rb") as source, out.open("wb") as target:
        shutil.copyfileobj(source, target)
    return str(out)
