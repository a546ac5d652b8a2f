"""Pairs to difference features for the reward heads.

A response's features are its embedding, the product of its embedding with the prompt's (what fits this
prompt), cosines to prompt and context, and its surface (`transforms.text.surface`). A pair's features are the
difference f(a) - f(b), so a head without intercept mirrors exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.messages import text_of
from transforms.text.embedding import Embedder, VectorCache
from transforms.text.surface import SURFACE_NAMES, surface

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairTexts:
    """The texts of a frame of pairs, row by row; an absent context is ""."""

    prompt: list[str]
    context: list[str]
    a: list[str]
    b: list[str]

    @classmethod
    def of(cls, pairs: pl.DataFrame) -> PairTexts:
        """Texts of a `pairs` frame."""
        return cls(
            [text_of(m) for m in pairs["prompt"].to_list()],
            [c or "" for c in pairs["context"].to_list()],
            [text_of(m) for m in pairs["response_a"].to_list()],
            [text_of(m) for m in pairs["response_b"].to_list()],
        )

    def distinct(self) -> list[str]:
        """Every non-empty text once, sorted."""
        return sorted({t for column in (self.prompt, self.context, self.a, self.b) for t in column if t})


@dataclass(frozen=True)
class Blocks:
    """Difference features of n pairs, by origin: all arrays have n rows.

    embedding (n, d): difference of the responses' embeddings. interaction (n, d): the same times the
    prompt's embedding. surface (n, len(SURFACE_NAMES) + 2): surface features and the cosines of the
    response to prompt and context.
    """

    embedding: Array
    interaction: Array
    surface: Array


def difference_blocks(texts: PairTexts, embedder: Embedder, cache: VectorCache) -> Blocks:
    """Embed what the cache lacks and build the difference features of all pairs."""
    vectors = embedder.embed_memoised(texts.distinct(), cache)
    dimension = len(next(iter(vectors.values()))) if vectors else 0
    blank = np.zeros(dimension, dtype=np.float32)
    matrix = {
        name: _stack([vectors.get(t, blank) for t in getattr(texts, name)], dimension)
        for name in ("prompt", "context", "a", "b")
    }
    difference = matrix["a"] - matrix["b"]
    cosines = np.stack([(difference * matrix[name]).sum(axis=1) for name in ("prompt", "context")], axis=1)
    surfaces = {
        key: surface(*key)
        for key in dict.fromkeys(
            [
                *zip(texts.a, texts.prompt, texts.context, strict=True),
                *zip(texts.b, texts.prompt, texts.context, strict=True),
            ]
        )
    }
    shallow = _stack(
        [
            surfaces[a, p, c] - surfaces[b, p, c]
            for a, b, p, c in zip(texts.a, texts.b, texts.prompt, texts.context, strict=True)
        ],
        len(SURFACE_NAMES),
    )
    return Blocks(difference, difference * matrix["prompt"], np.hstack([shallow, cosines]))


@dataclass(frozen=True)
class Projection:
    """Linear map from blocks to the heads' input: principal directions of each wide block, unit root mean square.

    Directions come from the differences alone, no label is used. There is no centring: it would break the mirror.
    """

    embedding: Array  # (d, k)
    interaction: Array  # (d, k')
    scale: Array  # (k + k' + surfaces,)

    @classmethod
    def fit(cls, blocks: Blocks, n_embedding: int, n_interaction: int) -> Projection:
        """Learn directions and scales from a sample."""
        embedding = _principal(blocks.embedding, n_embedding)
        interaction = _principal(blocks.interaction, n_interaction)
        raw = np.hstack([blocks.embedding @ embedding, blocks.interaction @ interaction, blocks.surface])
        scale = np.sqrt((raw**2).mean(axis=0)) if len(raw) else np.ones(raw.shape[1])
        # One scale per embedding block keeps its geometry: small directions stay small under the ridge.
        for start, stop in ((0, embedding.shape[1]), (embedding.shape[1], embedding.shape[1] + interaction.shape[1])):
            if stop > start:
                scale[start:stop] = np.sqrt((scale[start:stop] ** 2).mean())
        return cls(embedding, interaction, np.where(scale > 1e-9, scale, np.inf))

    def apply(self, blocks: Blocks) -> Array:
        """Features of pairs, shape (n, k + k' + surfaces)."""
        return (
            np.hstack([blocks.embedding @ self.embedding, blocks.interaction @ self.interaction, blocks.surface])
            / self.scale
        )


def _principal(x: Array, n: int) -> Array:
    """The first n principal directions about the origin, shape (d, min(n, d)), signs fixed."""
    n = min(n, x.shape[1])
    if n == 0 or not len(x):
        return np.zeros((x.shape[1], n))
    _, vectors = np.linalg.eigh(x.T @ x / len(x))
    directions = vectors[:, ::-1][:, :n]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(n)])
    return np.asarray(directions * np.where(signs == 0.0, 1.0, signs))


def _stack(rows: Sequence[NDArray[np.float32] | Array], width: int) -> Array:
    return np.asarray(np.stack(rows), dtype=np.float64) if len(rows) else np.zeros((0, width))
