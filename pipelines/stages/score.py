"""Stage score: voters that need no LLM call, fitted on a sample, applied bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from pipelines.runtime.asking import reopen
from pipelines.runtime.sample import VOTE_COLUMNS, sample
from pipelines.runtime.stage import ANSWER_STAGES, PAIR_STAGES, Artefacts, Fit, Inputs, PerBucket, Run, Stage
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.tables import Votes, polars_schema
from transforms.plugins.build import build
from transforms.scorers.base import Scorer
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Output

_ERRORS = ".errors"  # after a scorer's name: on how many pairs it failed


class Scorers(NamedTuple):
    """The recipe's scorers, sharing one embedding memo.

    Attributes:
        fit_pairs: on how many pairs they are fitted at most.
    """

    scorers: tuple[Scorer, ...]
    fit_pairs: int

    @property
    def identity(self) -> Any:
        """The scorers and the size of the sample they are fitted on."""
        return [[[scorer.name, scorer.identity] for scorer in self.scorers], self.fit_pairs]


def _setup(run: Run) -> Scorers:
    scorers = tuple(build(Scorer, use, run.recipe.seed, run.folder) for use in run.recipe.score.scorers)
    for scorer in scorers:
        scorer.use_cache(EmbeddingCache(run.workspace.path("tables", "embeddings")))
    return Scorers(scorers, run.recipe.score.fit_pairs)


def _names(_: Run, setup: Scorers) -> list[str]:
    return [scorer.name for scorer in setup.scorers]


def _fit(run: Run, setup: Scorers, artefacts: Artefacts) -> Iterator[tuple[str, bytes]]:
    """Every scorer that is not fitted yet, on the sample."""
    pairs, votes = sample(run.workspace, setup.fit_pairs, ANSWER_STAGES)
    for scorer in setup.scorers:
        if scorer.name not in artefacts:
            yield scorer.name, scorer.fit(pairs, votes)


def _is_idle(setup: Scorers) -> bool:
    return not setup.scorers


def scores(setup: Scorers, inputs: Inputs, artefacts: Artefacts) -> Output:
    """All scorers' votes on a bucket's pairs."""
    schema = polars_schema(Votes)
    pairs = inputs.read("pairs", None if setup.scorers else [])
    frames = [pl.DataFrame(schema=schema)]
    if pairs.height:
        wanted = any(scorer.reads_votes for scorer in setup.scorers)
        answers = inputs.read("votes", VOTE_COLUMNS) if wanted else None
        for scorer in setup.scorers:
            own = scorer.votes(pairs, artefacts[scorer.name], answers if scorer.reads_votes else None)
            frames.append(own.select(schema.names()))
    votes = pl.concat(frames)
    failed = votes.filter(pl.col("label") == "error")
    counts = {"votes": votes.height} | ({"error": failed.height} if failed.height else {})
    for voter, n in failed["voter"].value_counts().iter_rows():
        counts[f"{voter}{_ERRORS}"] = n
    is_transient = pl.col("aspects").str.json_path_match("$.transient") == "true"
    is_complete = failed.filter(is_transient).is_empty()
    return Output({"votes": votes}, rows_in=pairs.height, rows_out=pairs.height, counts=counts, complete=is_complete)


def _check(run: Run, _: Scorers, summary: Summary) -> None:
    """End the run where a scorer failed on too many pairs.

    Raises:
        EngineError: with the scorer, counts and an example.
    """
    most, pairs = run.recipe.score.max_failed_share, summary.rows_in
    failed = {name: n for name, n in summary.counts.items() if name.endswith(_ERRORS) and n > most * pairs}
    if failed:
        reopen(run.workspace, "score", lambda checkpoint: not failed.keys().isdisjoint(checkpoint.counts))
        scorers = {name.removesuffix(_ERRORS): n for name, n in failed.items()}
        examples = "; ".join(f"{name} on {n:,}, for example: {_example(run, name)}" for name, n in scorers.items())
        raise EngineError(
            f"stage score: of {pairs:,} pairs, more than max_failed_share ({most:.1%}) allows got no vote: {examples}. "
            "Every reward is kept: run again, and only these are asked."
        )


def _example(run: Run, voter: str) -> str:
    for bucket in run.workspace.buckets:
        votes = run.workspace.read("votes", bucket, ("score",), ("voter", "label", "detail"))
        failed = votes.filter(pl.col("voter") == voter, pl.col("label") == "error", pl.col("detail").is_not_null())
        if failed.height:
            return str(failed["detail"][0])
    return "no reason was given"


SCORE = Stage(
    name="score",
    version=3,
    reads={"pairs": PAIR_STAGES, "votes": ANSWER_STAGES},
    setup=_setup,
    steps=(Fit(_names, _fit),),
    work=PerBucket(scores),
    is_idle=_is_idle,
    conserves="pairs",
    check=_check,
)
