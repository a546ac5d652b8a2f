"""A slice of a source as frames of the workspace's tables.

Conservation: `rows_in == rows_kept + rejected rows`. A row is kept if it gave at least one pair (or its
prompt); otherwise it is in `rejects` exactly once, under the record id "file:row". Parts left out of a
row that is kept (one bad response of several, votes that cannot be read) are rejects too, with a "#"
in the record id, and do not count as rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from schemas.errors import DataError
from schemas.rows import reject_row
from schemas.tables import Pairs, Prompts, Rejects, Votes, rows_frame
from transforms.sources.config import HumanVotes, JudgeVotes, PairsSource, PromptsSource
from transforms.sources.detect import Layout, detect
from transforms.sources.frames import pairs_frame
from transforms.sources.plain import plain_pairs, take_plain
from transforms.sources.plain_votes import judge_votes, source_votes
from transforms.sources.raw import Raw, read_raw
from transforms.sources.rows import pair_rows, prompt_row
from transforms.sources.slices import Slice
from transforms.sources.values import RowError, dump
from transforms.sources.votes import Ballots

STAGE = "ingest"


@dataclass(frozen=True)
class Ingested:
    """Frames of the tables prompts, pairs, votes and rejects made of one slice, and its row counts."""

    prompts: pl.DataFrame
    pairs: pl.DataFrame
    votes: pl.DataFrame
    rejects: pl.DataFrame
    rows_in: int
    rows_kept: int


def read(piece: Slice, config: PromptsSource | PairsSource) -> Ingested:
    """Read one slice; bad rows become rejects.

    Raises:
        DataError: the file cannot be read, a column is missing, or the label's numbers are unexplained.
    """
    raw = read_raw(piece)
    rows_in = len(raw.numbers) + len(raw.unreadable)
    bin_ = _Bin(config.name, piece.ref)
    for bad in raw.unreadable:
        bin_.add(bad.row, bad.reason, bad.detail, bad.payload)
    empty = {t: rows_frame([], t) for t in (Prompts, Pairs, Votes)}
    if not raw.numbers:
        return Ingested(empty[Prompts], empty[Pairs], empty[Votes], bin_.frame(), rows_in, 0)
    layout = detect(config, piece.columns, piece.path, every_row=piece.format not in ("json", "jsonl"))
    if isinstance(config, PromptsSource):
        prompts = _prompts(raw, config, layout, bin_)
        kept = prompts.height
        return Ingested(prompts, empty[Pairs], empty[Votes], bin_.frame(), rows_in, kept)
    pairs, votes, kept = _pairs(raw, config, layout, piece.ref, bin_)
    return Ingested(empty[Prompts], pairs, votes, bin_.frame(), rows_in, kept)


def check_rejects(config: PromptsSource | PairsSource, rows_in: int, rows_kept: int, rejects: pl.DataFrame) -> None:
    """Stop where more of a source's rows were rejected than the recipe allows.

    Args:
        rows_in: rows of the whole source; likewise `rows_kept`.
        rejects: its rejects, for the message.

    Raises:
        DataError: the share is exceeded, or no row was kept; the text holds counts by reason and an example.
    """
    rejected = rows_in - rows_kept
    if rows_in and rows_kept and rejected <= config.max_reject_share * rows_in:
        return
    if not rows_in:
        raise DataError(f"source {config.name!r} holds no rows")
    counts = rejects.group_by("reason").len().sort("len", "reason", descending=[True, False]).rows()
    first = rejects.sort("record_id").row(0, named=True)
    raise DataError(
        f"source {config.name!r}: {rejected} of {rows_in} rows rejected, more than max_reject_share "
        f"({config.max_reject_share:g}) allows: {', '.join(f'{n} {reason}' for reason, n in counts)}. "
        f"For example {first['record_id']}: {first['detail']}"
    )


def _prompts(raw: Raw, config: PromptsSource, layout: Layout, bin_: _Bin) -> pl.DataFrame:
    rows = []
    for number, row in zip(raw.numbers, _dicts(raw, None), strict=True):
        try:
            rows.append(prompt_row(row, config, layout))
        except RowError as error:
            bin_.add(number, error.reason, error.detail, dump(row))
    return rows_frame(rows, Prompts)


def _pairs(
    raw: Raw, config: PairsSource, layout: Layout, ref: str, bin_: _Bin
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    ballots = Ballots(config)
    plain = plain_pairs(take_plain(raw, config, layout, ref), raw, config, layout, ref)
    fast = [source_votes(plain.frame["pair_id"].to_list(), plain.frame["source_label"].to_list(), config)]
    voted = list(zip(plain.index, plain.frame["pair_id"].to_list(), plain.swapped, strict=True))

    careful, kept = [], len(plain.index)
    done = set(plain.index)
    rest = [i for i in range(len(raw.numbers)) if i not in done]
    for index, row in zip(rest, _dicts(raw, rest) if rest else (), strict=True):
        number = raw.numbers[index]
        try:
            made = pair_rows(row, config, layout, f"{ref}:{number}")
        except RowError as error:
            bin_.add(number, error.reason, error.detail, dump(row))
            continue
        kept += 1
        for part, why in made.left_out:
            bin_.add(number, why.reason, why.detail, dump(row), part)
        for pair, swapped, scores in made.pairs:
            careful.append(pair)
            if pair["source_label"]:
                ballots.add_source(
                    pair["pair_id"], pair["source_label"], scores[::-1] if scores and swapped else scores
                )
        voted.append((index, made.pairs[0][0]["pair_id"], made.pairs[0][1]))

    for votes in config.votes:
        known = _fast_votes(raw, votes, voted, config)
        if known is not None:
            fast.append(known)
            continue
        values = _ballots(raw, votes)
        for index, pair_id, swapped in voted:
            number = raw.numbers[index]
            problem = ballots.add_votes(votes, pair_id, swapped, values[index], f"{ref}:{number}")
            if problem:
                bin_.add(number, "bad_votes", problem, dump(next(iter(_dicts(raw, [index])))), "#votes")
    pairs = pl.concat([plain.frame, pairs_frame(careful)])
    frames = pl.concat([*fast, ballots.frame()]).unique("vote_id", keep="first", maintain_order=True)
    return pairs, frames, kept


def _fast_votes(
    raw: Raw, votes: HumanVotes | JudgeVotes, voted: list[tuple[int, str, bool]], config: PairsSource
) -> pl.DataFrame | None:
    if raw.frame is None or not isinstance(votes, JudgeVotes) or not voted:
        return None
    index, pair_ids, swapped = zip(*voted, strict=True)
    return judge_votes(raw.frame[votes.column][list(index)], pair_ids, swapped, votes, config)


def _ballots(raw: Raw, votes: HumanVotes | JudgeVotes) -> list[Any]:
    """Per row of the slice what one entry of `votes` finds there."""
    if isinstance(votes, JudgeVotes):
        return _values(raw, votes.column)
    voters = [None] * len(raw.numbers) if votes.voters is None else _values(raw, votes.voters)
    return list(zip(_values(raw, votes.labels), voters, strict=True))


def _values(raw: Raw, column: str) -> list[Any]:
    return raw.frame[column].to_list() if raw.frame is not None else [row.get(column) for row in raw.rows]


def _dicts(raw: Raw, indices: list[int] | None) -> Iterable[dict[str, Any]]:
    if raw.frame is None:
        return raw.rows if indices is None else [raw.rows[i] for i in indices]
    return raw.frame.iter_rows(named=True) if indices is None else raw.frame[indices].iter_rows(named=True)


@dataclass
class _Bin:
    """Rejects under way."""

    source: str
    ref: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, reason: str, detail: str, payload: str, part: str = "") -> None:
        record_id = f"{self.ref}:{number}{part}"
        id_fields = (STAGE, self.source, record_id, reason, detail)
        self.rows.append(reject_row(STAGE, reason, record_id, detail, payload, id_fields))

    def frame(self) -> pl.DataFrame:
        return rows_frame(self.rows, Rejects)
