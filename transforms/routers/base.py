"""What all routers share: construction, identity, and having nothing to learn."""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl

from transforms.plugins.kinds import PluginConfig, Row


class BaseRouter:
    """Keeps name, config and seed; a router with nothing to learn inherits `fit`.

    A router that wants `similarity` and `length_difference` of the responses among the candidates' columns
    (`transforms.routers.queue.features.response_features`) sets `reads_responses`.
    """

    version: ClassVar[int] = 1
    reads_responses: ClassVar[bool] = False
    Config: ClassVar[type[PluginConfig]] = PluginConfig
    plugin_name: ClassVar[str]

    def __init__(self, name: str, config: PluginConfig, seed: int) -> None:
        self.name = name
        self.config = config
        self.seed = seed

    @property
    def identity(self) -> Any:
        """Everything that can change the values."""
        return [self.plugin_name, self.version, self.config.model_dump(mode="json"), self.seed]

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Nothing to learn."""
        return {}
