"""Stage generate: prompts become pairs."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from pipelines.runtime.generating import (
    Generators,
    Yields,
    check_answered,
    conserved,
    duplicate,
    per_row,
    setup_generators,
    unusable_notes,
)
from pipelines.runtime.stage import Run, Stage
from pipelines.stages.evolve import EVOLVE
from pipelines.stages.screen import SCREEN
from schemas.rows import vote_row
from schemas.tables import Pairs, Row, Votes, rows_frame
from transforms.sources.votes import vote_id
from transforms.storage.workspace import Output


def _setup(run: Run) -> Generators:
    return setup_generators(run, "pairs")


def new_pairs(made: Yields) -> Output:
    """Every generator's pairs, in the bucket of the row they come from, and the label that their construction gives."""
    pairs: dict[str, Row] = {}
    again: list[Row] = []
    for name, row in ((name, row) for name, one in made for row in one.pairs):
        if row["pair_id"] in pairs:
            again.append(duplicate("generate", name, row, "pair_id"))
        else:
            pairs[row["pair_id"]] = row
    output = conserved("pairs", made, rows_frame(list(pairs.values()), Pairs), again)
    votes = [_source_vote(pair) for pair in pairs.values() if pair["source_label"]]
    output.tables["votes"] = rows_frame(votes, Votes)
    return output


def _source_vote(pair: Row) -> Row:
    """The label a generator gives by construction is one opinion among others: a vote, as a source's label is."""
    voter, label = pair["origin"], pair["source_label"]
    identity = vote_id("source", pair["pair_id"], voter, "none", label)
    return vote_row(identity, pair["pair_id"], voter, "source", label)


GENERATE = Stage(
    name="generate",
    version=2,
    reads={"prompts": ("screen",), "pairs": ("ingest",)},
    setup=_setup,
    needs=(EVOLVE, SCREEN),  # who runs this stage alone starts from the same prompts as a whole run
    work=per_row(new_pairs),
    is_idle=attrgetter("is_idle"),
    check=partial(check_answered, "generate"),
    notes=partial(unusable_notes, "generate"),
)
