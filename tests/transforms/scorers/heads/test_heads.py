from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from schemas.errors import WorkspaceError
from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import Votes, rows_frame
from tests.transforms.scorers.pair_rows import LetterEmbedder, frame, no_votes, pair_row, planted, swapped
from transforms.plugins.registry import find
from transforms.scorers.heads.base import pair_graph
from transforms.scorers.heads.ensemble import Ensemble
from transforms.scorers.heads.partition import hashed_folds
from transforms.scorers.heads.targets import TargetWeights, stratified_prompts, targets

HEADS = ("bt_heads", "crm")


def scorer(name: str = "bt_heads", seed: int = 0, **config: Any) -> Any:
    cls = find("scorers", name)
    plugin = cls(name, cls.Config(**config), seed)
    plugin._embedder = LetterEmbedder()
    return plugin


def human_vote(pair_id: str, label: str, voter: str = "h", kind: str = "human") -> dict[str, Any]:
    return {
        "vote_id": hash_fields(pair_id, voter),
        "pair_id": pair_id,
        "voter": voter,
        "voter_group": voter,
        "kind": kind,
        "order": "none",
        "sample": 0,
        "label": label,
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
    }


def accuracy(votes: pl.DataFrame, pairs: pl.DataFrame, truth: list[str]) -> float:
    label = dict(votes.select("pair_id", "label").iter_rows())
    return float(np.mean([label[p] == t for p, t in zip(pairs["pair_id"], truth, strict=True)]))


@pytest.mark.parametrize("name", HEADS)
def test_learns_a_planted_preference_through_wrong_labels(name: str) -> None:
    pairs, truth = planted(250, flip=0.25)
    plugin = scorer(name)
    votes = plugin.votes(pairs, plugin.fit(pairs, no_votes()))
    Votes.validate(votes)
    assert votes.height == pairs.height
    assert accuracy(votes, pairs, truth) > 0.9
    aspects = json.loads(votes["aspects"][0])
    assert aspects["sees_label"] is True
    assert aspects["mu"] == pytest.approx(np.mean(aspects["heads"]), abs=1e-5)
    assert aspects["sigma"] == pytest.approx(np.std(aspects["heads"]), abs=1e-5)
    assert votes["score_a"][0] - votes["score_b"][0] == pytest.approx(aspects["mu"])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("flip", [0.05, 0.3])
def test_says_how_many_labels_are_wrong(name: str, flip: float) -> None:
    pairs, _ = planted(250, flip=flip)
    model = scorer(name).fit(pairs, no_votes())
    assert Ensemble.from_bytes(model).noise.flip == pytest.approx(flip, abs=0.12)
    assert Ensemble.from_bytes(model).to_bytes() == model


@pytest.mark.parametrize("name", HEADS)
def test_same_seed_same_bytes_whatever_the_row_order(name: str) -> None:
    pairs, _ = planted(80, per_prompt=2, flip=0.1)
    model = scorer(name).fit(pairs, no_votes())
    assert scorer(name).fit(pairs.sample(fraction=1.0, shuffle=True, seed=3), no_votes()) == model
    assert scorer(name, seed=1).fit(pairs, no_votes()) != model


@pytest.mark.parametrize("name", HEADS)
def test_exchanging_a_and_b_mirrors_the_votes(name: str) -> None:
    pairs, _ = planted(80, per_prompt=2, flip=0.1)
    one, two = scorer(name), scorer(name)
    votes = one.votes(pairs, one.fit(pairs, no_votes()))
    mirror = two.votes(swapped(pairs), two.fit(swapped(pairs), no_votes()))
    assert np.allclose(votes["p_a"], 1 - mirror["p_a"], atol=1e-4)


