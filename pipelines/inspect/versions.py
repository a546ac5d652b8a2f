"""Comparing and checking published versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from schemas.manifest import Manifest, version_name
from transforms.hygiene.config import DecontaminationConfig
from transforms.hygiene.decontamination import index_of
from transforms.publish import hub
from transforms.publish.diff import ROWS, Diff, diff
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


def published(root: str) -> Iterator[tuple[Manifest, str]]:
    """Every version's manifest and where the version lies, by dataset and number.

    Raises:
        WorkspaceError: no workspace at `root`, or a manifest is damaged.
    """
    store = Datasets(datasets_of(root))
    for name in store.names():
        for number in store.versions(name):
            yield store.manifest(name, number), store.url(name, version_name(number))


def compare(root: str, old: str, new: str, slice_by: str, n_texts: int = ROWS) -> Diff:
    """The rows that differ between two versions, each with its reason, and the texts of the first `n_texts` of them.

    Raises:
        UsageError: no such version.
    """
    datasets = datasets_of(root)
    return diff(open_version(datasets, old), open_version(datasets, new), slice_by=slice_by, n_texts=n_texts)


def check(root: str, reference: str, benchmarks: Sequence[str]) -> list[Check]:
    """Every check of a version.

    Args:
        root: the workspace.
        reference: NAME or NAME@V.
        benchmarks: prompt sets it must not overlap with; without any, those of the recipe it was made by, as far as
            their files are here. Relative paths of the recipe start from the current folder, from the workspace or
            from the folder that holds it.
    """
    datasets = datasets_of(root)
    version = open_version(datasets, reference)
    name, parent = version.manifest.name, version.manifest.parent
    here = parent in Datasets(datasets).versions(name)
    before = open_version(datasets, f"{name}@{parent}") if here else None
    named, ngram, absent = (list(benchmarks), _NGRAM, ()) if benchmarks else _of_recipe(version.manifest.recipe, root)
    contaminated = index_of(tuple(named), ngram).find if named else None
    checks = verify(Datasets(datasets), version, contaminated=contaminated, parent=before)
    if absent:
        detail = f"not checked: {', '.join(absent)} of the recipe is not here; name it with --benchmarks"
        checks.append(Check(name="decontamination", ok=True, detail=detail))
    return checks


def _of_recipe(text: str, root: str) -> tuple[Sequence[str], int, Sequence[str]]:
    """Benchmarks of a recipe that are here, its n-gram length, and the benchmarks that are not here."""
    recipe = yaml.safe_load(text) if text else None
    section = ((recipe or {}).get("hygiene") or {}).get("decontamination")
    if not section:
        return [], _NGRAM, []
    config = DecontaminationConfig.model_validate(section)
    starts = [Path.cwd(), Path(root), Path(root).parent]
    present, absent = [], []
    for name in config.benchmarks:
        # A data set of the library may have to be fetched: only one that is named on the command line is.
        places = [] if name.startswith("datasets:") else [start / Path(name).expanduser() for start in starts]
        here = next((place for place in places if place.is_file()), None)
        if here is None:
            absent.append(name)
        else:
            present.append(str(here))
    return present, config.ngram, absent


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
