"""The catalog sees every version, writes nothing and reads nothing else; pruning never takes what is needed."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import transforms.publish
from schemas.errors import UsageError
from tests.transforms.publish import frames
from transforms.publish.catalog import identifier, query, rebuild
from transforms.publish.read import open_version
from transforms.publish.retention import prunable, prune
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
README = (Path(transforms.publish.__path__[0]) / "README.md").read_text()
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


def test_every_version_and_table_has_its_view(root: Path) -> None:
    pl.DataFrame({"x": [1, 2]}).write_parquet(root / "it's.parquet")
    catalog, store = root / "catalog.duckdb", Datasets(root / "datasets")
    views = rebuild(catalog, store, {"votes": [str(root / "it's.parquet")], "empty": []})
    folders = [str(root)]
    for name in NAMES:
        for number in (1, 2):
            rows = open_version(root / "datasets", f"{name}@{number}").manifest.n_rows
            assert query(catalog, f"SELECT count(*) FROM {identifier(f'{name}@v{number:04d}')}", folders)[1] == [
                (rows,)
            ]
    latest = open_version(root / "datasets", "demo").manifest.n_rows
    assert query(catalog, "SELECT count(*) AS n FROM demo", folders) == (["n"], [(latest,)])
    assert query(catalog, "SELECT sum(x) FROM votes", folders)[1] == [(3,)]
    assert query(catalog, "SELECT count(*) FROM versions", folders)[1] == [(2 * len(NAMES),)]
    assert "demo@v0001/verdicts" in views
    assert "empty" not in views


@pytest.mark.parametrize("example", re.findall(r"```sql\n(.*?)```", README, re.DOTALL))
def test_example_queries_run(root: Path, example: str) -> None:
    catalog = root / "catalog.duckdb"
    rebuild(catalog, Datasets(root / "datasets"))
    columns, rows = query(catalog, example, [str(root)], limit=100)
    assert columns
    assert rows


@pytest.mark.parametrize(
    "bad",
    [
        "DROP VIEW demo",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO 'x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT nonsense FROM nowhere",
        "SELEC",
    ],
)
def test_nothing_is_written_and_nothing_else_is_read(root: Path, bad: str) -> None:
    catalog = root / "catalog.duckdb"
    rebuild(catalog, Datasets(root / "datasets"))
    before = catalog.read_bytes()
    with pytest.raises(UsageError):
        query(catalog, bad, [str(root / "datasets")])
    assert catalog.read_bytes() == before


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


def _ask(root: Path) -> list[Any]:
    rebuild(root / "catalog.duckdb", Datasets(root / "datasets"))
    return query(root / "catalog.duckdb", "SELECT count(*) FROM demo", [str(root)])[1]


def test_several_rebuild_and_ask_at_once(root: Path) -> None:
    n = open_version(root / "datasets", "demo").manifest.n_rows
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_ask, [root] * 6, chunksize=1) == [[(n,)]] * 6
    assert [p.name for p in root.iterdir() if "catalog" in p.name] == ["catalog.duckdb"]
