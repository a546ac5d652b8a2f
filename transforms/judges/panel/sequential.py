"""Sequential panel: judges are asked in order of what they tell per cost, and a pair only as long as it is worth it.

A judge's word on a pair is a number x in [-1, 1]: 2 p_a - 1 if it gives a probability, else +1, 0, -1 for a, tie,
b, averaged over its orders and samples; NaN where it has not spoken. After k judges, P(a) = expit(w_k . x_1..k) with
weights fitted for exactly these k judges, so that judges who share errors do not count twice (naive Bayes over
correlated judges is certain long before it is right). There is no intercept: which response is stored as `a` is a
hash's choice.

A pair is asked no more when P(its label) reaches `stop_certainty`, or when the rest of the panel would change its
label with a probability of at most `min_change` (learned on held-out pairs from how far |w_k . x| was from 0).
This is our own rule, in the spirit of Wald's sequential test; no paper's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import scipy
from numpy.typing import NDArray

from schemas.ids import canonical_json, unit_interval
from schemas.tables import Row
from transforms.judges.base import STATES, Judge
from transforms.llm.request import Ask
from transforms.stats.logistic import fit_logistic

Floats = NDArray[np.float64]
FOLDS = 5
PRIOR_ACCURACY = 0.7  # of a judge nobody has measured
PRIOR_CORRELATION = 0.3  # between the errors of judges nobody has measured


@dataclass(frozen=True)
class PanelModel:
    """How much each judge's word counts after each round.

    Attributes:
        judges: names, in the order in which they are asked.
        weights: (k, k) lower triangular; row i holds the weights once judges 0..i were asked.
        change: (k, 2) intercept and slope over |z| of the logit of P(the full panel says otherwise).
    """

    judges: tuple[str, ...]
    weights: Floats
    change: Floats

    def log_odds(self, words: Floats) -> Floats:
        """Log-odds of `a` after every round.

        Args:
            words: (n, k) in [-1, 1], NaN where a judge has not spoken.

        Returns:
            (n, k); column i uses judges 0..i.
        """
        return np.nan_to_num(words) @ self.weights.T

    def done(self, z: Floats, asked: int, stop_certainty: float, min_change: float) -> NDArray[np.bool_]:
        """Which pairs need no further judge, given log-odds (n,) after `asked` judges."""
        certain = scipy.special.expit(np.abs(z)) >= stop_certainty
        intercept, slope = self.change[asked - 1]
        return np.asarray(certain | (scipy.special.expit(intercept + slope * np.abs(z)) <= min_change))

    def most_certain(self, asked: int) -> float:
        """The highest P(the label) that `asked` judges can bring about: all agree without a doubt."""
        return float(scipy.special.expit(np.abs(self.weights[asked - 1]).sum())) if asked else 0.5

    def to_json(self) -> bytes:
        """The model as JSON; an intercept without bound is null."""
        change = [[None if math.isinf(value) else value for value in row] for row in self.change.tolist()]
        return canonical_json({"judges": list(self.judges), "weights": self.weights.tolist(), "change": change})

    @classmethod
    def from_json(cls, data: bytes) -> PanelModel:
        """What `to_json` wrote."""
        stored = orjson.loads(data)
        change = [[math.inf if value is None else value for value in row] for row in stored["change"]]
        return cls(tuple(stored["judges"]), np.array(stored["weights"]), np.array(change))


def untrained_panel(judges: Sequence[str]) -> PanelModel:
    """The panel before any human label: equal judges, right 70% of the time, with errors correlated by 0.3.

    Only certainty stops it: how often the rest would change a label is unknown. Judges whose errors go together grow
    certain to a limit: agreement of two means P = .79, of three .83, of ten .91, of any number less than .95.
    """
    k = len(judges)
    weight = float(scipy.special.logit(PRIOR_ACCURACY))
    rows = np.array([[weight / (1 + PRIOR_CORRELATION * i)] * (i + 1) + [0.0] * (k - 1 - i) for i in range(k)])
    return PanelModel(tuple(judges), rows.reshape(k, k), np.tile([math.inf, 0.0], (k, 1)))


def fit_panel(
    words: Floats,
    labels: Floats,
    groups: Sequence[str],
    judges: Sequence[str],
    costs: Sequence[float] | None = None,
    *,
    reorder: bool = True,
    seed: int = 0,
) -> PanelModel:
    """Learn order, weights and stopping from pairs with human labels.

    Args:
        words: (n, k) in [-1, 1], NaN where a judge has not spoken.
        labels: (n,) 1 where a is better, 0 where b is; ties are left out by the caller.
        groups: (n,) prompts; pairs of one prompt share a fold.
        judges: k names.
        costs: k positive costs of asking; default: equal.
        reorder: ask the most telling per cost first; else in the given order.
        seed: of the folds.

    Raises:
        ValueError: shapes disagree or there are no labels.
    """
    n, k = words.shape
    if not n or len(labels) != n or len(groups) != n or len(judges) != k:
        raise ValueError(f"words {words.shape}, {len(labels)} labels, {len(groups)} groups, {len(judges)} judges")
    order = telling_order(words, labels, costs or [1.0] * k) if reorder else list(range(k))
    words = np.nan_to_num(words[:, order])
    fold = np.array([int(unit_interval("panel", str(seed), group) * FOLDS) for group in groups])
    held_out = np.zeros((n, k))
    for number in range(FOLDS):
        test = fold == number
        if test.any() and not test.all():
            held_out[test] = words[test] @ _weights(words[~test], labels[~test]).T
    change = np.stack([_change(held_out[:, i], held_out[:, -1]) for i in range(k)])
    return PanelModel(tuple(judges[i] for i in order), _weights(words, labels), change)


def telling_order(words: Floats, labels: Floats, costs: Sequence[float]) -> list[int]:
    """Judges by how much they add to those before them, per cost: greedy, by the drop in logistic loss.

    The score of a candidate is the gradient of the loss along its word (its correlation with the residual),
    standardised: one pass per place, so k judges cost O(k^2 n).
    """
    x, target = np.nan_to_num(words), labels.astype(np.float64)
    price = np.sqrt(np.asarray(costs, dtype=np.float64))
    left, order = list(range(x.shape[1])), list[int]()
    z: Floats = np.zeros(len(target))
    while left:
        p = scipy.special.expit(z)
        residual = target - p
        spread = np.sqrt((p * (1 - p)) @ (x[:, left] ** 2) + 1e-9)
        gain = np.maximum(residual @ x[:, left], 0.0) / spread / price[left]
        order.append(left.pop(int(np.argmax(gain))))
        z = x[:, order] @ _fit(x[:, order], target)
    return order


def words_of(votes: Sequence[Row], judges: Sequence[str]) -> dict[str, Floats]:
    """Each pair's words by pair_id: (k,) with NaN for judges that have not spoken or gave no valid vote."""
    place = {name: index for index, name in enumerate(judges)}
    sums: dict[str, dict[int, list[float]]] = {}
    for vote in votes:
        index = place.get(vote["voter"])
        if index is not None:
            words = sums.setdefault(vote["pair_id"], {}).setdefault(index, [])
            if vote["label"] not in STATES:
                words.append(word(vote))
    out: dict[str, Floats] = {}
    for pair_id, by_judge in sums.items():
        row = np.full(len(judges), np.nan)
        for index, words in by_judge.items():
            if words:
                row[index] = sum(words) / len(words)
        out[pair_id] = row
    return out


