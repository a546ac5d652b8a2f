"""Stage generate: prompts become pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.runtime.generator_stage import GeneratingStage, Made, conserved, duplicate
from pipelines.runtime.stage_class import Reads, run_stage
from pipelines.stages.evolve import Evolve
from pipelines.stages.screen import Screen
from schemas.tables import Pairs, Row, Votes, rows_frame
from transforms.sources.votes import vote_id
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Generate(GeneratingStage):
    """Every generator's pairs from every prompt (or pair); what one row yields stays in that row's bucket."""

    name: ClassVar[str] = "generate"
    makes: ClassVar[str] = "pairs"
    reads: ClassVar[Reads] = (("prompts", ("screen",)), ("pairs", ("ingest",)))
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {"prompts": ("screen",), "pairs": ("ingest",)}

    def refresh(self) -> None:
        """Bring the prompts up to date: who runs this stage alone starts from the same ones as a whole run."""
        for stage in (Evolve, Screen):
            run_stage(stage(self.workspace, self.recipe, self.base_dir, self.limit, self.flags), quiet=True)

    def output(self, made: Made) -> Output:
        """The bucket's pairs, and the label that their construction gives them."""
        pairs: dict[str, Row] = {}
        again: list[Row] = []
        for name, row in ((name, row) for name, one in made for row in one.pairs):
            if row["pair_id"] in pairs:
                again.append(duplicate(self.name, name, row, "pair_id"))
            else:
                pairs[row["pair_id"]] = row
        output = conserved("pairs", made, rows_frame(list(pairs.values()), Pairs), again)
        votes = [_source_vote(pair) for pair in pairs.values() if pair["source_label"]]
        output.tables["votes"] = rows_frame(votes, Votes)
        return output


def _source_vote(pair: Row) -> Row:
    """The label a generator gives by construction is one opinion among others: a vote, as a source's label is."""
    voter, label = pair["origin"], pair["source_label"]
    return {
        "vote_id": vote_id("source", pair["pair_id"], voter, "none", label),
        "pair_id": pair["pair_id"],
        "voter": voter,
        "voter_group": voter,
        "kind": "source",
        "order": "none",
        "sample": 0,
        "label": label,
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
    }
