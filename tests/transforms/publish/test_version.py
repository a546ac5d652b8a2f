"""A version appears whole or not at all, says what it holds, and is not repeated."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from schemas.errors import DataError, UsageError, WorkspaceError
from schemas.manifest import Manifest
from schemas.tables import DatasetRows
from tests.forked import FORKS
from tests.transforms.publish import frames
from transforms.publish.files import Bucket
from transforms.publish.store import Datasets
from transforms.publish.version import Provenance, PublishResult, publish

PROVENANCE = Provenance(recipe="seed: 0\n", recipe_hash="r" * 32, code_version="1", inputs={"s": "f"})


def publish_workspace(root: Path | str, n: int = 20, offset: int = 0, **options: Any) -> PublishResult:
    parent, memory = frames.split_memory(root, "demo")
    content, splits = frames.buckets(*frames.workspace(n, offset=offset), memory=memory)
    return publish(root, "demo", content, splits, PROVENANCE, parent=parent, **options)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_the_manifest_is_true_of_the_files(tmp_path: Path) -> None:
    result = publish_workspace(tmp_path)
    folder = Path(result.path)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert result.published
    assert manifest == result.manifest
    found = contents(folder)
    del found["manifest.json"]
    assert found == {name: entry.sha256 for name, entry in manifest.files.items()}
    for name, entry in manifest.files.items():
        assert (folder / name).stat().st_size == entry.bytes
        if entry.rows is not None:
            assert pl.read_parquet(folder / name).height == entry.rows
    rows = pl.read_parquet(folder / "data/*.parquet")
    DatasetRows.validate(rows)
    assert manifest.n_rows == rows.height
    assert manifest.n_pairs == manifest.n_rows + manifest.n_rejects
    assert manifest.rows_by_split == dict(rows["split"].value_counts().iter_rows())
    assert "raw" not in pl.read_parquet(folder / "evidence/votes-*.parquet").columns


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = publish_workspace(tmp_path / "one")
    second = publish_workspace(tmp_path / "two")
    assert contents(Path(first.path)) == contents(Path(second.path))


def test_row_hash_does_not_depend_on_files_or_buckets(tmp_path: Path) -> None:
    pairs, votes, verdicts = frames.workspace(20)
    hashes = set()
    for n_buckets, rows_per_file in ((1, 1000), (3, 7), (5, 1)):
        content, splits = frames.buckets(pairs, votes, verdicts, n_buckets)
        root = tmp_path / str(n_buckets)
        done = publish(root, "demo", content, splits, PROVENANCE, rows_per_file=rows_per_file)
        hashes.add((done.manifest.row_hash, done.manifest.reject_hash))
        sizes = [e.rows or 0 for f, e in done.manifest.files.items() if f.startswith("data/")]
        assert max(sizes) <= rows_per_file
    assert len(hashes) == 1


def test_nothing_new_is_published_when_nothing_changed(tmp_path: Path) -> None:
    first = publish_workspace(tmp_path)
    before = contents(tmp_path / "demo")
    again = publish_workspace(tmp_path)
    assert (again.published, again.version) == (False, first.version)
    assert contents(tmp_path / "demo") == before
    grown = publish_workspace(tmp_path, n=25)
    assert (grown.published, grown.version, grown.manifest.parent) == (True, 2, 1)


def test_another_recipe_is_another_version_even_with_equal_rows(tmp_path: Path) -> None:
    publish_workspace(tmp_path)
    _, memory = frames.split_memory(tmp_path, "demo")
    content, splits = frames.buckets(*frames.workspace(20), memory=memory)
    other = Provenance(recipe="seed: 1\n", recipe_hash="q" * 32, code_version="1")
    assert publish(tmp_path, "demo", content, splits, other, parent=1).version == 2


def test_documents_are_part_of_the_version(tmp_path: Path) -> None:
    def documents(manifest: Manifest, folder: Path) -> dict[str, bytes]:
        assert pl.read_parquet(folder / "data/*.parquet").height == manifest.n_rows
        return {"report.html": b"<html>"}

    result = publish_workspace(tmp_path, documents=documents)
    assert Path(result.path, "report.html").read_bytes() == b"<html>"
    assert "report.html" in result.manifest.files


def test_a_publisher_whose_parent_is_outdated_is_told(tmp_path: Path) -> None:
    content, splits = frames.buckets(*frames.workspace(9))
    publish_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="demo@v0001 was published while"):
        publish(tmp_path, "demo", content, splits, PROVENANCE, parent=None)
    assert Datasets(tmp_path).versions("demo") == [1]
    assert list((tmp_path / "demo").glob(".tmp-*")) == []


def test_lost_pairs_are_noticed(tmp_path: Path) -> None:
    content, splits = frames.buckets(*frames.workspace(9), n_buckets=1)
    b = content[0]
    torn = Bucket(b.rows.head(b.rows.height - 1), b.rejects, b.pairs, b.votes, b.verdicts)
    with pytest.raises(DataError, match="1 are unaccounted for"):
        publish(tmp_path, "demo", [torn], splits, PROVENANCE)
    assert Datasets(tmp_path).versions("demo") == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101, 'a"b'])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        publish(tmp_path, name, [], [], PROVENANCE)


def test_references(tmp_path: Path) -> None:
    publish_workspace(tmp_path)
    publish_workspace(tmp_path, n=25)
    store = Datasets(tmp_path)
    assert store.names() == ["demo"]
    assert store.resolve("demo") == ("demo", 2)
    assert store.resolve("demo@1") == store.resolve("demo@v0001") == ("demo", 1)
    with pytest.raises(UsageError, match="v0001, v0002"):
        store.resolve("demo@7")
    with pytest.raises(UsageError, match="published datasets: demo"):
        store.resolve("other")


class _Writes:
    """Counts every write of a publisher and kills the process at the `last` one, before it or half way through."""

    def __init__(self, last: int | None, torn: bool) -> None:
        self.last, self.torn, self.n = last, torn, 0

    def hook(self, patch: pytest.MonkeyPatch, owner: Any, name: str, tear: Any = None) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.n += 1
            if self.n - 1 == self.last:
                if self.torn and tear:
                    tear(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        patch.setattr(owner, name, counted)


def _half(path: Path, data: bytes = b"half a file") -> None:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])


def _publish_and_die(root: str, last: int | None, torn: bool, counted: Any) -> None:
    content, splits = frames.buckets(*frames.workspace(20))
    writes = _Writes(last, torn)
    with pytest.MonkeyPatch.context() as patch:
        writes.hook(patch, pl.DataFrame, "write_parquet", lambda frame, path: _half(path))
        writes.hook(patch, Path, "write_bytes", _half)
        writes.hook(patch, Path, "rename")
        writes.hook(patch, os, "fsync")
        evidence = {"evidence/fuser.json": b"{}"}
        publish(root, "demo", content, splits, PROVENANCE, rows_per_file=9, evidence=evidence)
    counted.put(writes.n)


@pytest.mark.parametrize("torn", [False, True])
def test_a_publisher_killed_at_any_write_leaves_a_whole_version_or_none(tmp_path: Path, torn: bool) -> None:
    counted = FORKS.Queue()

    def run(root: Path, last: int | None) -> int | None:
        process = FORKS.Process(target=_publish_and_die, args=(str(root), last, torn, counted))
        process.start()
        process.join(120)
        return process.exitcode

    assert run(tmp_path / "undisturbed", None) == 0
    n, whole = counted.get(timeout=10), contents(tmp_path / "undisturbed" / "demo" / "v0001")
    assert n >= 12
    seen = set()
    for last in range(n):
        root = tmp_path / str(last)
        assert run(root, last) == -signal.SIGKILL
        store = Datasets(root)
        seen.add(tuple(store.versions("demo")))
        if store.versions("demo"):
            assert contents(root / "demo" / "v0001") == whole
        content, splits = frames.buckets(*frames.workspace(20))
        parent = max(store.versions("demo"), default=None)
        evidence = {"evidence/fuser.json": b"{}"}
        publish(root, "demo", content, splits, PROVENANCE, parent=parent, rows_per_file=9, evidence=evidence)
        assert store.versions("demo") == [1]
        assert contents(root / "demo" / "v0001") == whole
        assert list((root / "demo").glob(".tmp-*")) == []
    # Killed before the version is there, and after: while its folder's entry was going to the disk.
    assert seen == {(), (1,)}


def _publish_when_told(root: str, n: int, barrier: Any, results: Any) -> None:
    content, splits = frames.buckets(*frames.workspace(n))
    barrier.wait()
    try:
        results.put(publish(root, "demo", content, splits, PROVENANCE).version)
    except WorkspaceError as error:
        results.put(str(error))


@pytest.mark.parametrize("sizes", [(20, 20), (20, 25)])
def test_two_publishers_at_once_give_one_version_each_or_a_clear_error(tmp_path: Path, sizes: tuple[int, int]) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_publish_when_told, args=(str(tmp_path), n, barrier, results)) for n in sizes]
    for process in processes:
        process.start()
    said = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert 1 in said
    for other in said:
        assert other == 1 or "another process is publishing" in other or "was published while" in other
    assert Datasets(tmp_path).versions("demo") == [1]
    manifest = Datasets(tmp_path).manifest("demo", 1)
    found = contents(tmp_path / "demo" / "v0001")
    assert {k: v for k, v in found.items() if k != "manifest.json"} == {k: e.sha256 for k, e in manifest.files.items()}
