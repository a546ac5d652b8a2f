"""Comparing and checking published versions."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.hygiene.decontamination import index_of
from transforms.publish import hub
from transforms.publish.diff import Diff, diff
from transforms.publish.read import open_version
from transforms.publish.retention import prunable, prune
from transforms.publish.store import Datasets
from transforms.publish.verify import Check, verify
from transforms.storage.workspace import Workspace

_NGRAM = 13


def datasets_of(root: str) -> str:
    """Where a workspace's versions live.

    Raises:
        WorkspaceError: no workspace at `root`.
    """
    return Workspace.open(root).datasets


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


def prune_versions(root: str, name: str, keep: int, pinned: Sequence[int], dry_run: bool) -> list[int]:
    """Remove old versions (or, with `dry_run`, only name them).

    Raises:
        UsageError: nothing would stay, or a pinned version does not exist.
    """
    store = Datasets(datasets_of(root))
    return prunable(store, name, keep, pinned) if dry_run else prune(store, name, keep, pinned)


def to_hub(root: str, reference: str, repository: str, private: bool) -> str:
    """Upload a version; returns the address of its tag."""
    datasets = datasets_of(root)
    return hub.push(Datasets(datasets), open_version(datasets, reference), repository, private=private)


def from_hub(root: str, repository: str, tag: str) -> str:
    """Download a version; returns its name."""
    return hub.pull(Datasets(datasets_of(root)), repository, tag).manifest.label