def test_a_pair_is_scored_the_same_in_any_bucket() -> None:
    pairs, _ = planted(60, per_prompt=3, flip=0.1)
    plugin = scorer()
    model = plugin.fit(pairs, no_votes())
    whole = plugin.votes(pairs, model)
    half = {p: hash_fields(p) < "8" for p in pairs["prompt_id"]}
    parts = [
        plugin.votes(pairs.filter(pl.Series([half[p] is side for p in pairs["prompt_id"]])), model)
        for side in (True, False)
    ]
    together = pl.concat(parts).sort("vote_id")
    assert np.allclose(together["p_a"], whole.sort("vote_id")["p_a"], atol=1e-12)


def test_no_head_saw_the_prompt_it_scores() -> None:
    pairs, _ = planted(60, flip=0.1)
    target = pairs["prompt_id"][7]
    other = pairs.with_columns(
        source_label=pl.when(pl.col("prompt_id") == target)
        .then(pl.when(pl.col("source_label") == "a").then(pl.lit("b")).otherwise(pl.lit("a")))
        .otherwise("source_label")
    )
    models = [Ensemble.from_bytes(scorer(siblings=False).fit(p, no_votes())) for p in (pairs, other)]
    fold = int(hashed_folds([target], 5, 0)[0])
    assert np.array_equal(models[0].weights[fold], models[1].weights[fold])
    assert not np.array_equal(models[0].weights, models[1].weights)


