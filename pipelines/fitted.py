"""A stage with models fitted once on the whole workspace and applied bucket by bucket."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.stage import Stage
from schemas.ids import hash_json


@dataclass(frozen=True)
class FittedStage(Stage):
    """Models are artefacts named by the hash of all they depend on, so the same fit is made once."""

    @property
    def fit_identity(self) -> Any:
        """The plug-ins and settings the fit depends on."""
        return None

    @cached_property
    def fit_key(self) -> str:
        """Hash of `fit_identity` and every input part of the workspace."""
        return hash_json([self.name, self.version, self.fit_identity, self.input_parts()])

    @property
    def identity(self) -> Any:
        """What was fitted: any new input refits, and with that every bucket is done anew."""
        return self.fit_key

    def artefact(self, plugin: str) -> bytes | None:
        """A plug-in's fitted model, or None."""
        return self.workspace.read_artefact(self.name, f"{plugin}-{self.fit_key}")

    def store(self, plugin: str, model: bytes) -> None:
        """Keep a plug-in's fitted model."""
        self.workspace.write_artefact(self.name, f"{plugin}-{self.fit_key}", model)

    def __getstate__(self) -> dict[str, Any]:
        """Fields and the fit key only: workers build their own plug-ins."""
        kept = {*self.__dataclass_fields__, "fit_key"}
        return {name: value for name, value in self.__dict__.items() if name in kept}
