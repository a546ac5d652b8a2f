"""What a plug-in that is its settings alone shares with others: construction and identity."""

from __future__ import annotations

from typing import Any, ClassVar

from transforms.plugins.kinds import PluginConfig


class Configured:
    """Keeps name, config and seed; its output depends on its version and settings, not on the seed."""

    plugin_name: ClassVar[str]
    version: ClassVar[int] = 1

    def __init__(self, name: str, config: PluginConfig, seed: int) -> None:
        self.name = name
        self.config: Any = config
        self.seed = seed

    @property
    def identity(self) -> Any:
        """Plug-in, version and settings."""
        return [self.plugin_name, self.version, self.config.model_dump()]
