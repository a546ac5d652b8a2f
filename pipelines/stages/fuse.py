"""Stage fuse: all votes of a pair become one posterior and one action."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
import polars as pl

from pipelines.inspect.estimates import estimate_notes, estimates
from pipelines.inspect.judgement import PLUGINS
from pipelines.runtime.sample import VOTE_COLUMNS, sample
from pipelines.runtime.stage import (
    PAIR_STAGES,
    VOTE_STAGES,
    Artefacts,
    Fit,
    Inputs,
    PerBucket,
    Run,
    Stage,
)
from pipelines.runtime.summary import Summary
from schemas.ids import canonical_json
from schemas.tables import Verdicts, conform
from transforms.fusers.base import Fuser
from transforms.plugins.build import build
from transforms.policies.base import Policy
from transforms.publish.recompute import described
from transforms.stats.controls import known_label
from transforms.stats.label_noise import decision_frame
from transforms.storage.workspace import Output

FUSED_COLUMNS = ("prompt_id", "source_label", "tags", "kind", "language", "origin", "response_a", "response_b")
_ARTEFACTS = ("fuser", "policy", PLUGINS)
_POLICY_PAIRS = 20_000  # a share or percentile of so many is right to a third of a point


class Fusion(NamedTuple):
    """The recipe's fuser and decision policy.

    Attributes:
        fit_pairs: on how many pairs they are fitted at most.
    """

    fuser: Fuser
    policy: Policy
    fit_pairs: int

    @property
    def identity(self) -> Any:
        """Fuser, policy and the size of the sample they are fitted on."""
        return [self.fuser.identity, self.policy.identity, self.fit_pairs]


def _setup(run: Run) -> Fusion:
    section, seed = run.recipe.fuse, run.recipe.seed
    fuser, policy = build(Fuser, section.fuser, seed, run.folder), build(Policy, section.policy, seed, run.folder)
    return Fusion(fuser, policy, section.fit_pairs)


def _fit(run: Run, fusion: Fusion, _: Artefacts) -> Iterable[tuple[str, bytes]]:
    pairs, votes = sample(run.workspace, fusion.fit_pairs, VOTE_STAGES, FUSED_COLUMNS)
    return fit_fusion(fusion, pairs, votes).items()


def fit_fusion(fusion: Fusion, pairs: pl.DataFrame, votes: pl.DataFrame) -> dict[str, bytes]:
    """Fit fuser and policy.

    Args:
        pairs: `FUSED_COLUMNS` of the sample, and `drawn`.
        votes: on these pairs.

    Returns:
        The artefacts of `_ARTEFACTS`: both models, and which plug-ins they are of.
    """
    pairs = fusion_columns(pairs)
    model = {"calibrated_by": None, **fusion.fuser.fit(votes, pairs)}  # a fuser that does not say is not calibrated
    # Shares of the others say nothing about the data set. Pairs lie in the order of their hash: any will do.
    drawn = pairs.filter(pl.col("drawn")).head(_POLICY_PAIRS)
    plugins = {"fuser": described(fusion.fuser), "policy": described(fusion.policy)}
    rule = fusion.policy.fit(_fused(fusion, model, votes, drawn))
    return {"fuser": canonical_json(model), "policy": canonical_json(rule), PLUGINS: canonical_json(plugins)}


def _names(_run: Run, _fusion: Fusion) -> tuple[str, ...]:
    return _ARTEFACTS


def verdicts(fusion: Fusion, inputs: Inputs, artefacts: Artefacts) -> Output:
    """One verdict per pair of a bucket."""
    pairs = fusion_columns(inputs.read("pairs", FUSED_COLUMNS))
    votes = inputs.read("votes", VOTE_COLUMNS)
    if not pairs.height:
        return Output()
    fused = _fused(fusion, orjson.loads(artefacts["fuser"]), votes, pairs)
    decided = fusion.policy.decide(orjson.loads(artefacts["policy"]), fused)
    actions = decided["action"].value_counts().iter_rows()
    return Output(
        {"verdicts": conform(decided, Verdicts)},
        rows_in=pairs.height,
        rows_out=decided.height,
        counts={f"action_{action}": n for action, n in actions} | {"votes": votes.height},
    )


def _fused(fusion: Fusion, model: dict[str, Any], votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    return decision_frame(fusion.fuser.apply(model, votes, pairs), pairs, votes)


def _notes(run: Run, fusion: Fusion, artefacts: Artefacts, summary: Summary) -> list[str]:
    """What the fit estimates of the labels."""
    return estimate_notes(estimates(run.workspace, finished=True))


FUSE = Stage(
    name="fuse",
    version=3,
    reads={"pairs": PAIR_STAGES, "votes": VOTE_STAGES},
    setup=_setup,
    steps=(Fit(_names, _fit),),
    work=PerBucket(verdicts),
    conserves="pairs",
    notes=_notes,
)


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
