"""Data with several humans a pair, and the model under which routers are compared on it (see `routing.py`).

A Bradley-Terry regression with a strength per response, the votes of the data's judges and a length feature, and
an own effect per pair, all with ridge penalties.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack, identity
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from sklearn.feature_extraction.text import HashingVectorizer

from schemas.ids import hash_fields, unit_interval

PENALTY_STRENGTH, PENALTY_PAIR, PENALTY_FEATURE = 0.3, 1.0, 0.3

Floats = NDArray[np.float64]


@dataclass
class Replay:
    """One data set: its pairs, the answers that can be bought, and the design of the model."""

    name: str
    ids: list[str]
    slices: list[str]
    n_chars: list[int]
    answers: list[list[float]]  # +1 a, -1 b, 0 tie, in the order they would come
    prompts: list[str]
    components: list[NDArray[np.int64]]  # pairs whose responses hang together, each a list of rows
    gold: Floats  # +1 a, -1 b, 0 where there is no preference
    strengths: csr_matrix
    features: Floats
    words: Any
    test: NDArray[np.bool_]

    @cached_property
    def design(self) -> csr_matrix:
        """One row a pair: strengths, features, the pair's own effect."""
        return hstack([self.strengths, csr_matrix(self.features), identity(len(self.ids))], format="csr")


def load(folder: Path, name: str, limit: int | None) -> Replay:
    """Read a data set."""
    rows = pl.read_parquet(folder / f"{name}.parquet")
    if limit:
        rows = rows.head(limit)
    sign = {"a": 1.0, "b": -1.0, "tie": 0.0, None: 0.0}
    keys = [[hash_fields(r["prompt"], r[f"response_{s}"]) for s in "ab"] for r in rows.iter_rows(named=True)]
    number = {key: i for i, key in enumerate(sorted({k for pair in keys for k in pair}))}
    n = rows.height
    at = np.array([[number[a], number[b]] for a, b in keys])
    strengths = csr_matrix((np.tile([1.0, -1.0], n), (np.repeat(np.arange(n), 2), at.ravel())), (n, len(number)))
    lengths = [(len(a), len(b)) for a, b in rows.select("response_a", "response_b").iter_rows()]
    judges = sorted({v["judge"] for votes in rows["judge_labels"].to_list() for v in votes or ()})
    features = [[np.log((1 + a) / (1 + b))] for a, b in lengths]
    for row, votes in zip(features, rows["judge_labels"].to_list(), strict=True):
        said = {v["judge"]: sign.get(v["label"], 0.0) for v in votes or ()}
        row += [said.get(judge, 0.0) for judge in judges]
    vectorizer = HashingVectorizer(n_features=2**12, alternate_sign=False, norm="l2", ngram_range=(1, 2))
    words = vectorizer.transform(rows["response_a"]) - vectorizer.transform(rows["response_b"])
    answers = [[sign[x] for x in row] for row in rows["human_labels"].to_list()]
    links = csr_matrix((np.ones(n), (at[:, 0], at[:, 1])), (len(number), len(number)))
    component = connected_components(links, directed=False)[1][at[:, 0]]
    return Replay(
        name,
        [hash_fields(x) for x in rows["id"]],
        [str(x)[:60] for x in rows["prompt"]] if rows["prompt"].n_unique() < 64 else ["all"] * n,
        [a + b + len(p) for (a, b), p in zip(lengths, rows["prompt"], strict=True)],
        answers,
        rows["prompt"].to_list(),
        [np.flatnonzero(component == c) for c in np.unique(component)],
        np.array([sign[x] for x in rows["gold"]]),
        strengths,
        np.array(features),
        words,
        held_out(rows["prompt"].to_list()),
    )


def held_out(prompts: list[str]) -> NDArray[np.bool_]:
    """A fifth of the prompts, at least one, chosen by hash: whether each pair tests the head."""
    distinct = sorted(set(prompts), key=lambda prompt: unit_interval("split", prompt))
    chosen = set(distinct[: max(1, round(len(distinct) / 5))])
    return np.array([prompt in chosen for prompt in prompts])


@dataclass
class Model:
    """The posterior: margin without a pair's own answers, what these add, its variance, and P(a better)."""

    shared: Floats
    own: Floats
    variance: Floats
    p_a: Floats
    weights: Floats  # of the regression

    @property
    def step(self) -> Floats:
        """How far one more answer moves the margin: one Newton step from even odds."""
        return np.asarray(0.5 * self.variance / (1 + self.variance / 4))


def fitted(data: Replay, wins: Floats, losses: Floats, before: Model | None = None) -> Model:
    """Maximum a posteriori, with a Laplace approximation of the margin's variance.

    Before any answer the judges' majority (or the longer response, where there is no judge) is the model.
    """
    n = len(data.ids)
    counts = wins + losses
    prior = 0.8 * data.features[:, 1:].sum(axis=1) if data.features.shape[1] > 1 else 0.3 * data.features[:, 0]
    x = data.design
    sizes = (data.strengths.shape[1], data.features.shape[1], n)
    ridge = np.repeat([PENALTY_STRENGTH, PENALTY_FEATURE, PENALTY_PAIR], sizes)

    def objective(w: Floats) -> tuple[float, Floats]:
        z = prior + x @ w
        value = (counts * np.logaddexp(0, z) - wins * z).sum() + 0.5 * (ridge * w) @ w
        return float(value), x.T @ (counts * expit(z) - wins) + ridge * w

    start = np.zeros(x.shape[1]) if before is None else before.weights
    w = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    own = w[-n:]
    shared = prior + x[:, :-n] @ w[:-n]
    p = expit(shared + own)
    variance = margin_variance(data, counts * p * (1 - p))
    return Model(shared, own, variance, expit((shared + own) / np.sqrt(1 + np.pi * variance / 8)), w)


def margin_variance(data: Replay, information: Floats) -> Floats:
    """Variance of each pair's margin given the Fisher information of its answers.

    The own effects are integrated out, so per component only the strengths' covariance is inverted: an answer
    tells of the strengths as much as `information` and the own effect's prior allow in series.
    """
    series = information * PENALTY_PAIR / (PENALTY_PAIR + information)
    variance = np.empty(len(information))
    for rows in data.components:
        part = data.strengths[rows]
        columns = np.unique(part.indices)
        x = part[:, columns].toarray()
        covariance = np.linalg.inv(PENALTY_STRENGTH * np.eye(len(columns)) + (x * series[rows, None]).T @ x)
        of_strengths = ((x @ covariance) * x).sum(axis=1)
        rest = PENALTY_PAIR / (PENALTY_PAIR + information[rows])
        variance[rows] = 1 / (PENALTY_PAIR + information[rows]) + rest**2 * of_strengths
    return variance
