"""How often annotators are wrong, whether they are wrong together, and what that says of the labels they checked.

The label of a pair is right with probability A. An annotator's answer is wrong with the pair's own probability e, drawn
from a beta distribution of mean mu (the error rate) and intra-pair correlation rho (shared difficulty; Williams,
Biometrics 1975): with rho = 0 annotators err independently (a one-coin Dawid-Skene model in which the label is one
more voter), with a large rho they are wrong on the same pairs, on some of them most of the time. Given e, answers are
independent, so that x wrong answers among m, in a given order, have probability

    q(x, m) = prod_{i<x} (mu (1-rho) + i rho) prod_{i<m-x} ((1-mu) (1-rho) + i rho) / prod_{i<m} (1-rho + i rho)

and an audited pair, k of whose m answers agree with its label, A q(m-k, m) + (1-A) q(k, m).

What identifies mu and rho: pairs whose answer is known, x wrong answers of m have q(x, m). Answers to other pairs alone
do not: two annotators who agree may both be right, or both be fooled. Without known answers rho is fixed at 0.

The posterior is computed on a grid, under Jeffreys' priors of A on [0, 1] and of mu on [0, 1/2], and a uniform one of
rho. It assumes that known pairs are as hard as audited ones, and that labels are not worse on hard pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_SHARED = 0.95  # rho
_MASS = 1e-9  # grid cells of less relative density are left out when the grid is refined


@dataclass(frozen=True)
class Grid:
    """Midpoints of equal cells: of the angle t with A = sin^2 t, of the angle with mu = sin^2, and of rho."""

    accuracy: Floats
    error: Floats
    shared: Floats

    @property
    def axes(self) -> tuple[Floats, Floats, Floats]:
        """The three axes, in order."""
        return self.accuracy, self.error, self.shared

    def log_density(self, patterns: Floats, other: Floats, known: Floats) -> Floats:
        """Log of the unnormalised posterior, shape (accuracies, errors, shared).

        Args:
            patterns: rows (answers m, of them agreeing with the label k, number of pairs), of audited pairs.
            other: the same of pairs whose labels do not count: only how their answers split among themselves does,
                which is the same likelihood with a label that is right half the time.
            known: rows (answers m, of them right k, number of pairs), of pairs whose answer is known.
        """
        # (1, errors, shared) once per pattern; (accuracies, errors, shared) for the audited ones.
        a = np.sin(self.accuracy)[:, None, None] ** 2
        mu, rho = np.sin(self.error)[None, :, None] ** 2, self.shared[None, None, :]
        errors = np.zeros((1, len(self.error), len(self.shared)))
        for m, k, pairs in known:
            errors = errors + pairs * np.log(wrong_answers(m - k, m, mu, rho))
        for m, k, pairs in other:
            errors = errors + pairs * np.log(wrong_answers(m - k, m, mu, rho) + wrong_answers(k, m, mu, rho))
        log = np.broadcast_to(errors, (len(self.accuracy), *errors.shape[1:])).copy()
        for m, k, pairs in patterns:
            right, wrong = wrong_answers(m - k, m, mu, rho), wrong_answers(k, m, mu, rho)
            log += pairs * np.log(a * right + (1.0 - a) * wrong)
        return log

    def drawn(self, log_density: Floats, n: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """n draws of A, mu and rho, each (n,)."""
        density = np.exp(log_density - log_density.max())
        cells = rng.choice(density.size, size=n, p=(density / density.sum()).ravel())
        # Within a cell the density is flat to the eye; spread over it, the draws do not pile up on its midpoint.
        places = np.unravel_index(cells, density.shape)
        spread = [
            axis[i] + (rng.random(n) - 0.5) * (axis[1] - axis[0]) if len(axis) > 1 else axis[i]
            for axis, i in zip(self.axes, places, strict=True)
        ]
        return np.sin(spread[0]) ** 2, np.sin(spread[1]) ** 2, np.asarray(spread[2])

    def refined(self, log_density: Floats, sizes: tuple[int, int, int]) -> Grid:
        """A finer grid on the cells that hold all but a billionth of the density."""
        used = np.nonzero(log_density > log_density.max() + np.log(_MASS))
        return Grid(*(_finer(*parts) for parts in zip(self.axes, used, sizes, strict=True)))


def grid(shared: bool) -> Grid:
    """The coarse grid; with rho = 0 alone unless difficulty is shared."""
    sizes = (60, 40) if shared else (150, 75)
    rho = _cells(0.0, MOST_SHARED, 12) if shared else np.zeros(1)
    return Grid(_cells(0.0, np.pi / 2, sizes[0]), _cells(0.0, np.pi / 4, sizes[1]), rho)


def fine_sizes(shared: bool) -> tuple[int, int, int]:
    """Cells of the refined grid."""
    return (100, 40, 16) if shared else (160, 80, 1)


def wrong_answers(x: float, m: float, mu: Floats, rho: Floats) -> Floats:
    """q(x, m): probability of x wrong answers among m, in a given order; broadcast over mu and rho."""
    numerator = np.ones(np.broadcast_shapes(mu.shape, rho.shape))
    denominator = np.ones_like(rho)
    for i in range(int(x)):
        numerator = numerator * (mu * (1.0 - rho) + i * rho)
    for i in range(int(m - x)):
        numerator = numerator * ((1.0 - mu) * (1.0 - rho) + i * rho)
    for i in range(int(m)):
        denominator = denominator * (1.0 - rho + i * rho)
    return np.asarray(numerator / denominator)


def _cells(low: float, high: float, size: int) -> Floats:
    """Midpoints of equal cells. In the angle t, where x = sin^2 t, uniform is Jeffreys' prior of x."""
    edges = np.linspace(low, high, size + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _finer(axis: Floats, used: NDArray[np.intp], size: int) -> Floats:
    if len(axis) == 1:
        return axis
    half = (axis[1] - axis[0]) / 2
    return _cells(axis[used.min()] - half, axis[used.max()] + half, size)
