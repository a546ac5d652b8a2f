"""Versions on object stores: an in-memory file system and a real S3 protocol served by moto."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import orjson
import polars as pl
import pytest

from schemas.errors import WorkspaceError
from tests.transforms.publish import frames
from transforms.publish import store as store_module
from transforms.publish.diff import diff
from transforms.publish.read import open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, PublishResult, publish, split_memory

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("NO_PROXY", "127.0.0.1"),
            ("no_proxy", "127.0.0.1"),
        ):
            patch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> str:
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{base}/{uuid.uuid4().hex}/datasets"


def publish_workspace(root: str, n: int = 20) -> PublishResult:
    parent, memory = split_memory(root, "demo")
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
    real = store.fs.pipe_file

    def breaking(path: str, *args: object, **kwargs: object) -> object:
        if path.endswith("manifest.json"):
            raise ConnectionError("gone")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(store.fs, "pipe_file", breaking)
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


def test_a_living_publisher_elsewhere_is_respected_and_a_dead_one_is_not(root: str) -> None:
    store = Datasets(root)
    claim = store.path("demo", "v0001.claim")
    store.fs.makedirs(store.path("demo"), exist_ok=True)
    other = {"host": "elsewhere", "pid": 1, "time": time.time()}
    store.fs.pipe_file(claim, orjson.dumps(other))
    with pytest.raises(WorkspaceError, match="is being published by somebody else"):
        publish_workspace(root)
    for dead in (
        {**other, "time": time.time() - store_module.CLAIM_SECONDS - 1},
        {**other, "host": socket.gethostname(), "pid": 2**22 + 1},
    ):
        store.fs.pipe_file(claim, orjson.dumps(dead))
        store.fs.invalidate_cache()
        assert store_module._abandoned(store.fs, claim)
    assert publish_workspace(root).version == 1


def test_a_second_publisher_of_the_same_number_is_refused(root: str) -> None:
    publish_workspace(root)
    content, splits = frames.buckets(*frames.workspace(25))
    with pytest.raises(WorkspaceError, match="was published while"):
        publish(root, "demo", content, splits, PROVENANCE, parent=None)
