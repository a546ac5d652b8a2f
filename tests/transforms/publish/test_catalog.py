"""The catalog sees every version; pruning never takes what is needed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from schemas.errors import UsageError
from tests.transforms.publish import frames
from transforms.publish.catalog import identifier, rebuild
from transforms.publish.read import open_version
from transforms.publish.retention import prunable, prune
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
NAMES = ["demo", "select", "a.b-c", "votes", "versions", "1;drop"[:1]]


def grow(root: Path, name: str, sizes: list[int]) -> None:
    for n in sizes:
        parent, memory = frames.split_memory(root, name)
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(root, name, content, splits, PROVENANCE, parent=parent)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        grow(tmp_path / "datasets", name, [6, 9])
    return tmp_path


def ask(root: Path, sql: str) -> list[Any]:
    """What a DuckDB client gets from the catalog."""
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True) as client:
        return client.execute(sql).fetchall()


def test_every_version_and_table_has_its_view(root: Path) -> None:
    pl.DataFrame({"x": [1, 2]}).write_parquet(root / "it's.parquet")
    catalog, store = root / "catalog.duckdb", Datasets(root / "datasets")
    views = rebuild(catalog, store, {"votes": [str(root / "it's.parquet")], "empty": []})
    for name in NAMES:
        for number in (1, 2):
            rows = open_version(root / "datasets", f"{name}@{number}").manifest.n_rows
            assert ask(root, f"SELECT count(*) FROM {identifier(f'{name}@v{number:04d}')}") == [(rows,)]
    latest = open_version(root / "datasets", "demo").manifest.n_rows
    assert ask(root, "SELECT count(*) AS n FROM demo") == [(latest,)]
    assert ask(root, "SELECT sum(x) FROM votes") == [(3,)]
    assert ask(root, "SELECT count(*) FROM versions") == [(2 * len(NAMES),)]
    assert "demo@v0001/verdicts" in views
    assert "empty" not in views


def test_it_is_rebuilt_from_manifests_alone_while_somebody_reads(root: Path) -> None:
    catalog, store = root / "catalog.duckdb", Datasets(root / "datasets")
    rebuild(catalog, store)
    reader = duckdb.connect(str(catalog), read_only=True)
    grow(root / "datasets", "demo", [12])
    assert "demo@v0003" in rebuild(catalog, store)
    assert reader.execute('SELECT count(*) FROM "demo@v0002"').fetchall()
    reader.close()
    catalog.unlink()
    assert "demo@v0003" in rebuild(catalog, store)


def test_pruning_keeps_the_latest_and_the_pinned_and_they_still_verify(tmp_path: Path) -> None:
    grow(tmp_path, "demo", [4, 6, 8, 10, 12])
    store = Datasets(tmp_path)
    assert prunable(store, "demo", keep=2, pinned=[1]) == [2, 3]
    assert prune(store, "demo", keep=2, pinned=[1]) == [2, 3]
    assert store.versions("demo") == [1, 4, 5]
    for number in (1, 4, 5):
        version = open_version(tmp_path, f"demo@{number}")
        assert [c for c in verify(store, version) if not c.ok] == []
    grow(tmp_path, "demo", [14])
    assert store.versions("demo")[-1] == 6
    assert prune(store, "demo", keep=1) == [1, 4, 5]
    assert list((tmp_path / "demo").glob(".tmp-*")) == []


def test_pruning_refuses_nonsense(tmp_path: Path) -> None:
    grow(tmp_path, "demo", [4])
    with pytest.raises(UsageError, match="at least 1"):
        prunable(Datasets(tmp_path), "demo", keep=0)
    with pytest.raises(UsageError, match="no version v0009"):
        prunable(Datasets(tmp_path), "demo", keep=1, pinned=[9])


def test_pruning_on_a_url() -> None:
    root = "memory://prune/datasets"
    for n in (4, 6):
        parent, memory = frames.split_memory(root, "demo")
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(root, "demo", content, splits, PROVENANCE, parent=parent)
    assert prune(Datasets(root), "demo", keep=1) == [1]
    assert Datasets(root).versions("demo") == [2]


def _rebuilt_and_asked(root: Path) -> list[Any]:
    rebuild(root / "catalog.duckdb", Datasets(root / "datasets"))
    return ask(root, "SELECT count(*) FROM demo")


def test_several_rebuild_and_ask_at_once(root: Path) -> None:
    n = open_version(root / "datasets", "demo").manifest.n_rows
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_rebuilt_and_asked, [root] * 6, chunksize=1) == [[(n,)]] * 6
    assert [p.name for p in root.iterdir() if "catalog" in p.name] == ["catalog.duckdb"]