def one_prompt(n: int, flip: float) -> tuple[pl.DataFrame, list[str]]:
    """Pairs of one prompt whose responses meet in a ring and across it, so that they cannot be divided without cuts."""
    pairs, _ = planted(n)
    texts = pairs["response_a"].to_list()
    merit = [text[0]["content"].split().count("good") for text in texts]
    rng, rows, truth = np.random.default_rng(4), [], []
    for i in range(n):
        for j in ((i + 1) % n, (i + n // 3) % n):
            if merit[i] != merit[j]:
                truth.append("a" if merit[i] > merit[j] else "b")
                given = mirrored(truth[-1]) if rng.random() < flip else truth[-1]
                rows.append(pair_row("p", texts[i][0]["content"], texts[j][0]["content"], given))
    return frame(rows), truth


@pytest.mark.parametrize("name", HEADS)
def test_one_prompt_teaches_and_no_head_saw_the_label_it_scores(name: str) -> None:
    pairs, truth = one_prompt(150, flip=0.2)
    plugin = scorer(name, **({"siblings": False} if name == "bt_heads" else {}))
    model = plugin.fit(pairs, no_votes())
    assert accuracy(plugin.votes(pairs, model), pairs, truth) > 0.85
    one = pairs["pair_id"][7]
    turned = pairs.with_columns(
        source_label=pl.when(pl.col("pair_id") == one)
        .then(pl.col("source_label").replace({"a": "b", "b": "a"}))
        .otherwise("source_label")
    )
    before, after = Ensemble.from_bytes(model), Ensemble.from_bytes(plugin.fit(turned, no_votes()))
    assert before.partition.divided
    folds = before.partition.folds([pairs["prompt_id"][0]], pair_graph(pairs.filter(pair_id=one)))
    for fold in range(5):
        assert np.array_equal(before.weights[fold], after.weights[fold]) == (fold in folds[0])


@pytest.mark.parametrize("name", HEADS)
def test_a_divided_prompt_is_mirrored_and_read_again(name: str) -> None:
    pairs, _ = one_prompt(60, flip=0.1)
    one, two = scorer(name), scorer(name)
    model = one.fit(pairs, no_votes())
    assert Ensemble.from_bytes(model).to_bytes() == model
    assert one.fit(pairs.sample(fraction=1.0, shuffle=True, seed=3), no_votes()) == model
    votes, mirror = one.votes(pairs, model), two.votes(swapped(pairs), two.fit(swapped(pairs), no_votes()))
    assert np.allclose(votes["p_a"], 1 - mirror["p_a"], atol=1e-4)
    # A pair that was not in the sample is scored too, and a response that was in none.
    few = one.fit(pairs.head(70), no_votes())
    assert one.votes(pairs, few).height == pairs.height


def hidden_ranks(n_prompts: int) -> pl.DataFrame:
    """All six pairs of four responses whose texts say nothing of their rank, transitively labelled."""
    rng = np.random.default_rng(8)
    rows = []
    for p in range(n_prompts):
        texts = ["".join(rng.choice(list("abcdefghij"), size=12)) for _ in range(4)]
        rows += [pair_row(f"prompt {p}", x, y, "a") for i, x in enumerate(texts) for y in texts[i + 1 :]]
    pairs = frame(rows)
    coin = np.random.default_rng(9).random(len(pairs)) < 0.5
    return pl.concat([pairs.filter(pl.Series(~coin)), swapped(pairs.filter(pl.Series(coin)))])


def test_siblings_see_every_label_but_the_pairs_own() -> None:
    pairs = hidden_ranks(60)
    plugin = scorer()
    model = plugin.fit(pairs, no_votes())
    one = pairs["pair_id"][0]
    wrong = {"a": "b", "b": "a"}
    labels = [wrong[label] if p == one else label for p, label in pairs.select("pair_id", "source_label").iter_rows()]
    flipped = pairs.with_columns(source_label=pl.Series(labels))
    before, after = (dict(plugin.votes(p, model).select("pair_id", "p_a").iter_rows()) for p in (pairs, flipped))
    assert before[one] == pytest.approx(after[one], abs=1e-12)
    assert any(abs(before[p] - after[p]) > 0.01 for p in before if p != one)


@pytest.mark.parametrize("kind", ["human", "judge"])
def test_siblings_hear_people_and_silver_as_they_hear_the_source(kind: str) -> None:
    """The same labels say the same of the prompt's other pairs, whoever gave them, and nothing of their own pair."""
    pairs = hidden_ranks(60)
    rows = [human_vote(p, t, kind=kind) for p, t in pairs.select("pair_id", "source_label").iter_rows()]
    blank = pairs.with_columns(source_label=pl.lit(None, dtype=pl.String))
    plugin = scorer(human_weight=1.0, silver_weight=1.0)
    assert plugin.reads_votes
    answers = rows_frame(rows, Votes)
    model = plugin.fit(blank, answers)
    assert model == plugin.fit(pairs, no_votes())
    voted = plugin.votes(blank, model, answers)
    assert voted["p_a"].to_list() == plugin.votes(pairs, model)["p_a"].to_list()
    one = pairs["pair_id"][0]
    turned = answers.with_columns(
        label=pl.when(pl.col("pair_id") == one).then(pl.col("label").replace({"a": "b", "b": "a"})).otherwise("label")
    )
    before, after = (
        dict(plugin.votes(blank, model, a).select("pair_id", "p_a").iter_rows()) for a in (answers, turned)
    )
    assert before[one] == pytest.approx(after[one], abs=1e-12)
    assert any(abs(before[p] - after[p]) > 0.01 for p in before if p != one)


def test_siblings_find_what_the_heads_cannot() -> None:
    pairs = hidden_ranks(60)
    share = {}
    for siblings in (True, False):
        plugin = scorer(siblings=siblings)
        votes = plugin.votes(pairs, plugin.fit(pairs, no_votes()))
        share[siblings] = accuracy(votes, pairs, pairs["source_label"].to_list())
    assert share[True] > 0.7
    assert share[False] < 0.65


def test_context_makes_another_question() -> None:
    rows = [pair_row("p", "bad", "good", "b"), pair_row("p", "bad", "good", "a", context="prefer the worse")]
    plugin = scorer()
    train, _ = planted(60, per_prompt=3)
    votes = plugin.votes(frame(rows), plugin.fit(train, no_votes()))
    assert [json.loads(a)["siblings"] for a in votes["aspects"]] == [0.0, 0.0]


def test_without_any_label_nothing_is_learnt_and_nobody_votes() -> None:
    pairs, _ = planted(10)
    blank = pairs.with_columns(source_label=pl.lit(None, dtype=pl.String))
    plugin = scorer()
    assert plugin.fit(blank, no_votes()) == b""
    assert plugin.votes(blank, b"").height == 0


def test_trains_on_humans_and_on_silver_where_there_is_no_source() -> None:
    pairs, truth = planted(200)
    blank = pairs.with_columns(source_label=pl.lit(None, dtype=pl.String))
    for kind in ("human", "judge"):
        rows = [human_vote(p, t, kind=kind) for p, t in zip(pairs["pair_id"], truth, strict=True)]
        plugin = scorer()
        votes = plugin.votes(blank, plugin.fit(blank, rows_frame(rows, Votes)))
        assert accuracy(votes, pairs, truth) > 0.9


def test_targets_weigh_source_humans_and_silver() -> None:
    pairs = frame([pair_row("1", "x", "y", "a"), pair_row("2", "x", "y"), pair_row("3", "x", "y")])
    ids = pairs["pair_id"].to_list()
    votes = [
        human_vote(ids[0], "b", "h1"),
        human_vote(ids[0], "b", "h2"),
        human_vote(ids[1], "a", "j1", "judge"),
        human_vote(ids[1], "tie", "j2", "judge"),
        human_vote(ids[1], "invalid", "j3", "judge"),
        human_vote(ids[1], "b", "me", "reward"),
    ]
    got = targets(pairs, rows_frame(votes, Votes), TargetWeights(1.0, 3.0, 0.5), "me")
    assert got["y"].to_list() == [pytest.approx(1 / 7), 0.75, None]
    assert got["weight"].to_list() == [7.0, 0.5, 0.0]


def test_sample_is_bounded_stratified_and_keeps_prompts_whole() -> None:
    rows = [
        pair_row(f"{o} {i}", f"x{k}", f"y{k}", "a") | {"origin": o}
        for o, n in (("big", 300), ("small", 30))
        for i in range(n)
        for k in range(2)
    ]
    pairs = frame(rows)
    sample = stratified_prompts(pairs, 220)
    assert dict(sample["origin"].value_counts().iter_rows()) == {"big": 200, "small": 20}
    assert sample.group_by("prompt_id").len()["len"].unique().to_list() == [2]
    assert stratified_prompts(pairs.sample(fraction=1.0, shuffle=True), 220).equals(sample)


def test_labelled_pairs_stay_in_the_sample_beside_whole_prompts() -> None:
    pairs = frame([pair_row(f"prompt {i}", f"x{k}", f"y{k}", "a") for i in range(300) for k in range(2)])
    labelled = pairs["pair_id"].gather_every(12)
    sample = stratified_prompts(pairs, 100, labelled)
    assert set(labelled) <= set(sample["pair_id"])
    assert 100 - len(labelled) <= sample.height <= 102
    drawn = sample.filter("drawn")
    assert drawn.group_by("prompt_id").len()["len"].unique().to_list() == [2]
    assert set(sample.filter(~pl.col("drawn"))["pair_id"]) <= set(labelled)
    crowded = stratified_prompts(pairs, 100, pairs["pair_id"])
    assert crowded.filter("drawn").height >= 20
    assert crowded.height <= 102


def test_embeddings_are_bought_once() -> None:
    pairs, _ = planted(20)
    plugin = scorer()
    model = plugin.fit(pairs, no_votes())
    bought = list(plugin._embedder.bought)
    assert len(bought) == len(set(bought))
    plugin.votes(pairs, model)
    assert plugin._embedder.bought == bought


def test_bytes_of_another_program_are_refused() -> None:
    with pytest.raises(WorkspaceError, match="bt_heads"):
        Ensemble.from_bytes(b"something else")


def test_identity_follows_configuration_and_embedding_model() -> None:
    base = scorer().identity
    assert scorer(heads=4).identity != base
    assert scorer(seed=1).identity != base
    assert scorer().identity == base
