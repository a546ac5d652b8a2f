"""A version goes to the Hub and comes back byte for byte; damage and strangers are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from schemas.errors import UsageError, WorkspaceError
from tests import forked
from tests.conftest import ROOT
from tests.transforms.publish import frames
from tests.transforms.publish.hub_standin import TOKEN, Hub, hub
from transforms.publish.hub import pull, push
from transforms.publish.read import open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish
from transforms.storage.workspace import Workspace

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with hub() as running:
        yield running
        assert running.unknown == []


def grow(root: str | Path, sizes: list[int]) -> None:
    for n in sizes:
        parent, memory = frames.split_memory(root, "demo")
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(root, "demo", content, splits, PROVENANCE, parent=parent)


@pytest.mark.parametrize("source", ["local", "memory"])
def test_there_and_back(tmp_path: Path, server: Hub, source: str) -> None:
    root = str(tmp_path / "here") if source == "local" else f"memory://hub-{tmp_path.name}/datasets"
    grow(root, [12, 9])
    store = Datasets(root)
    for number in (1, 2):
        address = push(store, open_version(root, f"demo@{number}"), "me/demo", endpoint=server.endpoint)
        assert address == f"{server.endpoint}/datasets/me/demo/tree/v{number:04d}"
    repository = server.repositories["me/demo"]
    latest = open_version(root, "demo").manifest
    assert set(repository.commits[repository.revisions["main"]]) == {*latest.files, "manifest.json"}
    other = Datasets(tmp_path / "there")
    for tag in ("v0001", "v0002", "v0001"):
        version = pull(other, "me/demo", tag, endpoint=server.endpoint)
        assert version.manifest == open_version(root, f"demo@{tag}").manifest
        assert [c for c in verify(other, version) if not c.ok] == []
    assert other.versions("demo") == [1, 2]
    parent, memory = frames.split_memory(tmp_path / "there", "demo")
    assert parent == 2
    assert memory is not None


def test_a_tag_is_never_moved(tmp_path: Path, server: Hub) -> None:
    grow(tmp_path / "one", [12])
    grow(tmp_path / "two", [15])
    one, two = (Datasets(tmp_path / name) for name in ("one", "two"))
    address = push(one, open_version(one.root, "demo"), "me/demo", endpoint=server.endpoint)
    repository = server.repositories["me/demo"]
    before = dict(repository.revisions)
    assert push(one, open_version(one.root, "demo"), "me/demo", endpoint=server.endpoint) == address
    with pytest.raises(WorkspaceError, match="has a tag v0001 that holds something other than demo@v0001"):
        push(two, open_version(two.root, "demo"), "me/demo", endpoint=server.endpoint)
    assert repository.revisions == before
    # Somebody else's tag, and one that appears while the files are on their way.
    repository.commits["f" * 40] = {"x": b"x"}
    repository.revisions["v0001"] = "f" * 40
    with pytest.raises(WorkspaceError, match="holds something other"):
        push(one, open_version(one.root, "demo"), "me/demo", endpoint=server.endpoint)


def test_a_tag_that_appears_meanwhile_is_an_error(tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, [12])
    upload = HfApi.upload_folder

    def raced(api: HfApi, **options: Any) -> Any:
        done = upload(api, **options)
        server.repositories["me/demo"].revisions["v0001"] = "0" * 40
        return done

    monkeypatch.setattr(HfApi, "upload_folder", raced)
    with pytest.raises(WorkspaceError, match="the Hub refused demo@v0001"):
        push(Datasets(tmp_path), open_version(tmp_path, "demo"), "me/demo", endpoint=server.endpoint)


@pytest.mark.parametrize("name", ["../../blobs/x", "/tmp/x", "..\\x"])
def test_a_manifest_cannot_write_outside_its_version(tmp_path: Path, server: Hub, name: str) -> None:
    grow(tmp_path / "here", [12])
    push(Datasets(tmp_path / "here"), open_version(tmp_path / "here", "demo"), "me/demo", endpoint=server.endpoint)
    repository = server.repositories["me/demo"]
    files = repository.commits[repository.revisions["v0001"]]
    manifest = json.loads(files["manifest.json"])
    manifest["files"][name] = manifest["files"].pop("README.md")
    files["manifest.json"] = json.dumps(manifest).encode()
    there = tmp_path / "there" / "datasets"
    with pytest.raises(UsageError, match="holds no version made by prefine"):
        pull(Datasets(there), "me/demo", "v0001", endpoint=server.endpoint)
    assert not there.exists() or [p for p in there.rglob("*") if p.is_file()] == []


def test_the_commands(tmp_path: Path, server: Hub) -> None:
    for name in ("here", "there"):
        Workspace.create(str(tmp_path / name), 1)
    grow(tmp_path / "here" / "datasets", [12])
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }

    def prefine(*words: str) -> forked.Done:
        return forked.prefine(*words, folder=tmp_path, environment=environment, timeout_s=120)

    pushed = prefine("hub-push", "demo", "-w", str(tmp_path / "here"), "--repository", "me/demo")
    assert (pushed.returncode, pushed.stdout.strip()) == (0, f"{server.endpoint}/datasets/me/demo/tree/v0001")
    pulled = prefine("hub-pull", "me/demo", "v0001", "-w", str(tmp_path / "there"))
    assert (pulled.returncode, pulled.stdout.strip()) == (0, "demo@v0001")
    verified = prefine("verify", "demo", "-w", str(tmp_path / "there"))
    assert verified.returncode == 0, verified.stdout
    absent = prefine("hub-pull", "me/demo", "v0009", "-w", str(tmp_path / "there"))
    assert absent.returncode == 2
    assert "cannot read me/demo at v0009" in absent.stderr


def test_damage_on_the_way_is_found(tmp_path: Path, server: Hub) -> None:
    grow(tmp_path / "here", [12])
    push(Datasets(tmp_path / "here"), open_version(tmp_path / "here", "demo"), "me/demo", endpoint=server.endpoint)
    files = server.repositories["me/demo"].commits[server.repositories["me/demo"].revisions["v0001"]]
    whole = files["data/train-00000.parquet"]
    files["data/train-00000.parquet"] = whole[:-1] + b"x"
    with pytest.raises(WorkspaceError, match=r"train-00000\.parquet has other bytes"):
        pull(Datasets(tmp_path / "there"), "me/demo", "v0001", endpoint=server.endpoint)
    del files["data/train-00000.parquet"]
    with pytest.raises(WorkspaceError, match=r"lacks data/train-00000\.parquet"):
        pull(Datasets(tmp_path / "there"), "me/demo", "v0001", endpoint=server.endpoint)
    assert Datasets(tmp_path / "there").versions("demo") == []


def test_what_is_not_there_or_not_ours(tmp_path: Path, server: Hub) -> None:
    from tests.transforms.publish.hub_standin import Repository

    server.repositories["me/other"] = Repository()
    with pytest.raises(UsageError, match="holds no version made by prefine"):
        pull(Datasets(tmp_path), "me/other", "main", endpoint=server.endpoint)
    with pytest.raises(UsageError, match="cannot read me/absent"):
        pull(Datasets(tmp_path), "me/absent", "v0001", endpoint=server.endpoint)


def test_without_a_token_the_hub_refuses(tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    grow(tmp_path, [4])
    with pytest.raises(WorkspaceError, match="the Hub refused demo@v0001"):
        push(Datasets(tmp_path), open_version(tmp_path, "demo"), "me/demo", endpoint=server.endpoint)
