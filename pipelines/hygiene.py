"""What the two stages of hygiene share: the recipe's section, duplicates over all buckets, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fitted import FittedStage
from schemas.ids import hash_json
from transforms.hygiene.config import HygieneConfig
from transforms.hygiene.decontamination import read_prompts
from transforms.scorers._embedding import Embedder
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Workspace

DROPS_FILE = "drops.parquet"


@dataclass(frozen=True)
class HygieneStage(FittedStage):
    """A stage of the recipe's `hygiene`. Without the section its outputs are its inputs' parts."""

    @cached_property
    def config(self) -> HygieneConfig:
        """The recipe's hygiene, its paths starting from the recipe's folder."""
        return self._given.beside(self.base_dir)

    @property
    def _given(self) -> HygieneConfig:
        return HygieneConfig.model_validate(self.recipe.hygiene)

    @property
    def is_idle(self) -> bool:
        """Whether every bucket's parts stay as they are."""
        return not self.recipe.hygiene

    @property
    def is_global(self) -> bool:
        """Whether a bucket's outcome depends on the other buckets."""
        return self.config.duplicates is not None

    @cached_property
    def fit_identity(self) -> Any:
        """The configuration, and what the benchmarks hold."""
        settings = self.config.decontamination
        benchmarks = [] if settings is None else [hash_json(read_prompts(path)) for path in settings.benchmarks]
        return [self._given.model_dump(mode="json"), benchmarks]

    @property
    def identity(self) -> Any:
        """Where duplicates are searched, all inputs; else the configuration."""
        return self.fit_key if self.is_global else self.fit_identity

    @property
    def needs_vectors(self) -> bool:
        """Whether decontamination compares embeddings."""
        return self.config.decontamination is not None and self.config.decontamination.cosine is not None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, bought once a workspace."""
        return embedded(self.workspace, texts)


def embedded(workspace: Workspace, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of unit length, shape (len(texts), d), bought once a workspace."""
    vectors = Embedder().embed_memoised(texts, EmbeddingCache(workspace.path("tables", "embeddings")))
    return np.stack([vectors[text] for text in texts])
