from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import UsageError
from transforms.text.embedding import Embedder, MemoryCache


def test_packaged_model_gives_unit_vectors_near_for_near_texts() -> None:
    pytest.importorskip("sentence_transformers")
    embedder = Embedder()
    vectors = embedder.embed(["A cat sleeps.", "A kitten is asleep.", "Stock markets fell today."])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_identity_is_part_of_the_text_id(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{ }")
    one, two, three = Embedder(str(model)), Embedder(str(other)), Embedder()
    assert len({e.text_id("x") for e in (one, two, three)}) == 3
    assert one.text_id("x") == Embedder(str(model)).text_id("x")
    assert one.text_id("x") != one.text_id("y")


def test_missing_folder_is_named() -> None:
    with pytest.raises(UsageError, match="/no/such/model"):
        _ = Embedder("/no/such/model").identity


def test_cache_returns_what_was_put() -> None:
    cache = MemoryCache()
    cache.put(["x", "y"], np.eye(2, dtype=np.float32))
    assert set(cache.get(["x", "z"])) == {"x"}
    assert cache.get(["x"])["x"].tolist() == [1.0, 0.0]


def test_embedder_travels_without_its_model() -> None:
    embedder = Embedder()
    embedder._encoder = object()
    assert pickle.loads(pickle.dumps(embedder))._encoder is None
