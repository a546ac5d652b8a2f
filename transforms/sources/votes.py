"""Votes that came with the data: the source's own label, people's labels, earlier judges' verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from schemas.errors import DataError
from schemas.ids import hash_json
from schemas.pairs import mirrored
from schemas.rows import vote_frame
from schemas.tables import VOTE_LABELS
from transforms.sources.config import HumanVotes, JudgeVotes, PairsSource
from transforms.sources.labels import UnknownLabel, read_label

_COLUMNS = (
    *("vote_id", "pair_id", "voter", "voter_group", "kind", "order", "label"),
    *("score_a", "score_b", "raw", "detail", "p_a", "rationale"),
)
_NUMBERS = ("score_a", "score_b", "p_a")
_DIGITS = 12  # of a probability, so that 1 - (1 - p) is p again


class _BadVote(ValueError):
    """A vote that cannot be read; the message is one sentence."""


class _Verdict(NamedTuple):
    """What one object of a judges' column says, in terms of the row's own responses."""

    voter: str
    order: str
    label: Any
    probability: float | None  # that the row's first response is the better
    rationale: str | None


def vote_id(kind: str, pair_id: str, voter: str, order: str, label: str, p_a: float | None = None) -> str:
    """Id of a vote read from a source: the same opinion met twice is one vote, two opinions are two."""
    stated = [] if p_a is None else [p_a]
    return hash_json(["source-vote", kind, pair_id, voter, order, label, *stated])


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

        Raises:
            DataError: a probability is outside 0 to 1, or a label is a number that `labels` does not explain.
        """
        if isinstance(votes, HumanVotes):
            return self._human(votes, pair_id, swapped, value, where)
        return self._judge(votes, pair_id, swapped, value, where)

    def frame(self) -> pl.DataFrame:
        """The votes as a `votes` frame, each once."""
        dtypes = {n: pl.Float64 if n in _NUMBERS else pl.String for n in _COLUMNS}
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
        try:
            verdicts = [_verdict(v, votes, where) for v in value]
            for verdict in verdicts:
                self._agrees(verdict, votes, where)
        except _BadVote as error:
            return str(error)
        for verdict in verdicts:
            name = votes.prefix + verdict.voter
            group = name.split(votes.group_separator)[0] if votes.group_separator else name
            self._opinion(
                *(pair_id, swapped, name, group, "judge", verdict.order, verdict.label, where),
                *(verdict.probability, verdict.rationale),
            )
        return None

    def _opinion(
        self,
        pair_id: str,
        swapped: bool,
        voter: str,
        group: str,
        kind: str,
        order: str,
        value: Any,
        where: str,
        probability: float | None = None,
        rationale: str | None = None,
    ) -> None:
        label, detail = self._label(value, voter, where)
        if label is None and probability is not None:
            label = "tie" if probability == 0.5 else "a" if probability > 0.5 else "b"
        if label is None:
            return
        if swapped:
            label, order = mirrored(label), mirrored(order)
            probability = None if probability is None else round(1 - probability, _DIGITS)
        raw = None if detail is None else str(value)
        self._add(pair_id, voter, group, kind, order, label, None, raw, detail, probability, rationale)

    def _label(self, value: Any, voter: str, where: str) -> tuple[str | None, str | None]:
        """A vote's label in terms of the row's own a and b, None if there is none; and why it is invalid."""
        if value in VOTE_LABELS and value not in self.config.labels:
            return str(value), None
        try:
            return read_label(value, self.config.labels, f"{where}, voter {voter}"), None
        except UnknownLabel as error:
            return "invalid", f"The vote {error}"

    def _agrees(self, verdict: _Verdict, votes: JudgeVotes, where: str) -> None:
        """A stated probability is on the side of the label.

        Raises:
            _BadVote: it is that of the label rather than that of the first response.
        """
        label, _ = self._label(verdict.label, verdict.voter, where)
        p = verdict.probability
        if p is not None and ((label == "a" and p < 0.5) or (label == "b" and p > 0.5)):
            raise _BadVote(
                f"Field {votes.column}: voter {verdict.voter} says {verdict.label} and that the row's first response "
                f"is better with {votes.probability} {p:g}. That number must be the probability of the first "
                f"response, not of the {votes.label}: write 1 - p where the {votes.label} is the second."
            )

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
        p_a: float | None = None,
        rationale: str | None = None,
    ) -> None:
        identity = vote_id(kind, pair_id, voter, order, label, p_a)
        opinion = (identity, pair_id, voter, group, kind, order, label)
        self.rows.append((*opinion, *(scores or (None, None)), raw, detail, p_a, rationale))


def _verdict(verdict: dict[str, Any], votes: JudgeVotes, where: str) -> _Verdict:
    """One object of the column.

    Raises:
        _BadVote, DataError: as `_probability` and `_rationale` say.
    """
    name, order = str(verdict[votes.voter]), "none"
    if votes.order_suffix and name[-3:] in ("|ab", "|ba"):
        name, order = name[:-3], name[-2:]
    probability = _probability(verdict, votes, where)
    return _Verdict(name, order, verdict.get(votes.label), probability, _rationale(verdict, votes))


def _probability(verdict: dict[str, Any], votes: JudgeVotes, where: str) -> float | None:
    """The stated probability that the row's first response is the better; None if it is not read, or null.

    Raises:
        _BadVote: it is missing or no number.
        DataError: it is a number outside 0 to 1. Then no row's numbers are probabilities, although 1% looks like one.
    """
    if votes.probability is None:
        return None
    value, name = _field(verdict, votes.probability, votes), verdict[votes.voter]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise _BadVote(
            f"Field {votes.column}: {votes.probability} of voter {name} is {value!r:.80}, not a number from 0 to 1; "
            "write null if there is none."
        )
    if not 0 <= value <= 1:
        raise DataError(
            f"{where}, field {votes.column}, voter {name}: {votes.probability} is {value:g}, not within 0 to 1. It "
            "must be the probability that the row's first response is the better: divide percentages by 100, take "
            "exp() of log-probabilities."
        )
    return round(float(value), _DIGITS)


def _rationale(verdict: dict[str, Any], votes: JudgeVotes) -> str | None:
    if votes.rationale is None:
        return None
    value = _field(verdict, votes.rationale, votes)
    if value is not None and not isinstance(value, str):
        raise _BadVote(
            f"Field {votes.column}: {votes.rationale} of voter {verdict[votes.voter]} is {type(value).__name__}, "
            "not a text; write null if there is none."
        )
    return value


def _field(verdict: dict[str, Any], name: str, votes: JudgeVotes) -> Any:
    """`verdict[name]`; a misspelt name must not read as "none of them says anything"."""
    if name not in verdict:
        raise _BadVote(f"Field {votes.column}: an object has no {name}; add it (null if there is none).")
    return verdict[name]
