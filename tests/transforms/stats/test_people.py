"""All statistics of people together: each what its own function says, in words and as JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from crowdkit.metrics.data import alpha_krippendorff
from rich.console import Console

from tests.transforms.stats.test_reliability import N, world
from transforms.report.people_tables import render, sentences
from transforms.stats.people import People, people_statistics


def statistics(**options: object) -> tuple[People, pl.DataFrame]:
    answers, verdicts, known, n_chars = world()
    rng = np.random.default_rng(4)
    strength = rng.integers(1, 5, answers.height)
    answers = answers.with_columns(
        pl.when(pl.col("label").is_in(["a", "b"])).then(pl.Series(strength)).alias("strength"),
        pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit("both_bad")).otherwise("label").alias("label"),
    )
    pairs = n_chars.with_columns(kind=pl.lit("chat"), language=pl.lit(None, dtype=pl.String), origin=pl.lit("x"))
    votes = pl.DataFrame(
        {"pair_id": pairs["pair_id"], "voter": ["judge"] * N, "kind": ["judge"] * N, "label": ["a"] * N}
    )
    return people_statistics(answers, verdicts, known, pairs, votes, **options), answers  # type: ignore[arg-type]


def test_alpha_takes_both_bad_for_a_tie_and_agrees_with_another_library() -> None:
    found, answers = statistics()
    said = answers.filter(~pl.col("cancelled")).with_columns(pl.col("label").replace("both_bad", "tie"))
    theirs = said.select(task="pair_id", worker="annotator", label="label").to_pandas()
    assert found.alpha.alpha == pytest.approx(alpha_krippendorff(theirs), abs=1e-9)
    assert found.alpha.low < found.alpha.alpha < found.alpha.high
    assert not math.isnan(found.alpha_strength.alpha)
    assert (found.answers, found.skips, found.pairs) == (said.height, answers.height - said.height, N)


def test_careless_people_are_named_and_judges_compared_per_slice() -> None:
    found, _ = statistics()
    assert {"first", "lazy"} <= set(found.suspicions["annotator"])
    assert not {"good", "fine"} & set(found.suspicions["annotator"])
    assert set(found.judges["slice"]) == {"kind", "language", "origin"}
    assert found.judges.filter(slice="language")["value"].to_list() == ["unknown"]
    assert found.judges["pairs"].n_unique() == 1


def test_the_figures_are_json_and_words() -> None:
    found, _ = statistics(waiting=7, outlook={"labels": 100, "gain": 3.25, "regret": 1.5})
    assert json.loads(json.dumps(found.as_dict()))["waiting"] == 7
    text = " ".join(sentences(found))
    for part in ("7 pairs still wait", "Krippendorff", "next 100 labels", "3.2", "Regret of the bandit"):
        assert part in text
    console = Console(width=200, record=True, quiet=True)
    console.print(render(found))
    assert found.annotators.height == 4
