"""Removing old versions: never the latest, never a pinned one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from schemas.errors import UsageError
from schemas.manifest import MANIFEST, version_name
from transforms.publish.store import Datasets


def prunable(datasets: Datasets, name: str, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Versions that `prune` would remove: all but the `keep` latest and the pinned ones.

    A version needs no other: it holds its own evidence and the memory of all splits before it. The latest one is what
    the next run continues from, so it always stays.

    Raises:
        UsageError: `keep` is below 1, or a pinned version does not exist.
    """
    if keep < 1:
        raise UsageError("keep at least 1 version: the next run continues from the latest one")
    versions = datasets.versions(name)
    if unknown := sorted(set(pinned) - set(versions)):
        raise UsageError(f"{name} has no version {', '.join(map(version_name, unknown))} to pin")
    return [v for v in versions[:-keep] if v not in pinned]


def prune(datasets: Datasets, name: str, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Remove the prunable versions and say which they were.

    A version disappears as a whole: locally its folder is renamed away first, elsewhere its manifest is removed first,
    so that an interruption leaves no half version; what it leaves goes with the next publication or pruning.
    """
    removed = prunable(datasets, name, keep, pinned)
    for version in removed:
        folder = datasets.path(name, version_name(version))
        if datasets.is_local:
            grave = Path(tempfile.mkdtemp(prefix=".tmp-", dir=Path(folder).parent))
            Path(folder).rename(grave / version_name(version))
            shutil.rmtree(grave)
        else:
            datasets.fs.rm_file(f"{folder}/{MANIFEST}")
            datasets.fs.rm(folder, recursive=True)
    return removed
