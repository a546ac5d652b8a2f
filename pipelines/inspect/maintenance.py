"""What a workspace needs now and then: journals compacted, published labels audited anew."""

from __future__ import annotations

from typing import Any

from pipelines.inspect.versions import datasets_of
from pipelines.publish.certify import audited
from transforms.publish.read import open_version
from transforms.storage.memo import EmbeddingCache, Memo
from transforms.storage.workspace import Workspace


def compact(root: str) -> dict[str, int]:
    """Turn the memo's journals that no process writes any more into Parquet; rows known per memo table.

    Raises:
        WorkspaceError: no workspace at `root`, or it is not on a local disk.
    """
    workspace = Workspace.open(root)
    known = 0
    for bucket in workspace.buckets:
        folder = workspace.local_path("tables", "generations", f"bucket={bucket:04d}")
        if folder.is_dir():
            memo = Memo(folder)
            memo.errors.compact()
            known += memo.compact()
    folder = workspace.local_path("tables", "embeddings")
    vectors = EmbeddingCache(folder).compact() if folder.is_dir() else 0
    return {"generations": known, "embeddings": vectors}


def audit(root: str, reference: str) -> dict[str, Any]:
    """Certify a published version with every answer there is by now.

    Returns:
        `version`, `published` (the certificate in its manifest), `now` (the certificate today; None without an
        audit's answers) and `worse`: whether today's whole interval lies below the published one.

    Raises:
        UsageError: there is no such version.
    """
    workspace = Workspace.open(root)
    version = open_version(datasets_of(root), reference)
    before = version.manifest.certificate
    now = audited(workspace, version.scan("rows").collect())
    worse = bool(before and now and None not in (before["low"], now["high"]) and now["high"] < before["low"])
    return {"version": version.manifest.label, "published": before, "now": now, "worse": worse}
