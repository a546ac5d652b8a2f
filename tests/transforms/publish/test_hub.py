"""A version goes to the Hub and comes back byte for byte; damage and strangers are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import UsageError, WorkspaceError
from tests.transforms.publish import frames
from tests.transforms.publish.hub_standin import TOKEN, Hub, hub
from transforms.publish.hub import pull, push
from transforms.publish.read import open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish, split_memory

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
        parent, memory = split_memory(root, "demo")
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
    parent, memory = split_memory(tmp_path / "there", "demo")
    assert parent == 2
    assert memory is not None


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
