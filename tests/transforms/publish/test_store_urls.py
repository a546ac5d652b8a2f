"""Versions on object stores: an in-memory file system and a real S3 protocol served by moto."""

from __future__ import annotations

import multiprocessing
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from schemas.errors import WorkspaceError
from tests.transforms.publish import frames
from transforms.publish import claims
from transforms.publish.diff import diff
from transforms.publish.read import open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, PublishResult, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> str:
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{base}/{uuid.uuid4().hex}/datasets"


def publish_workspace(root: str, n: int = 20) -> PublishResult:
    parent, memory = frames.split_memory(root, "demo")
    content, splits = frames.buckets(*frames.workspace(n), memory=memory)
    return publish(root, "demo", content, splits, PROVENANCE, parent=parent)


def test_a_version_on_a_url_is_the_local_one(root: str, tmp_path: Path) -> None:
    first, local = publish_workspace(root), publish_workspace(str(tmp_path))
    assert first.manifest == local.manifest
    assert publish_workspace(root).published is False
    assert publish_workspace(root, 26).version == 2
    store = Datasets(root)
    assert (store.names(), store.versions("demo")) == (["demo"], [1, 2])
    old, new = open_version(root, "demo@1"), open_version(root, "demo")
    assert old.scan("rows").collect().equals(open_version(tmp_path, "demo").scan("rows").collect())
    assert [c for c in verify(store, new, parent=old) if not c.ok] == []
    assert (
        diff(old, new).changes.filter(pl.col("change") == "added").height == new.manifest.n_rows - old.manifest.n_rows
    )
    assert not [p for p in store.fs.find(store.path("demo")) if p.endswith(".claim")]


def test_an_upload_that_broke_off_is_no_version_and_is_replaced(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Datasets(root)
    real = store.fs.put_file

    def breaking(source: str, target: str, *args: object, **kwargs: object) -> object:
        if target.endswith("manifest.json"):
            raise ConnectionError("gone")
        return real(source, target, *args, **kwargs)

    monkeypatch.setattr(store.fs, "put_file", breaking)
    with pytest.raises(ConnectionError):
        publish_workspace(root)
    monkeypatch.undo()
    left = store.fs.find(store.path("demo"))
    assert left
    assert store.versions("demo") == []
    store.fs.pipe_file(store.path("demo", "v0001", "data", "stale.parquet"), b"x")
    done = publish_workspace(root)
    assert done.version == 1
    assert [c for c in verify(store, open_version(root, "demo")) if not c.ok] == []


@pytest.mark.parametrize("dead", ["silent", "killed"])
def test_a_living_publisher_elsewhere_is_respected_and_a_dead_one_is_not(root: str, dead: str) -> None:
    store = Datasets(root)
    claim = store.path("demo", "v0001.claim")
    store.fs.makedirs(store.path("demo"), exist_ok=True)
    other = {"host": "elsewhere", "pid": 1, "time": time.time(), "token": "t"}
    store.fs.pipe_file(claim, orjson.dumps(other))
    with pytest.raises(WorkspaceError, match="is being published by somebody else"):
        publish_workspace(root)
    store.fs.pipe_file(claim, b"not JSON")
    with pytest.raises(WorkspaceError, match="is being published by somebody else"):
        publish_workspace(root)
    changes: dict[str, dict[str, object]] = {
        "silent": {"time": time.time() - claims.CLAIM_SECONDS - 1},
        "killed": {"host": socket.gethostname(), "pid": 2**22 + 1},
    }
    store.fs.pipe_file(claim, orjson.dumps({**other, **changes[dead]}))
    assert publish_workspace(root).version == 1
    assert not [p for p in store.fs.find(store.path("demo")) if ".claim" in p]


def test_a_publisher_that_was_taken_over_stops_and_leaves_the_other_alone(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Datasets(root)
    real, taken = store.fs.put_file, []

    def interrupted(source: str, target: str, *args: object, **kwargs: object) -> object:
        if not taken and "evidence" in target:
            taken.append(target)
            with pytest.raises(WorkspaceError, match="is being published by somebody else"):
                publish_workspace(root, 25)
            monkeypatch.setattr(claims, "CLAIM_SECONDS", -1.0)
            taken.append(publish_workspace(root, 25).manifest)
            monkeypatch.setattr(claims, "CLAIM_SECONDS", 3600.0)
        return real(source, target, *args, **kwargs)

    monkeypatch.setattr(store.fs, "put_file", interrupted)
    with pytest.raises(WorkspaceError, match="exists already"):
        publish_workspace(root, 20)
    monkeypatch.undo()
    assert store.manifest("demo", 1) == taken[1]
    assert [c for c in verify(store, open_version(root, "demo")) if not c.ok] == []


def test_a_claim_is_renewed_and_its_successor_survives_its_end(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = Datasets(root).fs, Datasets(root).path("demo", "v0001.claim")
    fs.makedirs(Datasets(root).path("demo"), exist_ok=True)
    with claims.claimed(fs, path, "it") as first:
        fs.pipe_file(path, orjson.dumps({**orjson.loads(fs.cat_file(path)), "time": 0.0}))
        monkeypatch.setattr(claims, "_RENEWALS", 1e12)
        first.check()
        assert time.time() - orjson.loads(fs.cat_file(path))["time"] < 60
        fs.pipe_file(path, orjson.dumps({**orjson.loads(fs.cat_file(path)), "time": 0.0}))
        with claims.claimed(fs, path, "it") as second:
            with pytest.raises(WorkspaceError, match="another publisher has taken over it"):
                first.check()
            second.check()
            with pytest.raises(WorkspaceError, match="somebody else"), claims.claimed(fs, path, "it"):
                pass
            second.check()
    fs.invalidate_cache()
    assert not [p for p in fs.find(Datasets(root).path("demo")) if ".claim" in p]


def _publish_when_told(root: str, n: int, barrier: Any, results: Any) -> None:
    content, splits = frames.buckets(*frames.workspace(n))
    barrier.wait()
    try:
        results.put(publish(root, "demo", content, splits, PROVENANCE).version)
    except WorkspaceError as error:
        results.put(str(error))


@pytest.mark.parametrize("sizes", [(20, 20), (20, 25)])
def test_two_publishers_at_once_on_an_object_store_give_one_version(s3: str, sizes: tuple[int, int]) -> None:
    root = f"{s3}/{uuid.uuid4().hex}/datasets"
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_publish_when_told, args=(root, n, barrier, results)) for n in sizes]
    for process in processes:
        process.start()
    said = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert 1 in said
    fine = ("is being published by somebody else", "exists already", "was published while")
    assert all(other == 1 or any(text in str(other) for text in fine) for other in said)
    store = Datasets(root)
    assert store.versions("demo") == [1]
    assert [c for c in verify(store, open_version(root, "demo")) if not c.ok] == []
    assert not [p for p in store.fs.find(store.path("demo")) if ".claim" in p]


def test_a_second_publisher_of_the_same_number_is_refused(root: str) -> None:
    publish_workspace(root)
    content, splits = frames.buckets(*frames.workspace(25))
    with pytest.raises(WorkspaceError, match="was published while"):
        publish(root, "demo", content, splits, PROVENANCE, parent=None)
