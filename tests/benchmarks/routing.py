"""Routers replayed on real humans: what a budget of answers buys.

    python -m tests.benchmarks.routing [--data pandalm_test,...] [--routers value,...] [--seeds 3] [--out F] [--html F]

Every answer that the data's humans gave can be bought once, for one unit. In rounds a router values the
pairs under the model fitted on what was bought so far, the best are asked once more (the queue's discount for
pairs of one prompt applies to every router but `random`), and the model is fitted again. The model is the same
for all routers: a Bradley-Terry regression with a strength per response, the votes of the data's judges and a
length feature, and an own effect per pair, all with ridge penalties.

label accuracy: share of pairs whose gold label (the data's own aggregate of all humans) is a or b and
whose modelled label agrees. head accuracy: a logistic preference head on bags of words, trained on the modelled labels
of four fifths of the prompts, weighted by certainty, tested on the gold labels of the rest.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
from sklearn.linear_model import LogisticRegression

from schemas.ids import hash_fields, unit_interval
from schemas.tables import Verdicts, polars_schema
from transforms.registry import find
from transforms.routers._queue import QueueConfig, uniform

DATA = ("ukpconvarg1", "pandalm_test", "wmt23_mqm_sxs_ende")
ROUTERS = ("value", "learned", "bandit", "uncertainty", "random")
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
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


def candidates(data: Replay, model: Model, asked: NDArray[np.int64]) -> pl.DataFrame:
    """The model as routers see it."""
    contributions = [
        [{"voter": "human:replayed", "n_votes": int(k), "label": "a" if d > 0 else "b", "log_odds": float(d)}]
        if k
        else []
        for d, k in zip(model.own, asked, strict=True)
    ]
    n = len(data.ids)
    return pl.DataFrame(
        {
            "pair_id": data.ids,
            "p_a": model.p_a,
            "p_tie": np.zeros(n),
            "certainty": np.maximum(model.p_a, 1 - model.p_a),
            "disagreement": np.zeros(n),
            "prior": model.shared,
            "contributions": contributions,
            "kind": data.slices,
            "language": ["en"] * n,
            "origin": [data.name] * n,
            "n_chars": data.n_chars,
            "step": model.step,
        },
        schema_overrides={"contributions": polars_schema(Verdicts)["contributions"]},
    )


def accuracies(data: Replay, model: Model) -> tuple[float, float]:
    """Label accuracy, and accuracy of a head trained on the labels."""
    decided = data.gold != 0
    label = float(((model.p_a > 0.5) == (data.gold > 0))[decided].mean())
    train, test = ~data.test & decided, data.test & decided
    head = LogisticRegression(C=1.0, fit_intercept=False, max_iter=200)
    y = model.p_a[train] > 0.5
    head.fit(data.words[train], y, sample_weight=np.abs(2 * model.p_a[train] - 1) + 1e-3)
    return label, float((head.predict(data.words[test]) == (data.gold[test] > 0)).mean())


def curve(data: Replay, router: str, seed: int, round_share: float) -> list[dict[str, float]]:
    """Accuracy at every share of the answers, bought in rounds of `round_share`."""
    rng = np.random.default_rng(seed)
    answers = [[row[i] for i in rng.permutation(len(row))] for row in data.answers]
    available = np.array([len(row) for row in answers])
    asked = np.zeros(len(answers), dtype=np.int64)
    wins, losses = np.zeros(len(answers)), np.zeros(len(answers))
    cls = find("routers", router)
    points: list[dict[str, float]] = []
    total = int(available.sum())
    model = fitted(data, wins, losses)
    for share in SHARES:
        while asked.sum() < round(share * total):
            rows = candidates(data, model, asked)
            plugin = cls(router, cls.Config(), seed * 1000 + len(points))
            values = plugin.values(plugin.fit(rows.filter(pl.Series(asked > 0))), rows).to_numpy()
            # The routers' ties, and all of random's order, are broken by a draw that differs every round.
            draws = np.array(uniform(data.ids, seed, f"{router}{int(asked.sum())}"))
            priority = draws if router == "random" else priorities(data, values, draws, asked < available)
            order = np.lexsort((draws, -priority))
            step = min(round(share * total) - int(asked.sum()), round(round_share * total))
            order = order[asked[order] < available[order]][:step]
            said = np.array([answers[i][asked[i]] for i in order])
            wins[order] += (1 + said) / 2
            losses[order] += (1 - said) / 2
            asked[order] += 1
            model = fitted(data, wins, losses, model)
        label, head = accuracies(data, model)
        points.append({"share": share, "answers": int(asked.sum()), "label": label, "head": head})
    return points


def priorities(data: Replay, values: Floats, draws: Floats, open_: NDArray[np.bool_]) -> Floats:
    """Values with the discount that `transforms.routers._queue` gives the further pairs of one prompt."""
    frame = pl.DataFrame({"prompt_id": data.prompts, "value": values, "draw": draws, "open": open_})
    place = pl.struct(~pl.col("open"), -pl.col("value"), "draw").rank("ordinal").over("prompt_id") - 1
    discounted = pl.col("value") * pl.lit(QueueConfig().same_prompt_decay).pow(place)
    return frame.select(discounted.cast(pl.Float64)).to_series().to_numpy()


def share_needed(points: list[dict[str, float]], level: float, key: str = "label") -> float:
    """The smallest share of answers with which the accuracy reaches `level`, linear between points."""
    for before, after in itertools.pairwise(points):
        if after[key] >= level:
            step = (level - before[key]) / max(after[key] - before[key], 1e-12)
            return float(before["share"] + max(0.0, step) * (after["share"] - before["share"]))
    return 1.0


def summary(curves: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Share of the gain of all answers reached with 30% of them, and answers needed for 95% of the gain."""
    out: dict[str, Any] = {}
    for key in ("label", "head"):
        floor = curves["random"][0][key]
        ceiling = float(np.mean([points[-1][key] for points in curves.values()]))
        level = floor + 0.95 * (ceiling - floor)
        out[key] = {
            "none": floor,
            "all": ceiling,
            "gain_at_30_percent": {
                r: (next(p[key] for p in points if p["share"] == 0.3) - floor) / (ceiling - floor)
                for r, points in curves.items()
            },
            "share_for_95_percent_of_gain": {r: share_needed(points, level, key) for r, points in curves.items()},
        }
    return out


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--round", type=float, default=0.02, help="share of the answers bought in one round")
    parser.add_argument("--limit", type=int, help="only the first pairs of each file")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--html", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in options.data.split(","):
        data = load(options.folder, name, options.limit)
        curves = {}
        for router in options.routers.split(","):
            runs = [curve(data, router, seed, options.round) for seed in range(options.seeds)]
            curves[router] = [
                {k: float(np.mean([run[i][k] for run in runs])) for k in run0} for i, run0 in enumerate(runs[0])
            ]
        figures[name] = {"summary": summary(curves), "curves": curves}
        print(name, json.dumps(figures[name]["summary"], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.html:
        draw(figures, options.html)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Accuracy against budget, one row of plots per data set."""
    from plotly.subplots import make_subplots

    names = list(figures)
    titles = [f"{name}: {key} accuracy" for name in names for key in ("label", "head")]
    figure = make_subplots(rows=len(names), cols=2, subplot_titles=titles)
    for row, name in enumerate(names, start=1):
        for column, key in enumerate(("label", "head"), start=1):
            for router, points in figures[name]["curves"].items():
                figure.add_scatter(
                    x=[p["share"] for p in points], y=[p[key] for p in points], name=router, row=row, col=column,
                    legendgroup=router, showlegend=row == column == 1,
                )  # fmt: skip
    figure.update_xaxes(title="share of all human answers")
    figure.write_html(path)


if __name__ == "__main__":
    main()
