"""Stage fuse: all votes of a pair become one posterior and one action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import orjson
import polars as pl

from pipelines.inspect.estimates import estimates, said
from pipelines.runtime.fitted_stage import CURRENT, FittedStage
from pipelines.runtime.sample import sample
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES, Reads, Stage, Summary
from schemas.ids import canonical_json
from schemas.tables import Verdicts, Votes, conform, polars_schema
from transforms.fusers.base import Fuser
from transforms.plugins.build import build
from transforms.policies.base import Policy
from transforms.publish.recompute import Fitted, described
from transforms.stats.controls import known_label
from transforms.stats.label_noise import decision_frame
from transforms.storage.workspace import Output, Workspace

FUSED_COLUMNS = ("prompt_id", "source_label", "tags", "kind", "language", "origin", "response_a", "response_b")
PLUGINS = "plugins"  # artefact of a fit: which fuser and policy it is of
_POLICY_PAIRS = 20_000  # a share or percentile of so many is right to a third of a point
_VOTE_COLUMNS = tuple(c for c in polars_schema(Votes) if c not in ("raw", "rationale"))


@dataclass(frozen=True)
class Fuse(FittedStage):
    """One verdict per pair."""

    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 3
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES), ("votes", VOTE_STAGES))

    @cached_property
    def fuser(self) -> Fuser:
        """The recipe's fuser."""
        return build(Fuser, self.recipe.fuse.fuser, self.recipe.seed, self.base_dir)

    @cached_property
    def policy(self) -> Policy:
        """The recipe's decision policy."""
        return build(Policy, self.recipe.fuse.policy, self.recipe.seed, self.base_dir)

    @property
    def fit_identity(self) -> Any:
        """Fuser, policy and the size of the sample they are fitted on."""
        return [self.fuser.identity, self.policy.identity, self.recipe.fuse.fit_pairs]

    def refresh(self) -> None:
        """Keep which fuser and policy a fit is of, so that a version can hold them."""
        if self.artefact(PLUGINS) is None:
            self.store(PLUGINS, canonical_json({"fuser": described(self.fuser), "policy": described(self.policy)}))

    def notes(self, summary: Summary) -> list[str]:
        """What the fit estimates of the labels."""
        return said(estimates(self.workspace, finished=True))

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Fit fuser and policy on the sample, unless the same fit is already stored."""
        if self.artefact("fuser") is None or self.artefact("policy") is None:
            pairs, votes = sample(self.workspace, self.recipe.fuse.fit_pairs, VOTE_STAGES, FUSED_COLUMNS)
            pairs = fusion_columns(pairs)
            model = self.fuser.fit(votes, pairs)
            self.store("fuser", canonical_json(model))
            # Shares of the others say nothing about the data set. Pairs lie in the order of their hash: any will do.
            drawn = pairs.filter(pl.col("drawn")).head(_POLICY_PAIRS)
            self.store("policy", canonical_json(self.policy.fit(self._fused(model, votes, drawn))))
        self.make_current()
        yield self

    def process(self, bucket: int) -> Output:
        """Verdicts on a bucket's pairs."""
        pairs = fusion_columns(self.workspace.read("pairs", bucket, PAIR_STAGES, FUSED_COLUMNS))
        votes = self.workspace.read("votes", bucket, VOTE_STAGES, _VOTE_COLUMNS)
        if not pairs.height:
            return Output()
        fused = self._fused(orjson.loads(self.artefact("fuser") or b"{}"), votes, pairs)
        verdicts = self.policy.decide(orjson.loads(self.artefact("policy") or b"{}"), fused)
        actions = verdicts["action"].value_counts().iter_rows()
        return Output(
            {"verdicts": conform(verdicts, Verdicts)},
            rows_in=pairs.height,
            rows_out=verdicts.height,
            counts={f"action_{action}": n for action, n in actions} | {"votes": votes.height},
        )

    def _fused(self, model: dict[str, Any], votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        return decision_frame(self.fuser.apply(model, votes, pairs), pairs, votes)


def judgement(workspace: Workspace) -> dict[str, Fitted]:
    """`fuser` and `policy` behind the current verdicts, with what they learned; nothing before the first fusion."""
    current = workspace.read_artefact(Fuse.name, CURRENT)
    if current is None:
        return {}

    def kept(name: str) -> Any:
        return orjson.loads(workspace.read_artefact(Fuse.name, f"{current.decode()}/{name}") or b"{}")

    return {name: Fitted(**plugin, model=kept(name)) for name, plugin in kept(PLUGINS).items()}


def fusion_columns(pairs: pl.DataFrame) -> pl.DataFrame:
    """What fusers and policies read: lengths in characters in place of responses, `known_label` in place of tags."""
    return pairs.with_columns(
        known_label(),
        *(
            pl.col(f"response_{side}")
            .list.eval(pl.element().struct.field("content").str.len_chars())
            .list.sum()
            .alias(f"length_{side}")
            for side in ("a", "b")
        ),
    ).drop("response_a", "response_b", "tags")
