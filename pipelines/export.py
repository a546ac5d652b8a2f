"""Writing a dataset version in the format a trainer reads."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from schemas.errors import UsageError
from schemas.manifest import Manifest, version_name
from schemas.recipe import ExportUse, PluginUse
from transforms.build import build
from transforms.publish.read import open_version
from transforms.storage.files import writing
from transforms.storage.workspace import Workspace

EXPORTS = "exports"
_LAST = "README.md"  # every exporter writes one; on an object store it says that the others are there


def export_version(root: str, dataset: str, form: str, out: Path, options: dict[str, Any]) -> dict[str, int]:
    """Export NAME or NAME@V; returns rows per split. A folder that was not there appears when it is complete.

    Raises:
        UsageError: no such version, exporter or option.
    """
    workspace = Workspace.open(root)
    exporter = build("exporters", _use(form, options), 0)
    version = open_version(workspace.datasets, dataset)
    if out.exists():
        return dict(exporter.export(version.scan("rows"), out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as staged:
        whole = Path(staged) / out.name
        counts: dict[str, int] = exporter.export(version.scan("rows"), whole)
        whole.rename(out)
    return counts


def _use(form: str, options: dict[str, Any]) -> PluginUse:
    if "name" in options:
        raise UsageError("option name: unknown here; --out names the folder")
    try:
        return ExportUse(format=form, options=options).use
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(f"{wrong['loc'][0]}: {wrong['msg'].removeprefix('Value error, ')}") from None


def export_all(workspace: Workspace, manifest: Manifest, exports: list[ExportUse], seed: int) -> dict[str, str]:
    """Write a version's exports that are not there yet; name -> path or URL of each.

    An export appears when it is complete: a run that broke off in between is finished by the next one.

    Raises:
        DataError: a format cannot hold the version's rows; the version itself stands.
    """
    root = f"{workspace.root.rstrip('/')}/{EXPORTS}/{manifest.name}/{version_name(manifest.version)}"
    done = {}
    for use in (export.use for export in exports):
        done[use.name] = f"{root}/{use.name}"
        folder = workspace.path(EXPORTS, manifest.name, version_name(manifest.version), use.name)
        if workspace.fs.exists(f"{folder}/{_LAST}"):
            continue
        version = open_version(workspace.datasets, manifest.label)
        with TemporaryDirectory(prefix="prefine-") as staged:
            build("exporters", use, seed).export(version.scan("rows"), Path(staged))
            with writing(folder):
                _appear(workspace.fs, Path(staged), folder)
    return done


def _appear(fs: Any, staged: Path, folder: str) -> None:
    if fs.exists(folder):
        fs.rm(folder, recursive=True)
    files = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: (name == _LAST, name)):
        fs.makedirs(f"{folder}/{name}".rpartition("/")[0], exist_ok=True)
        fs.put_file(str(staged / name), f"{folder}/{name}")
