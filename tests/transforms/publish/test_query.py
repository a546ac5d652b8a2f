"""A question in SQL sees every version and table, changes no byte, makes no file, and reads nothing else."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

import transforms.publish
from schemas.errors import UsageError, WorkspaceError
from tests.transforms.publish import frames
from transforms.publish.catalog import catalogued, manifest_tables
from transforms.publish.query import PartFiles, query
from transforms.publish.store import Datasets
from transforms.publish.version import Provenance, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
README = (Path(transforms.publish.__path__[0]) / "README.md").read_text()
ODD = "part [1]*?\\'s.parquet"  # a name that is a pattern and wants quoting


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("query")
    for n in (6, 9):
        parent, memory = frames.split_memory(root / "datasets", "demo")
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(root / "datasets", "demo", content, splits, PROVENANCE, parent=parent)
    pl.DataFrame({"x": [1, 2]}).write_parquet(root / ODD)
    return root


def ask(root: Path | str, sql: str, limit: int | None = None, **how: Any) -> tuple[list[str], list[Any]]:
    store = Datasets(f"{root}/datasets")
    views, manifests = catalogued(store, {"mine": [f"{root}/{ODD}"]} if store.is_local else {})
    nothing = {"nothing": pl.DataFrame(schema={"y": pl.Int64})}
    return query(sql, views, nothing | manifest_tables(manifests), store.fs, limit, **how)


def contents(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def published(root: Path) -> str:
    return str(next((root / "datasets" / "demo" / "v0002" / "data").glob("*.parquet")))


def test_every_version_and_table_is_seen(root: Path) -> None:
    store = Datasets(root / "datasets")
    for number in (1, 2):
        rows = store.manifest("demo", number).n_rows
        assert ask(root, f'SELECT count(*) AS n FROM "demo@v{number:04d}"') == (["n"], [(rows,)])
    assert ask(root, "SELECT sum(x) FROM mine")[1] == [(3,)]
    assert ask(root, "SELECT count(y) FROM nothing")[1] == [(0,)]
    assert ask(root, "SELECT count(*) FROM versions")[1] == [(2,)]
    assert ask(root, "FROM range(1000000)", limit=3)[1] == [(0,), (1,), (2,)]
    assert len(ask(root, "SHOW TABLES")[1]) > 10
    assert ask(root, "PIVOT mine ON x USING count(*)")[1] == [(1, 1)]


@pytest.mark.parametrize("example", re.findall(r"```sql\n(.*?)```", README, re.DOTALL))
def test_example_queries_run(root: Path, example: str) -> None:
    columns, rows = ask(root, example, limit=100)
    assert columns
    assert rows


REFUSED = [
    "EXPLAIN ANALYZE COPY (SELECT 42) TO '{published}'",
    "EXPLAIN ANALYZE COPY (SELECT 42) TO 'parts://0.parquet'",
    "COPY (SELECT 42) TO 'parts://0.parquet'",
    "COPY (SELECT 42) TO '{root}/x.csv'",
    "COPY (SELECT 42 AS x) TO '{root}' (FORMAT parquet, PARTITION_BY (x), OVERWRITE)",
    "EXPORT DATABASE '{root}/x'",
    "SELECT * FROM query('COPY (SELECT 42) TO ''{root}/x.csv''')",
    "DROP VIEW demo",
    "CREATE TABLE t AS SELECT 1",
    "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
    "INSERT INTO versions SELECT * FROM versions",
    "DELETE FROM mine",
    "ATTACH '{root}/other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET memory_limit = '1TB'",
    "RESET allowed_paths",
    "SET profiling_output = '{root}/x.json'",
    "SELECT * FROM read_parquet('{published}')",
    "SELECT * FROM '{published}'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('parts:///etc/passwd')",
    "SELECT * FROM read_text('parts://../../etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_text('http://127.0.0.1:9/x')",
    "SELECT * FROM frame",
    "SELECT 1; SELECT 2",
    "COMMIT; CREATE TABLE t AS SELECT 1",
    "SELECT nonsense FROM nowhere",
    "SELECT * FROM parts",
    "SELEC",
    "-- nothing",
    "",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_nothing_is_written_and_nothing_else_is_read(root: Path, statement: str) -> None:
    before = contents(root)
    with pytest.raises(UsageError, match="SQL: "):
        ask(root, statement.format(root=root, published=published(root)))
    assert contents(root) == before


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM demo", "EXPLAIN SELECT 1", "COMMIT", "CREATE TEMP TABLE t AS SELECT 1"]
)
def test_what_is_answered_leaves_no_trace(root: Path, statement: str) -> None:
    before = contents(root)
    ask(root, statement)
    assert contents(root) == before


def test_a_query_without_end_is_stopped(root: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"stopped after 0\.5 s"):
        ask(root, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b", seconds=0.5)
    assert time.monotonic() - started < 20


def test_a_query_too_large_for_memory_is_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.publish.query.MEMORY", "64MB")
    with pytest.raises(UsageError, match="needs more than 64MB"):
        ask(root, "SELECT repeat(range::VARCHAR, 100) AS x FROM range(10000000) ORDER BY x")


@pytest.mark.parametrize("fault", ["cut", "missing"])
@pytest.mark.parametrize("beside", [False, True])  # an earlier file of the view is whole: the fault shows while reading
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, fault: str, beside: bool) -> None:
    whole, faulty = tmp_path / "whole.parquet", tmp_path / "faulty.parquet"
    pl.DataFrame({"x": [1]}).write_parquet(whole)
    if fault == "cut":
        faulty.write_bytes(b"PAR1 no more")
    files = [str(whole), str(faulty)] if beside else [str(faulty)]
    with pytest.raises(WorkspaceError, match=re.escape(str(faulty))) as error:
        query("SELECT sum(x) FROM mine", {"mine": files}, {}, fsspec.filesystem("file"))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    "statement", ["SELECT '\udc80'", "SELECT interval '10000000 years'", "SELECT getvariable('a\udc80')"]
)
def test_what_python_cannot_hold_is_an_error_of_the_statement(root: Path, statement: str) -> None:
    with pytest.raises(UsageError, match="SQL: "):
        ask(root, statement)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_no_time_is_without_end(root: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="a statement may take"):
        ask(root, "SELECT 1", seconds=seconds)


def test_datasets_that_differ_in_case_alone_break_no_query(tmp_path: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet")
    views = {name: [str(tmp_path / "a.parquet")] for name in ("Demo", "demo")}
    assert query("SELECT x FROM demo", views, {}, fsspec.filesystem("file"))[1] == [(1,)]


def test_the_files_can_only_be_read(root: Path) -> None:
    before = contents(root)
    files = PartFiles(fsspec.filesystem("file"), [published(root)])
    address = next(iter(files.path_of))
    with files.open(address, "rb") as file:
        assert file.read(4) == b"PAR1"
    for mode in ("wb", "ab", "r+b", "xb"):
        with pytest.raises(PermissionError, match="nothing can be written"):
            files.open(address, mode)
    with pytest.raises(NotImplementedError):
        files.rm_file(address)
    with pytest.raises(NotImplementedError):
        files.cp_file(address, address)
    with pytest.raises(PermissionError):
        files.pipe_file(address, b"42")
    with pytest.raises(FileNotFoundError):
        files.open("parts://1.parquet")
    assert contents(root) == before


def test_versions_on_a_url_are_seen() -> None:
    url = "memory://query"
    content, splits = frames.buckets(*frames.workspace(6))
    n = publish(f"{url}/datasets", "demo", content, splits, PROVENANCE).manifest.n_rows
    assert ask(url, "SELECT count(*) FROM demo")[1] == [(n,)]
