"""Publish a dataset version: all of it or nothing, and nothing new when nothing has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from schemas.errors import DataError, WorkspaceError
from schemas.manifest import Manifest, version_name
from schemas.tables import SPLITS
from transforms.publish.card import dataset_card
from transforms.publish.files import ROWS_PER_FILE, Bucket, TableWriter, file_entry, write_buckets
from transforms.publish.read import Version
from transforms.publish.rows import STAGE
from transforms.publish.splits import SPLITS_SCHEMA
from transforms.publish.store import Datasets, check_name
from transforms.storage.files import writing


@dataclass(frozen=True)
class Provenance:
    """What a version was made of: fields of the manifest, `voters` with what each voter cast.

    `parent_recipe_hash` is the hash of the parent's recipe as this code makes it, if it can: the parent's own
    `recipe_hash` may be by the rule of an earlier code.
    """

    recipe: str
    recipe_hash: str
    code_version: str
    parent_recipe_hash: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    voters: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    estimates: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PublishResult:
    """`published` is false if the latest version already holds exactly this content."""

    name: str
    version: int
    published: bool
    path: str
    manifest: Manifest


def publish(
    datasets: str | Path,
    name: str,
    buckets: Iterable[Bucket],
    splits: Iterable[pl.DataFrame],
    provenance: Provenance,
    *,
    parent: int | None = None,
    evidence: Mapping[str, bytes] | None = None,
    documents: Callable[[Manifest, Path], Mapping[str, bytes]] | None = None,
    rows_per_file: int = ROWS_PER_FILE,
) -> PublishResult:
    """Write the next version of a dataset.

    Args:
        datasets: folder or fsspec URL of all datasets.
        name: the dataset.
        buckets: its content, one bucket at a time, in the order of the buckets.
        splits: the parts of `assign_parts`; kept as the memory that the next version obeys.
        provenance: what it was made of.
        parent: the version whose memory `splits` obeyed; None for the first.
        evidence: further files by name: the fuser's model and the policy (`transforms.publish.recompute`).
        documents: given the manifest and the folder of the staged files, further files of the version by name
            (for example report.html).
        rows_per_file: largest number of rows in one data file.

    Raises:
        WorkspaceError: the latest version is no longer `parent`, or somebody else is publishing.
        DataError: pairs are not conserved.
    """
    store = Datasets(datasets)
    check_name(name)
    with store.publishing(name) as staging:
        voters: dict[str, dict[str, Any]] = {}
        tally = write_buckets(_counting_votes(buckets, voters), staging, rows_per_file)
        _check_conservation(tally.n_pairs, tally.n_rows, tally.rejects_by_reason)
        memory = TableWriter(staging, "evidence/splits", rows_per_file * 4)
        for part in splits:
            memory.add(part.select(SPLITS_SCHEMA.names()).sort("prompt_id"))
        tally.files.update(memory.close())
        latest = max(store.versions(name), default=None)
        manifest = Manifest(
            name=name,
            version=(latest or 0) + 1,
            parent=latest,
            recipe=provenance.recipe,
            recipe_hash=provenance.recipe_hash,
            code_version=provenance.code_version,
            inputs=dict(provenance.inputs),
            parts=dict(provenance.parts),
            voters=_voters(voters, provenance.voters),
            splits=dict(provenance.splits),
            n_pairs=tally.n_pairs,
            n_rows=tally.n_rows,
            n_rejects=tally.n_rejects,
            rows_by_split={s: tally.rows_by_split[s] for s in SPLITS if s in tally.rows_by_split},
            rejects_by_reason=dict(sorted(tally.rejects_by_reason.items())),
            actions=dict(sorted(tally.actions.items())),
            certificate=None if provenance.certificate is None else dict(provenance.certificate),
            estimates=None if provenance.estimates is None else dict(provenance.estimates),
            row_hash=tally.row_hash,
            reject_hash=tally.reject_hash,
            files=dict(sorted(tally.files.items())),
        )
        if latest is not None:
            newest = store.manifest(name, latest)
            earlier = (provenance.parent_recipe_hash if latest == parent else None) or newest.recipe_hash
            if newest.model_copy(update={"recipe_hash": earlier}).content_hash == manifest.content_hash:
                return PublishResult(name, latest, False, store.url(name, f"v{latest:04d}"), newest)
        if latest != parent:
            raise WorkspaceError(
                f"{newest.label if latest else name} was published while this version was being made from "
                f"{'nothing' if parent is None else f'v{parent:04d}'}; run materialise again"
            )
        extra = {"README.md": dataset_card(manifest).encode(), **(documents(manifest, staging) if documents else {})}
        for relative, data in {**(evidence or {}), **extra}.items():
            path = staging / relative
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            tally.files[relative] = file_entry(path)
        manifest = manifest.model_copy(update={"files": dict(sorted(tally.files.items()))})
        store.commit(staging, manifest)
    return PublishResult(name, manifest.version, True, store.url(name, f"v{manifest.version:04d}"), manifest)


def latest_version(datasets: str | Path, name: str) -> Version | None:
    """The version that the next one has as parent."""
    store = Datasets(datasets)
    latest = max(store.versions(name), default=None)
    return None if latest is None else Version(store.manifest(name, latest), store.url(name, version_name(latest)))


def _counting_votes(buckets: Iterable[Bucket], voters: dict[str, dict[str, Any]]) -> Iterator[Bucket]:
    """The buckets, counting who votes into `voters` as they pass."""
    for bucket in buckets:
        cast = bucket.votes.group_by("voter").agg(pl.col("kind", "voter_group").min(), pl.len())
        for voter, kind, group, n in cast.iter_rows():
            entry = voters.setdefault(voter, {"kind": kind, "group": group, "votes": 0})
            entry["votes"] += n
        yield bucket


def _voters(cast: Mapping[str, Mapping[str, Any]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Everybody who voted, and whom the recipe names though nothing came of them."""
    return {name: {"votes": 0, **known.get(name, {}), **cast.get(name, {})} for name in sorted({*cast, *known})}


def _check_conservation(pairs: int, rows: int, rejects_by_reason: Mapping[str, int]) -> None:
    lost = sum(n for reason, n in rejects_by_reason.items() if reason.startswith(f"{STAGE}/"))
    if pairs != rows + lost:
        raise DataError(
            f"{pairs} pairs became {rows} rows and {lost} rejects: {pairs - rows - lost} are unaccounted for"
        )
