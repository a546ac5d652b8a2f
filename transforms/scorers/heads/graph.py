"""Which responses meet in which pairs, and what of it hangs together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class PairGraph:
    """Which responses meet in which pairs: ids of prompt and responses of each pair, all of length n."""

    prompts: Sequence[str]
    first: Sequence[str]
    second: Sequence[str]

    def take(self, rows: Sequence[int]) -> PairGraph:
        """The pairs of some rows."""
        return PairGraph(*([column[r] for r in rows] for column in (self.prompts, self.first, self.second)))


def adjacency(edges: Index, n: int) -> scipy.sparse.csr_array:
    """How often two of n nodes meet in edges (m, 2): symmetric, shape (n, n)."""
    one_way = scipy.sparse.csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return scipy.sparse.csr_array(one_way + one_way.T)


def components(edges: Index, n: int) -> Iterator[Index]:
    """The nodes of each connected component, ascending; components in the order of their first node."""
    count, component = scipy.sparse.csgraph.connected_components(adjacency(edges, n), directed=False)
    starts = np.cumsum(np.bincount(component, minlength=count))[:-1]
    yield from np.split(np.argsort(component, kind="stable"), starts)


def near_order(edges: Index, nodes: Index, n: int) -> Index:
    """The nodes of a component in an order in which neighbours stand close together (reverse Cuthill-McKee, 1969)."""
    inside = scipy.sparse.csr_array(adjacency(edges, n)[nodes][:, nodes])
    return np.asarray(nodes[scipy.sparse.csgraph.reverse_cuthill_mckee(inside, symmetric_mode=True)])
