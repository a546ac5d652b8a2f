"""Real pairs with clean human-majority labels, as features, and wrong labels injected into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tests.benchmarks.quality.real_data import load
from transforms.scorers.heads.base import pair_graph
from transforms.scorers.heads.graph import PairGraph
from transforms.scorers.heads.pair_features import Blocks, PairTexts, difference_blocks
from transforms.text.embedding import Embedder, Vectors

SETS = ("ukpconvarg1", "wmt23_mqm_sxs_ende", "hh_harmless_test", "finegrained_qa_dev")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Non-tied pairs of one data set: features, clean labels y (1: a better), groups that must not be split."""

    name: str
    blocks: Blocks
    y: Array
    groups: list[str]
    graph: PairGraph

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """The pairs of some rows."""
        blocks = Blocks(self.blocks.embedding[rows], self.blocks.interaction[rows], self.blocks.surface[rows])
        columns = (self.graph.prompts, self.graph.first, self.graph.second)
        graph = PairGraph(*([column[row] for row in rows] for column in columns))
        return Pairs(self.name, blocks, self.y[rows], [self.groups[row] for row in rows], graph)


class FolderCache:
    """Embeddings in one .npz file of a folder, read once and rewritten after every purchase."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "embeddings.npz"
        self._vectors: dict[str, Vectors] = {}
        if self._file.exists():
            with np.load(self._file) as stored:
                self._vectors = dict(zip(stored["ids"].tolist(), stored["vectors"], strict=True))

    def get(self, ids: list[str]) -> Mapping[str, Vectors]:
        """The known vectors among `ids`."""
        return {i: self._vectors[i] for i in ids if i in self._vectors}

    def put(self, ids: list[str], vectors: Vectors) -> None:
        """Remember one vector per id."""
        self._vectors.update(zip(ids, vectors, strict=True))
        names = sorted(self._vectors)
        partial = self._file.with_suffix(".partial.npz")
        np.savez(partial, ids=np.array(names), vectors=np.stack([self._vectors[i] for i in names]))
        partial.replace(self._file)


def prepare(name: str, data_dir: Path, cache: FolderCache) -> Pairs:
    """Pairs with a strict human majority for a or b. Groups: debate topic (ukpconvarg1, 16 of them, both
    stances together), document (wmt23_mqm_sxs_ende), else prompt."""
    pairs, _, majority = load(name, data_dir)
    frame = pairs.join(majority.select("pair_id", "label"), on="pair_id").filter(pl.col("label").is_in(["a", "b"]))
    frame = frame.sort("pair_id")
    if name == "ukpconvarg1":
        groups = [json.loads(meta)["topic"].split("_")[0] for meta in frame["meta"]]
    else:
        groups = frame.select(pl.coalesce("group_id", "prompt_id")).to_series().to_list()
    blocks = difference_blocks(PairTexts.of(frame), Embedder(), cache)
    return Pairs(name, blocks, (frame["label"] == "a").to_numpy().astype(np.float64), groups, pair_graph(frame))


def inject(y: Array, rate: float, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """Labels with exactly round(rate n) of them flipped, and which."""
    flipped = np.zeros(len(y), dtype=bool)
    flipped[rng.permutation(len(y))[: round(rate * len(y))]] = True
    return np.where(flipped, 1.0 - y, y), flipped
