"""The report of a version: gathered from the version's files and the workspace's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from schemas.manifest import Manifest
from transforms.storage.workspace import Workspace


def report_documents(workspace: Workspace, manifest: Manifest, folder: Path) -> Mapping[str, bytes]:
    """Further files of the version."""
    return {}
