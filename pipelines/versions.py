"""Comparing and checking published versions."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.hygiene.decontamination import index_of
from transforms.publish.diff import Diff, diff
from transforms.publish.read import open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import Check, verify
from transforms.storage.workspace import Workspace

_NGRAM = 13


def datasets_of(root: str) -> str:
    """Where a workspace's versions live.

    Raises:
        WorkspaceError: no workspace at `root`.
    """
    return f"{Workspace.open(root).root.rstrip('/')}/datasets"


def compare(root: str, old: str, new: str, slice_by: str) -> Diff:
    """The rows that differ between two versions, each with its reason.

    Raises:
        UsageError: no such version.
    """
    datasets = datasets_of(root)
    return diff(open_version(datasets, old), open_version(datasets, new), slice_by=slice_by)


def check(root: str, reference: str, benchmarks: Sequence[str]) -> list[Check]:
    """Every check of a version; `benchmarks` are prompt sets it must not overlap with."""
    datasets = datasets_of(root)
    version = open_version(datasets, reference)
    parent = version.manifest.parent
    before = None if parent is None else open_version(datasets, f"{version.manifest.name}@{parent}")
    contaminated = index_of(tuple(benchmarks), _NGRAM).find if benchmarks else None
    return verify(Datasets(datasets), version, contaminated=contaminated, parent=before)
