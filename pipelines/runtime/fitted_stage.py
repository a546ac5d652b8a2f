"""A stage that must see the whole workspace before it can do a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.runtime.beam_options import run
from pipelines.runtime.stage import CURRENT
from pipelines.runtime.stage_class import Stage
from schemas.ids import hash_json
from transforms.storage.files import parquet_bytes


@dataclass(frozen=True)
class FittedStage(Stage):
    """Models and first-pass results are artefacts named by the hash of all they depend on: made once, then found."""

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

    def has(self, name: str) -> bool:
        """Whether a result of this fit is stored."""
        return self.workspace.has_artefact(self.name, f"{self.fit_key}/{name}")

    def artefact(self, name: str) -> bytes | None:
        """A stored result of this fit, or None."""
        return self.workspace.read_artefact(self.name, f"{self.fit_key}/{name}")

    def make_current(self) -> None:
        """Say that this fit is the one behind the stage's checkpoints."""
        self.workspace.write_artefact(self.name, CURRENT, self.fit_key.encode())

    def store(self, name: str, data: bytes) -> None:
        """Keep a result of this fit."""
        self.workspace.write_artefact(self.name, f"{self.fit_key}/{name}", data)

    def frame(self, name: str) -> pl.DataFrame | None:
        """A stored frame of this fit, or None.

        Raises:
            WorkspaceError: it is there and damaged.
        """
        return self.workspace.read_frame(self.name, f"{self.fit_key}/{name}")

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """What the whole must know of one bucket: keys, sums or candidates, never texts."""
        raise TypeError(f"stage {self.name} has no first pass")

    def run_first_pass(self) -> None:
        """Have Beam compute the first pass of every bucket that has none stored."""
        missing = [bucket for bucket in self.workspace.buckets if not self.has(pass_name(bucket))]
        if missing:
            run(FirstPass(self), missing, self.flags)

    def gathered(self) -> Iterator[pl.DataFrame]:
        """The first pass of every bucket, in the order of the buckets."""
        self.run_first_pass()
        for bucket in self.workspace.buckets:
            frame = self.frame(pass_name(bucket))
            if frame is not None:
                yield frame

    def __getstate__(self) -> dict[str, Any]:
        """Fields and the fit key only: workers build their own plug-ins."""
        kept = {*self.__dataclass_fields__, "fit_key"}
        return {name: value for name, value in self.__dict__.items() if name in kept}


@dataclass(frozen=True)
class FirstPass:
    """The element function of a first pass: one bucket to one stored frame."""

    stage: FittedStage

    def __call__(self, bucket: int) -> str:
        """Compute and store."""
        self.stage.store(pass_name(bucket), parquet_bytes(self.stage.first_pass(bucket)))
        return f"{self.stage.name}: bucket {bucket}"


def pass_name(bucket: int) -> str:
    """Name of the artefact of a bucket's first pass."""
    return f"pass-{bucket:04d}.parquet"
