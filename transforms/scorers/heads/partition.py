"""Which fold a pair lies in, also where one prompt holds most of the pairs.

Folds are hashes of a pair's group, so that all pairs of a prompt share one. A prompt with more pairs than a fold's
fair share would leave the heads of its fold with little or nothing to learn from; it is divided:

1. Responses that are connected by pairs form a component. Components share no response: the heads that score one
   have seen neither its labels nor its responses.
2. A component that is itself larger than a fair share is cut into parts of its responses. The order is that of reverse
   Cuthill-McKee (1969), in which neighbours stand close together, so that a sparse component loses few pairs to
   the cuts. A pair whose responses lie in two parts belongs to both folds: neither fold's heads learn from it,
   and the mean of both scores it.

What is held out, in a component that was cut: never the pair's own label, for heads of fold k learn from no pair that
has a response in fold k; and of at least one of the pair's responses no label at all. The heads of one of the two
folds may have learnt from other pairs of the pair's *other* response. Labels of these are other labels, but what makes
a response good or bad is common to its pairs: such heads are not independent of the pair as heads of other prompts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.ids import unit_interval
from transforms.scorers.heads.graph import Index, PairGraph, components, near_order

MIN_DIVIDED = 50  # pairs; a smaller prompt is never divided


@dataclass(frozen=True)
class Divided:
    """A divided prompt: the part of each response, and the fold of each part."""

    parts: Mapping[str, int]
    folds: Sequence[int]


@dataclass(frozen=True)
class Partition:
    """Folds in [0, n_folds): the hash of the group, but for the responses of divided groups."""

    n_folds: int
    seed: int
    divided: Mapping[str, Divided] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Sequence[str], graph: PairGraph, n_folds: int, seed: int, whole: bool = False) -> Partition:
        """Divide the groups that hold more than 1 / n_folds of the pairs.

        Args:
            groups: group of each pair, length n.
            graph: the responses of each pair, length n. The side that a response stands on does not matter, nor does
                the order of the pairs.
            whole: divide none.
        """
        names, group_of, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
        fair = max(len(groups) / n_folds, MIN_DIVIDED)
        load, divided = np.zeros(n_folds), {}
        for group in () if whole else np.flatnonzero(sizes > fair):
            rows = np.flatnonzero(group_of == group)
            ends = [(graph.first[row], graph.second[row]) for row in rows]
            parts, degrees = _parts(ends, fair, seed)
            divided[str(names[group])] = Divided(parts, _fill(degrees, load))
        return cls(n_folds, seed, divided)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Partition:
        """Inverse of `dataclasses.asdict`."""
        divided = {group: Divided(**value) for group, value in stored["divided"].items()}
        return cls(stored["n_folds"], stored["seed"], divided)

    def folds(self, groups: Sequence[str], graph: PairGraph) -> Index:
        """The one or two folds of each pair, shape (n, 2), the smaller first."""
        fold_of: dict[str, int] = {}
        both = np.zeros((len(groups), 2), dtype=np.int64)
        for column, responses in enumerate((graph.first, graph.second)):
            for row, (group, response) in enumerate(zip(groups, responses, strict=True)):
                unit = self._unit(group, response)
                if unit not in fold_of:
                    fold_of[unit] = self._fold(group, response)
                both[row, column] = fold_of[unit]
        return np.sort(both, axis=1)

    def units(self, groups: Sequence[str], graph: PairGraph) -> list[str]:
        """What is drawn together in a bootstrap, length n: the group; of a divided one the parts a pair lies in."""
        pairs = zip(groups, graph.first, graph.second, strict=True)
        return [
            "|".join(sorted({self._unit(group, first), self._unit(group, second)})) for group, first, second in pairs
        ]

    def _unit(self, group: str, response: str) -> str:
        """The group, its part that holds the response, or, unknown when the group was divided, the response."""
        if group not in self.divided:
            return group
        return f"{group}/{self.divided[group].parts.get(response, response)}"

    def _fold(self, group: str, response: str) -> int:
        if group in self.divided and response in self.divided[group].parts:
            return self.divided[group].folds[self.divided[group].parts[response]]
        return _hashed_fold(self._unit(group, response), self.n_folds, self.seed)


def hashed_folds(names: Sequence[str], n_folds: int, seed: int) -> Index:
    """Fold in [0, n_folds) of each name: a hash, so the same in every sample and every bucket."""
    cached = {name: _hashed_fold(name, n_folds, seed) for name in set(names)}
    return np.array([cached[name] for name in names], dtype=np.int64)


def _hashed_fold(name: str, n_folds: int, seed: int) -> int:
    return int(unit_interval(str(seed), "fold", name) * n_folds)


def _parts(ends: Sequence[tuple[str, str]], fair: float, seed: int) -> tuple[dict[str, int], list[float]]:
    """The part of each response, and each part's size in pairs (a pair between two parts is half in each)."""
    # By a seeded hash, so that parts depend on neither row order nor sides, and differ between seeds.
    responses = sorted({end for pair in ends for end in pair}, key=lambda r: (unit_interval(str(seed), "part", r), r))
    index = {response: i for i, response in enumerate(responses)}
    edges = np.array([(index[a], index[b]) for a, b in ends])
    degree = np.bincount(edges.ravel(), minlength=len(responses)) / 2.0
    part_of, sizes = np.zeros(len(responses), dtype=np.int64), list[float]()
    for members in components(edges, len(responses)):
        pairs = float(degree[members].sum())
        n_parts = int(np.ceil(pairs / fair))
        if n_parts > 1:
            members = near_order(edges, members, len(responses))
        # Where a response's middle lies along the order, in units of a part's size.
        middle = (np.cumsum(degree[members]) - degree[members] / 2.0) * n_parts / pairs
        part = np.minimum(middle.astype(np.int64), n_parts - 1)
        part_of[members] = len(sizes) + part
        sizes.extend(np.bincount(part, weights=degree[members], minlength=n_parts).tolist())
    return dict(zip(responses, part_of.tolist(), strict=True)), sizes


def _fill(sizes: Sequence[float], load: NDArray[np.float64]) -> list[int]:
    """A fold for each part, the largest first into the emptiest fold; `load` (n_folds,) is what the folds hold."""
    folds = [0] * len(sizes)
    for part in np.argsort(-np.asarray(sizes), kind="stable"):
        folds[part] = int(load.argmin())
        load[folds[part]] += sizes[part]
    return folds
