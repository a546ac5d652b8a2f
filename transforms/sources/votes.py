"""Votes that came with the data: the source's own label, people's labels, earlier judges' verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from schemas.ids import hash_json
from schemas.pairs import mirrored
from schemas.rows import vote_frame
from schemas.tables import VOTE_LABELS
from transforms.sources.config import HumanVotes, JudgeVotes, PairsSource
from transforms.sources.labels import UnknownLabel, read_label

_COLUMNS = (
    *("vote_id", "pair_id", "voter", "voter_group", "kind", "order", "label"),
    *("score_a", "score_b", "raw", "detail"),
)


def vote_id(kind: str, pair_id: str, voter: str, order: str, label: str) -> str:
    """Id of a vote read from a source: the same opinion met twice is one vote, two opinions are two."""
    return hash_json(["source-vote", kind, pair_id, voter, order, label])


@dataclass
class Ballots:
    """Votes under way, as bare tuples: there may be a hundred a row."""

    config: PairsSource
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add_source(self, pair_id: str, label: str, scores: tuple[float, float] | None) -> None:
        """The source's own label, in terms of the stored a and b (so are `scores`)."""
        self._add(pair_id, self.config.name, self.config.name, "source", "none", label, scores)

    def add_votes(
        self, votes: HumanVotes | JudgeVotes, pair_id: str, swapped: bool, value: Any, where: str
    ) -> str | None:
        """The votes of one row under one entry of `config.votes`.

        Args:
            swapped: whether the row's second response became the stored `response_a`.
            value: what the row holds: (labels, voters) or the list of structs.
            where: file and row, for messages.

        Returns:
            One sentence if they could not be read.
        """
        if isinstance(votes, HumanVotes):
            return self._human(votes, pair_id, swapped, value, where)
        return self._judge(votes, pair_id, swapped, value, where)

    def frame(self) -> pl.DataFrame:
        """The votes as a `votes` frame, each once."""
        dtypes = {n: pl.Float64 if n.startswith("score") else pl.String for n in _COLUMNS}
        columns = list(zip(*self.rows, strict=True)) or [()] * len(_COLUMNS)
        frame = pl.DataFrame(
            [pl.Series(n, values, dtype=dtypes[n]) for n, values in zip(_COLUMNS, columns, strict=True)]
        )
        return vote_frame(frame.unique("vote_id", keep="first", maintain_order=True))

    def _human(self, votes: HumanVotes, pair_id: str, swapped: bool, value: Any, where: str) -> str | None:
        labels, voters = value
        if labels is None:
            return None
        if not isinstance(labels, list):
            return f"Field {votes.labels} is {type(labels).__name__}, not a list of labels."
        if voters is None:
            voters = [f"annotator-{i}" for i in range(len(labels))]
        if not isinstance(voters, list) or len(voters) != len(labels):
            return f"Fields {votes.labels} and {votes.voters} differ in length; give one name a label."
        prefix = f"{self.config.name}/" if votes.prefix is None else votes.prefix
        for voter, label in zip(voters, labels, strict=True):
            name = f"{prefix}{voter}"
            self._opinion(pair_id, swapped, name, name, "human", "none", label, where)
        return None

    def _judge(self, votes: JudgeVotes, pair_id: str, swapped: bool, value: Any, where: str) -> str | None:
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, dict) and v.get(votes.voter) for v in value):
            return f"Field {votes.column} is not a list of objects with {votes.voter} and {votes.label}."
        for verdict in value:
            name, order = str(verdict[votes.voter]), "none"
            if votes.order_suffix and name[-3:] in ("|ab", "|ba"):
                name, order = name[:-3], name[-2:]
            name = votes.prefix + name
            group = name.split(votes.group_separator)[0] if votes.group_separator else name
            self._opinion(pair_id, swapped, name, group, "judge", order, verdict.get(votes.label), where)
        return None

    def _opinion(
        self, pair_id: str, swapped: bool, voter: str, group: str, kind: str, order: str, value: Any, where: str
    ) -> None:
        detail = None
        if value in VOTE_LABELS and value not in self.config.labels:
            label: str | None = value
        else:
            try:
                label = read_label(value, self.config.labels, f"{where}, voter {voter}")
            except UnknownLabel as error:
                label, detail = "invalid", f"The vote {error}"
        if label is None:
            return
        if swapped:
            label, order = mirrored(label), mirrored(order)
        raw = None if detail is None else str(value)
        self._add(pair_id, voter, group, kind, order, label, None, raw, detail)

    def _add(
        self,
        pair_id: str,
        voter: str,
        group: str,
        kind: str,
        order: str,
        label: str,
        scores: tuple[float, float] | None,
        raw: str | None = None,
        detail: str | None = None,
    ) -> None:
        score_a, score_b = scores or (None, None)
        identity = vote_id(kind, pair_id, voter, order, label)
        self.rows.append((identity, pair_id, voter, group, kind, order, label, score_a, score_b, raw, detail))