def word(vote: Mapping[str, Any]) -> float:
    """A valid vote as a number in [-1, 1], positive for a."""
    if vote["p_a"] is not None:
        return float(2.0 * vote["p_a"] - 1.0)
    return {"a": 1.0, "b": -1.0, "tie": 0.0}[vote["label"]]


async def panel_votes(
    judges: Sequence[Judge],
    pairs: Sequence[Row],
    ask: Ask,
    model: PanelModel | None = None,
    stop_certainty: float = 1.0,
    min_change: float = 0.0,
) -> list[Row]:
    """Votes of a panel on the pairs of one prompt.

    With `stop_certainty` 1 and `min_change` 0 every judge is asked about every pair, all at once. Else judges are
    asked in the model's order, each about the pairs that are still open.
    """
    if stop_certainty >= 1.0 and min_change <= 0.0:
        by_judge = await asyncio.gather(*(judge.votes(pairs, ask) for judge in judges))
        return [vote for votes in by_judge for vote in votes]
    model = model or untrained_panel([judge.name for judge in judges])
    named = {judge.name: judge for judge in judges}
    votes: list[Row] = []
    open_pairs = list(pairs)
    for asked, name in enumerate(model.judges, start=1):
        if not open_pairs:
            break
        votes += await named[name].votes(open_pairs, ask)
        words = words_of(votes, model.judges)
        silent = np.full(len(model.judges), np.nan)
        z = model.log_odds(np.stack([words.get(pair["pair_id"], silent) for pair in open_pairs]))[:, asked - 1]
        done = model.done(z, asked, stop_certainty, min_change)
        open_pairs = [pair for pair, finished in zip(open_pairs, done, strict=True) if not finished]
    return votes


def _fit(x: Floats, target: Floats) -> Floats:
    """Ridge logistic weights around equal trust; the prior's variance shrinks as judges become many."""
    d = x.shape[1]
    mean = np.full(d, 1.0 / d)
    return fit_logistic(x, target, np.ones(len(target)), mean, np.full(d, 2.0 / d)).weights


def _weights(words: Floats, labels: Floats) -> Floats:
    k = words.shape[1]
    weights = np.zeros((k, k))
    for i in range(k):
        weights[i, : i + 1] = _fit(words[:, : i + 1], labels)
    return weights


def _change(now: Floats, final: Floats) -> Floats:
    """Intercept and slope over |now| of the logit of P(sign changes by the end)."""
    changed = (np.sign(now) != np.sign(final)).astype(np.float64)
    design = np.column_stack([np.ones(len(now)), np.abs(now)])
    prior_mean, prior_variance = np.array([0.0, -1.0]), np.array([10.0, 10.0])
    fit = fit_logistic(design, changed, np.ones(len(now)), prior_mean, prior_variance).weights
    return np.array([fit[0], min(fit[1], 0.0)])
