"""Votes as arrays, every pair turned so that its first response is the longer one.

Axes, the same in every file of this folder:

    i  pairs        N    a pair's two responses in the order "longer, shorter"
    v  voters       V    one per slot; sorted by name
    j  columns      J    a voter's votes with one value of its family covariate: J = V where nobody has a family
    b  length bins  B    quantiles of |log length ratio|; bin 0 holds the pairs of equal or unknown length
    k  shortcuts    K    is longer, by how much (and, as a third, is of the voter's own family)

The model has no intercept and pairs are stored in hash order, so turning a pair with all its votes changes no
likelihood: it only makes "follows the length" one number per bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
N_BINS = 8
NO_OPINION = 1e-6  # |opinion| up to which a cell is a tie: opposite votes of one voter cancel


@dataclass(frozen=True)
class Ballots:
    """The votes of `V` voters on `N` pairs, sorted by length bin.

    Attributes:
        pairs: `pair_id` of each row.
        turn: (N,) -1 where the longer response is b, else +1: the truth of a row is that of the pair times `turn`.
        vote: (N, J) +1 for the longer response, -1 for the shorter, 0 for a tie or no vote.
        cluster: (N,) the prompt of each row, as a number.
        starts: (B + 1,) bin b is rows starts[b] to starts[b + 1].
        length: (B, 2) shortcuts of a pair in each bin: is one longer (0 or 1), and |log ratio| over its mean.
        voter_of: (J,) the voter of each column.
        family: (J,) the voter's family against the two responses': +1 it wrote the longer, -1 the shorter, else 0.
        names, groups, kinds: (V,) of the voters.
    """

    pairs: pl.Series
    turn: Floats
    vote: NDArray[np.int8]
    cluster: Ints
    starts: Ints
    length: Floats
    voter_of: Ints
    family: Floats
    names: tuple[str, ...]
    groups: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def bins(self) -> list[slice]:
        """The rows of each bin."""
        return [slice(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    @property
    def bin_of(self) -> Ints:
        """(N,) the bin of each row."""
        return np.repeat(np.arange(len(self.length)), np.diff(self.starts))

    def voters_vote(self) -> NDArray[np.int8]:
        """(N, V) votes with the columns of one voter taken together."""
        if len(self.voter_of) == len(self.names):
            return self.vote
        out = np.zeros((len(self.vote), len(self.names)), dtype=np.int8)
        for j, v in enumerate(self.voter_of):
            out[:, v] += self.vote[:, j]
        return out


@dataclass(frozen=True)
class LengthScale:
    """How lengths become shortcuts: edges of the bins of |log ratio| and its mean, so that new pairs can be scored."""

    edges: tuple[float, ...]
    mean: float


def length_scale(log_ratio: Floats) -> LengthScale:
    """Bins that hold about equally many of the pairs with unequal lengths."""
    unequal = np.abs(log_ratio[log_ratio != 0])
    if not len(unequal):
        return LengthScale((), 1.0)
    edges = np.unique(np.quantile(unequal, np.arange(1, N_BINS) / N_BINS))
    return LengthScale(tuple(edges.tolist()), float(unequal.mean()))


def ballots_of(cells: pl.DataFrame, pairs: pl.DataFrame, kinds: dict[str, str], scale: LengthScale) -> Ballots:
    """Arrays of the votes in `cells`.

    Args:
        cells: `pair_id, voter, slot, group, opinion`, optionally `own_family` (+1: the voter's family wrote a, -1: b,
            0: both, none or unknown). One voter per slot counts: the others cast the same votes.
        pairs: `pair_id, prompt_id, log_ratio` (log of length_a / length_b, 0 if unknown).
        kinds: the kind of each voter that counts.
        scale: `length_scale` of the pairs.
    """
    family = pl.col("own_family").fill_null(0.0) if "own_family" in cells.columns else pl.lit(0.0)
    opinions = (
        cells.filter((pl.col("voter") == pl.col("slot")) & (pl.col("opinion").abs() > NO_OPINION))
        .filter(pl.col("voter").is_in(list(kinds)))
        .select("pair_id", "voter", "group", pl.col("opinion").sign().alias("vote"), family.sign().alias("family"))
    )
    frame = pairs.select("pair_id", "prompt_id", "log_ratio").join(
        opinions.select("pair_id").unique(), on="pair_id", how="semi", maintain_order="left"
    )
    ratio = frame["log_ratio"].to_numpy()
    size = np.abs(ratio)
    bin_of = np.where(size > 0, 1 + np.searchsorted(np.array(scale.edges), size, side="right"), 0)
    frame = (
        frame.with_columns(pl.Series("_bin", bin_of), pl.Series("_turn", np.where(ratio < 0, -1.0, 1.0)))
        .sort("_bin", "pair_id")
        .with_row_index("_row")
    )
    known = opinions.join(frame.select("pair_id", "_row", "_turn"), on="pair_id").with_columns(
        pl.col("vote") * pl.col("_turn"), pl.col("family") * pl.col("_turn")
    )

    # One column per (voter, value of the family covariate).
    columns = known.select("voter", "family").unique().sort("voter", "family").with_row_index("_column")
    names = sorted(set(columns["voter"]))
    place = {name: v for v, name in enumerate(names)}
    group_of = dict(known.select("voter", "group").unique("voter").iter_rows())
    entries = known.join(columns, on=["voter", "family"])
    vote = np.zeros((len(frame), len(columns)), dtype=np.int8)
    vote[entries["_row"].to_numpy(), entries["_column"].to_numpy()] = entries["vote"].to_numpy()

    n_bins = len(scale.edges) + 2
    counts = np.bincount(frame["_bin"].to_numpy(), minlength=n_bins)
    size = frame["log_ratio"].abs().to_numpy()
    sums = np.bincount(frame["_bin"].to_numpy(), weights=size, minlength=n_bins)
    mean_size = sums / np.maximum(counts, 1) / scale.mean
    return Ballots(
        pairs=frame["pair_id"],
        turn=frame["_turn"].to_numpy(),
        vote=vote,
        cluster=frame["prompt_id"].rank("dense").to_numpy().astype(np.int64) - 1,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        length=np.column_stack([np.arange(n_bins) > 0, mean_size]).astype(np.float64),
        voter_of=np.array([place[name] for name in columns["voter"]], dtype=np.int64),
        family=columns["family"].to_numpy().astype(np.float64),
        names=tuple(names),
        groups=tuple(group_of[name] for name in names),
        kinds=tuple(kinds[name] for name in names),
    )


def merged(ballots: Ballots, units: list[list[int]]) -> Ballots:
    """`ballots` with the voters of each unit as one, which votes as most of them do (a tie if as many say each).

    The unit has the name, group and kind of its first member; voters in no unit are left out.
    """
    votes = ballots.voters_vote()
    columns = [np.sign(votes[:, unit].sum(axis=1, dtype=np.int64)).astype(np.int8) for unit in units]
    heads = [unit[0] for unit in units]
    if all(len(unit) == 1 for unit in units):
        kept = [j for v in heads for j in np.flatnonzero(ballots.voter_of == v)]
        place = {v: u for u, v in enumerate(heads)}
        vote, family = ballots.vote[:, kept], ballots.family[kept]
        voter_of = np.array([place[int(ballots.voter_of[j])] for j in kept], dtype=np.int64)
    else:
        vote = np.column_stack(columns) if columns else np.zeros((len(votes), 0), dtype=np.int8)
        voter_of, family = np.arange(len(units)), np.zeros(len(units))
    return Ballots(
        pairs=ballots.pairs,
        turn=ballots.turn,
        vote=np.ascontiguousarray(vote),
        cluster=ballots.cluster,
        starts=ballots.starts,
        length=ballots.length,
        voter_of=voter_of,
        family=family,
        names=tuple(ballots.names[v] for v in heads),
        groups=tuple(ballots.groups[v] for v in heads),
        kinds=tuple(ballots.kinds[v] for v in heads),
    )
