"""Writing a dataset version in the format a trainer reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from pydantic import ValidationError

from schemas.errors import DataError, UsageError
from schemas.manifest import Manifest, version_name
from schemas.recipe import ExportUse, PluginUse
from transforms.exporters.base import Exporter
from transforms.plugins.build import build
from transforms.publish.calibration_source import UNCALIBRATED, is_uncalibrated
from transforms.publish.read import open_version
from transforms.storage.files import writing
from transforms.storage.workspace import Workspace

EXPORTS = "exports"
_LAST = "README.md"  # every exporter writes one; on an object store it says that the others are there


@dataclass(frozen=True)
class Exported:
    """An export.

    Attributes:
        name: the use's name, or the format.
        path: where it lies.
        rows: rows written per split; empty if it lay there before.
        notes: what was left out, and how to keep it.
    """

    name: str
    path: str
    rows: dict[str, int]
    notes: list[str]


def export_version(root: str, dataset: str, form: str, out: Path, options: dict[str, Any]) -> Exported:
    """Export NAME or NAME@V. A folder that was not there appears when it is complete.

    Raises:
        UsageError: no such version, exporter or option, or `out` is a file.
        DataError: the format cannot hold the rows, or holds none of them.
    """
    workspace = Workspace.open(root)
    exporter = build(Exporter, _use(form, options), 0, Path())
    version = open_version(workspace.datasets, dataset)
    rows = version.scan("rows")
    notes = [*exporter.notes(rows), *_doubts(version.manifest)]
    if out.is_symlink() and not out.exists():
        raise UsageError(
            f"{out} is a link to {out.readlink()}, which is not there: make that folder or remove the link"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    if out.exists():
        return Exported(form, str(out), _written(exporter, rows, out, version.manifest), notes)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as staged:
        whole = Path(staged) / out.name
        counts = _written(exporter, rows, whole, version.manifest)
        whole.rename(out)
    return Exported(form, str(out), counts, notes)


def _written(exporter: Exporter, rows: pl.LazyFrame, out: Path, manifest: Manifest) -> dict[str, int]:
    """Export, and say in its README what the version's probabilities lack."""
    counts = exporter.export(rows, out)
    doubts = _doubts(manifest)
    if doubts:
        with (out / _LAST).open("a", encoding="utf-8") as readme:
            readme.write("".join(f"{line}\n" for line in doubts))
    return counts


def _doubts(manifest: Manifest) -> list[str]:
    return [UNCALIBRATED] if is_uncalibrated(manifest.estimates) else []


def _use(form: str, options: dict[str, Any]) -> PluginUse:
    if "name" in options:
        raise UsageError("option name: unknown here; --out names the folder")
    try:
        return ExportUse(format=form, options=options).use
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(f"{wrong['loc'][0]}: {wrong['msg'].removeprefix('Value error, ')}") from None


def export_all(
    workspace: Workspace, manifest: Manifest, exports: list[ExportUse], seed: int, folder: Path
) -> list[Exported]:
    """Write a version's exports that are not there yet, or were made with other options.

    An export appears when it is complete: a run that broke off in between is finished by the next one. Relative paths
    in the exports' options start from `folder`.

    Raises:
        DataError: formats cannot hold the version's rows, or hold none; the version and the other exports stand.
    """
    version = version_name(manifest.version)
    root = f"{workspace.root.rstrip('/')}/{EXPORTS}/{manifest.name}/{version}"
    rows = open_version(workspace.datasets, manifest.label).scan("rows") if exports else pl.LazyFrame()
    done, faults = [], []
    for use in (export.use for export in exports):
        exporter = build(Exporter, use, seed, folder)
        place = workspace.path(EXPORTS, manifest.name, version, use.name)
        counts: dict[str, int] = {}
        try:
            if not _is_made(workspace.fs, place, exporter.made_by):
                with TemporaryDirectory(prefix="prefine-") as staged:
                    counts = _written(exporter, rows, Path(staged), manifest)
                    with writing(place):
                        _appear(workspace.fs, Path(staged), place)
            done.append(Exported(use.name, f"{root}/{use.name}", counts, exporter.notes(rows)))
        except DataError as error:
            faults.append(f"export {use.name}: {error}")
    if faults:
        raise DataError("\n".join([f"{manifest.label} is published, but not all of its exports are written", *faults]))
    return done


def _is_made(fs: Any, folder: str, how: str) -> bool:
    """Whether the export is there and its README says that it was made so."""
    try:
        readme: bytes = fs.cat_file(f"{folder}/{_LAST}")
    except FileNotFoundError:
        return False
    return how in readme.decode("utf-8", "replace").splitlines()


def _appear(fs: Any, staged: Path, folder: str) -> None:
    if fs.exists(folder):
        fs.rm(folder, recursive=True)
    files = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: (name == _LAST, name)):
        fs.makedirs(f"{folder}/{name}".rpartition("/")[0], exist_ok=True)
        fs.put_file(str(staged / name), f"{folder}/{name}")
