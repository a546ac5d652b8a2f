"""Where versions live: a local folder or an fsspec URL such as `s3://bucket/datasets`.

A version exists if and only if its folder holds a manifest. Locally a version is built in a hidden folder
under an exclusive lock of the operating system, which dies with its holder, and renamed into place. On an
object store there is neither: the version is built in a local temporary folder and uploaded, manifest last and by
exclusive creation, under a claim (`transforms.publish.claims`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import UsageError, WorkspaceError
from schemas.manifest import MANIFEST, Manifest, version_name
from schemas.names import file_name, is_file_name
from transforms.publish.claims import claimed
from transforms.storage.files import is_local, writing

_VERSION = re.compile(r"v([0-9]{4,})")


def check_name(name: str) -> str:
    """The name of a dataset, if it can be a folder, a view and a Hub repository.

    Raises:
        UsageError: it cannot.
    """
    try:
        return file_name(name)
    except ValueError as error:
        raise UsageError(f"dataset: {error}") from None


class Datasets:
    """All versions of all datasets under one root."""

    def __init__(self, root: str | Path) -> None:
        import fsspec

        self.root = str(root).rstrip("/")
        fs, self._base = fsspec.core.url_to_fs(self.root)
        self.fs: Any = fs
        self.is_local = is_local(fs)

    def path(self, *parts: str) -> str:
        """Path inside the file system."""
        return "/".join([self._base.rstrip("/"), *parts])

    def url(self, *parts: str) -> str:
        """Address that Polars and DuckDB read."""
        return self.path(*parts) if self.is_local else self.fs.unstrip_protocol(self.path(*parts))

    def names(self) -> list[str]:
        """Datasets with at least one version."""
        return [n for n in self._folders() if is_file_name(n) and self.versions(n)]

    def versions(self, name: str) -> list[int]:
        """Published versions, ascending."""
        matches = (_VERSION.fullmatch(f) for f in self._folders(check_name(name)))
        numbers = sorted(int(m[1]) for m in matches if m)
        return [n for n in numbers if self.fs.exists(self.path(name, version_name(n), MANIFEST))]

    def resolve(self, reference: str) -> tuple[str, int]:
        """`NAME`, `NAME@V`, `NAME@3` or `NAME@v0003` as name and version; no version means the latest.

        Raises:
            UsageError: there is no such version.
        """
        name, _, wanted = reference.partition("@")
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise UsageError(f"no dataset named {name!r} under {self.root}; published datasets: {known}")
        if not wanted or wanted == "latest":
            return name, versions[-1]
        digits = wanted.removeprefix("v")
        if not re.fullmatch("[0-9]{1,18}", digits) or int(digits) not in versions:
            known = ", ".join(version_name(v) for v in versions)
            raise UsageError(f"{name} has no version {wanted!r}; published: {known}")
        return name, int(digits)

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version.

        Raises:
            WorkspaceError: it is damaged.
        """
        path = self.path(check_name(name), version_name(version), MANIFEST)
        try:
            return Manifest.model_validate_json(self.fs.cat_file(path))
        except ValueError as error:
            raise WorkspaceError(f"{path} is damaged: {error}") from error

    @contextmanager
    def publishing(self, name: str) -> Iterator[Path]:
        """An empty local folder to build a version in, held exclusively; what crashed publishers left is removed.

        Raises:
            WorkspaceError: somebody else is publishing this dataset.
        """
        if self.is_local:
            with _locked(Path(self.path(name))) as folder:
                for left in folder.glob(".tmp-*"):
                    shutil.rmtree(left, ignore_errors=True)
                yield from _staging(folder)
        else:
            with tempfile.TemporaryDirectory(prefix="prefine-") as folder_name:
                yield Path(folder_name)

    def commit(self, staging: Path, manifest: Manifest) -> None:
        """Make the staged files version `manifest.version`; the manifest appears last.

        Raises:
            WorkspaceError: the version exists or is being published by somebody else.
        """
        if self.is_local:
            _write_durably(staging / MANIFEST, manifest.to_bytes())
            target = Path(self.path(manifest.name, version_name(manifest.version)))
            if target.is_dir() and not (target / MANIFEST).exists():
                shutil.rmtree(target)
            try:
                staging.rename(target)
            except OSError as error:
                raise WorkspaceError(f"{manifest.label} exists already; run materialise again") from error
            _sync_folder(target.parent)
        else:
            self._upload(staging, manifest)

    def _upload(self, staging: Path, manifest: Manifest) -> None:
        target = self.path(manifest.name, version_name(manifest.version))
        exists = f"{manifest.label} exists already; run materialise again"
        with claimed(self.fs, f"{target}.claim", manifest.label) as claim:
            if self.fs.exists(f"{target}/{MANIFEST}"):
                raise WorkspaceError(exists)
            if self.fs.exists(target):
                self.fs.rm(target, recursive=True)
            _write_durably(staging / MANIFEST, manifest.to_bytes())
            # Exclusively, so that one who was taken over between two checks cannot change what the other wrote.
            for relative in (*sorted(manifest.files), MANIFEST):
                claim.check()
                try:
                    self.fs.put_file(str(staging / relative), f"{target}/{relative}", mode="create")
                except FileExistsError as error:
                    raise WorkspaceError(exists) from error
            self.fs.invalidate_cache()

    def _folders(self, *parts: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.path(*parts), detail=True)
        except FileNotFoundError:
            return []
        return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory")


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceError(f"another process is publishing {folder.name}; wait for it and try again") from error
        yield folder


def _staging(folder: Path) -> Iterator[Path]:
    staging = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    staging.chmod(0o755)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_durably(path: Path, data: bytes) -> None:
    with writing(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
