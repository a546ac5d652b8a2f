"""Collaborative reward modelling: two heads that select training pairs for each other.

CRM trains two reward models; each passes the pairs on which its own loss is low to its peer, keeping the share
1 - eta of the data (eta: noise rate), and epochs go from easy to hard by margin. In the paper eta is given by
the user; here it is estimated. Known to us from a third party's note, and there with gradient steps on batches;
here every epoch solves the convex Bradley-Terry problem on the selected pairs (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.stats.bradley_terry import Loss, fit_head
from transforms.stats.noise_rate import estimate_flip_rate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Peers:
    """`weights` (2, d) of the two heads, `selected` (2, n) the pairs each was last trained on, `flip` estimated."""

    weights: Array
    selected: NDArray[np.bool_]
    flip: float


def peer_review(
    x: Array,
    y: Array,
    weight: Array,
    halves: NDArray[np.int64],
    ridge: float,
    epochs: int = 5,
    flip: float | None = None,
) -> Peers:
    """Train two heads by peer review.

    Args:
        x: difference features (n, d). y: labels in [0, 1] (n,). weight: weights of labels (n,).
        halves: 0 or 1 per pair (n,), equal within a group: head h starts from half h, so the heads differ and each
            judges the other half without having seen it.
        ridge: penalty of both heads.
        epochs: rounds of selection; the kept share grows linearly from half of 1 - flip to 1 - flip.
        flip: noise rate; None estimates it from the margins each starting head gives to the half it did not see.
    """
    mine = [halves == 0, halves == 1]
    heads = [fit_head(x[rows], y[rows], weight[rows], ridge) for rows in mine]
    if flip is None:
        unseen = np.where(mine[0], x @ heads[1], x @ heads[0])
        flip = estimate_flip_rate(unseen, y, weight).flip
    selected = np.stack(mine)
    loss = Loss("logistic")
    for epoch in range(1, epochs + 1):
        share = (1.0 - flip) * (0.5 + 0.5 * epoch / epochs)
        selected = np.stack([select_low_loss(loss.value_and_slope(x @ heads[1 - h], y)[0], share) for h in (0, 1)])
        heads = [fit_head(x[rows], y[rows], weight[rows], ridge) for h, rows in enumerate(selected)]
    return Peers(np.stack(heads), selected, flip)


def select_low_loss(losses: Array, share: float) -> NDArray[np.bool_]:
    """Mask of the ceil(share n) pairs with the smallest loss; of equal losses the earlier rows."""
    mask = np.zeros(len(losses), dtype=bool)
    mask[np.argsort(losses, kind="stable")[: int(np.ceil(share * len(losses)))]] = True
    return mask
