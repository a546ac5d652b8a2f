"""Routers replayed on real humans: what a budget of answers buys.

    python -m tests.benchmarks.routing [--data pandalm_test,...] [--routers value,...] [--seeds 3] [--out F] [--svg F]
        [--through-product]

Every answer that the data's humans gave can be bought once, for one unit. In rounds a router values the
pairs under the model fitted on what was bought so far, the best are asked once more (the queue's discount for
pairs of one prompt applies to every router but `random`), and the model is fitted again. The model is the same
for all routers (`replayed_humans.py`); it is not the product's, whose fuser knows nothing of which responses meet again
in other pairs. `--through-product` replays through that fuser and the real queue instead (`replayed_product.py`).

Exits with 1 where `value` gains less than 95 % with 30 % of the answers, or needs more than half of what `random`
needs for 95 %; every bar missed is printed.

label accuracy: share of pairs whose gold label (the data's own aggregate of all humans) is a or b and
whose modelled label agrees. head accuracy: a logistic preference head on bags of words, trained on the modelled labels
of four fifths of the prompts, weighted by certainty, tested on the gold labels of the rest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from schemas.tables import Verdicts, polars_schema
from tests.benchmarks import replayed_product
from tests.benchmarks.replayed_humans import Floats, Model, Replay, fitted, load
from transforms.plugins.registry import find
from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.fill import uniform

DATA = ("ukpconvarg1", "pandalm_test", "wmt23_mqm_sxs_ende")
ROUTERS = ("value", "learned", "bandit", "uncertainty", "random")
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def candidates(data: Replay, model: Model, asked: NDArray[np.int64]) -> pl.DataFrame:
    """The model as routers see it."""
    said = pl.DataFrame({"n": asked, "own": model.own}).select(
        "n",
        one=pl.concat_list(
            pl.struct(
                voter=pl.lit("human:replayed"),
                n_votes=pl.col("n").cast(pl.Int32),
                label=pl.when(pl.col("own") > 0).then(pl.lit("a")).otherwise(pl.lit("b")),
                log_odds="own",
            )
        ),
    )
    contributions = said.select(pl.when(pl.col("n") > 0).then("one").otherwise(pl.col("one").list.head(0))).to_series()
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
    """Values with the discount that `transforms.routers.queue.fill` gives the further pairs of one prompt."""
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
    for key in (key for key in ("label", "head") if key in curves["random"][0]):
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


def misses(figures: dict[str, Any]) -> list[str]:
    """The bars that the figures miss."""
    missed = []
    for name, found in figures.items():
        label = found["summary"]["label"]
        gain = label["gain_at_30_percent"].get("value")
        share = label["share_for_95_percent_of_gain"]
        if gain is not None and gain < 0.95:
            missed.append(f"{name}: value gains {gain:.1%} with 30% of the answers, not 95%")
        if gain is not None and share["value"] > share["random"] / 2:
            missed.append(
                f"{name}: value needs {share['value']:.1%} of the answers for 95% of the gain, "
                f"more than half of random's {share['random']:.1%}"
            )
    return missed


def main() -> int:
    """Print the figures as JSON, 1 where a bar is missed; `--merge` takes them from earlier `--out` files instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--round", type=float, default=0.02, help="share of the answers bought in one round")
    parser.add_argument("--limit", type=int, help="only the first pairs of each file")
    parser.add_argument("--through-product", action="store_true", help="the product's fuser and queue")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--merge", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for path in options.merge:
        figures |= json.loads(path.read_text())
    threadpool_limits(limits=1)  # the vectors are small: threads that wait for each other cost ten times as much
    for name in options.data.split(",") if not options.merge else ():
        once = replay(options, name)
        curves = {}
        for router in options.routers.split(","):
            runs = [once(router, seed) for seed in range(options.seeds)]
            curves[router] = [
                {k: float(np.mean([run[i][k] for run in runs])) for k in run0} for i, run0 in enumerate(runs[0])
            ]
        figures[name] = {"summary": summary(curves), "curves": curves}
        print(name, json.dumps(figures[name]["summary"], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.svg:
        draw(figures, options.svg)
    missed = misses(figures)
    for bar in missed:
        print(f"MISSED: {bar}")
    return 1 if missed else 0


def replay(options: argparse.Namespace, name: str) -> Callable[[str, int], list[dict[str, float]]]:
    """A data set read, and how one router is replayed on it with one seed."""
    if options.through_product:
        product = replayed_product.load(options.folder, name, options.limit)
        return lambda router, seed: replayed_product.curve(product, router, seed)
    data = load(options.folder, name, options.limit)
    return lambda router, seed: curve(data, router, seed, options.round)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Label accuracy against budget, a plot per data set."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams |= {"svg.hashsalt": "prefine", "svg.fonttype": "none", "font.size": 9}
    figure = Figure(figsize=(4.0 * len(figures), 3.1), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures.items(), strict=True):
        label = found["summary"]["label"]
        for router, points in found["curves"].items():
            axes.plot([p["share"] for p in points], [p["label"] for p in points], label=router, linewidth=1.4)
        axes.axhline(label["none"] + 0.95 * (label["all"] - label["none"]), color="0.6", linewidth=0.8, linestyle="--")
        axes.set(title=name, xlabel="share of all human answers", ylabel="label accuracy", xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
