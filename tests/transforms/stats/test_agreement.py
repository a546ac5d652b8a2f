"""Agreement without labels: symmetry, recovery, coverage, refusal, and copies that count once."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from transforms.stats.agreement.ballots import ballots_of, length_scale
from transforms.stats.agreement.error_rate import ErrorRate
from transforms.stats.agreement.latent_class import expectation, start, table_of
from transforms.stats.agreement.learn import Agreement, learn_agreement, truth_log_odds
from transforms.stats.calibration import expected_calibration_error
from transforms.stats.prediction_powered import Predictions, ppi_rate
from transforms.stats.vote_cells import assign_slots, cells_of, describe_voters, opinionated, valid_votes

Floats = NDArray[np.float64]


class World:
    """Pairs with a truth that follows the length a little, and voters to be added."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        ids = [f"{i:08x}" for i in range(n)]
        self.ratio = self.rng.normal(0.0, 0.7, n)
        self.pairs = pl.DataFrame({"pair_id": ids, "prompt_id": ids, "log_ratio": self.ratio})
        self.truth = np.where(self.rng.random(n) < expit(0.5 * self.ratio), 1.0, -1.0)
        self.votes: dict[str, Floats] = {}
        self.kinds: dict[str, str] = {}

    def add(self, name: str, accuracy: float, kind: str = "judge") -> Floats:
        """A voter that errs independently of everything."""
        return self.cast(name, np.where(self.rng.random(len(self.truth)) < accuracy, self.truth, -self.truth), kind)

    def cast(self, name: str, vote: Floats, kind: str = "judge") -> Floats:
        """A voter with these votes."""
        self.votes[name], self.kinds[name] = vote, kind
        return vote

    def cells(self) -> pl.DataFrame:
        """The votes as `cells_of` gives them."""
        return pl.concat(
            self.pairs.select("pair_id", pl.lit(name).alias("voter"), pl.Series("opinion", vote))
            for name, vote in self.votes.items()
        ).with_columns(pl.col("voter").alias("slot"), pl.col("voter").alias("group"))

    def learn(self) -> Agreement:
        """The model of all votes."""
        return learn_agreement(self.cells(), self.pairs, self.kinds)

    def odds(self, model: Agreement) -> Floats:
        """log-odds of a, by pair."""
        z = truth_log_odds(model, self.cells(), self.pairs)
        return np.asarray(self.pairs.join(z, on="pair_id", how="left", maintain_order="left")["z"].to_numpy())


def panel(n: int, seed: int, wrong: float, accuracies: tuple[float, ...] = (0.65, 0.75, 0.85)) -> World:
    """A source with a share of wrong labels and independent judges."""
    world = World(n, seed)
    world.add("source", 1.0 - wrong, "source")
    for index, accuracy in enumerate(accuracies):
        world.add(f"judge {index}", accuracy)
    return world


def test_exchanging_the_responses_of_any_pairs_mirrors_them_and_changes_nothing_else() -> None:
    world = panel(600, 2, 0.2)
    model = world.learn()
    odds = world.odds(model)
    turned = np.where(np.random.default_rng(2).random(600) < 0.5, -1.0, 1.0)
    world.votes = {name: vote * turned for name, vote in world.votes.items()}
    world.pairs = world.pairs.with_columns(pl.col("log_ratio") * pl.Series(turned))
    other = world.learn()
    assert [v.weight for v in other.voters] == pytest.approx([v.weight for v in model.voters], abs=1e-6)
    assert other.rate is not None
    assert model.rate is not None
    assert (other.rate.low, other.rate.high) == pytest.approx((model.rate.low, model.rate.high), abs=1e-5)
    np.testing.assert_allclose(world.odds(other), odds * turned, atol=1e-5)


def test_the_order_of_rows_says_nothing() -> None:
    world = panel(300, 3, 0.1)
    cells = world.cells()
    shuffled = learn_agreement(
        cells.sample(fraction=1.0, shuffle=True, seed=1),
        world.pairs.sample(fraction=1.0, shuffle=True, seed=2),
        dict(reversed(world.kinds.items())),
    )
    assert shuffled.to_json() == world.learn().to_json()


def test_the_model_survives_json() -> None:
    model = panel(300, 4, 0.1).learn()
    assert Agreement.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_planted_reliabilities_are_recovered_and_the_posterior_is_calibrated() -> None:
    accuracies = (0.6, 0.7, 0.8, 0.9)
    world = panel(6000, 5, 0.2, accuracies)
    model = world.learn()
    judges = [v for v in model.voters if v.kind == "judge"]
    for voter, accuracy in zip(judges, accuracies, strict=True):
        assert abs(voter.weight - logit(accuracy)) < 4 * voter.error
        assert abs(voter.follows) < 0.1
    posterior = expit(world.odds(model))
    assert expected_calibration_error(posterior, (world.truth > 0).astype(np.float64)) < 0.02


def test_the_interval_covers_also_no_error_at_all() -> None:
    runs: list[tuple[float, ErrorRate | None]] = []
    for seed in range(2):
        for wrong in (0.0, 0.15, 0.35):
            world = panel(800, 100 + seed, wrong)
            realised = float((world.votes["source"] != world.truth).mean())
            runs.append((realised, world.learn().rate))
    printed = [(wrong, rate) for wrong, rate in runs if rate is not None]
    assert len(printed) >= 0.8 * len(runs)
    assert sum(rate.low <= wrong <= rate.high for wrong, rate in printed) >= 0.8 * len(printed)
    assert all(rate.high - rate.low < 0.25 for _, rate in printed)


def test_pairs_of_one_prompt_are_not_independent_evidence() -> None:
    world = panel(250, 6, 0.2)
    alone = world.learn().rate
    copies = [world.pairs.with_columns((pl.col("pair_id") + f"{copy:02x}").alias("pair_id")) for copy in range(8)]
    cells = [world.cells().with_columns((pl.col("pair_id") + f"{copy:02x}").alias("pair_id")) for copy in range(8)]
    repeated = learn_agreement(pl.concat(cells), pl.concat(copies), world.kinds).rate
    assert alone is not None
    assert repeated is not None
    assert repeated.high - repeated.low > 0.7 * (alone.high - alone.low)


@pytest.mark.parametrize(
    "accuracies", [(), (0.8,), (0.8, 0.8), (0.5, 0.5, 0.5), (0.8, 0.8, 0.5)], ids=["0", "1", "2", "coins", "one coin"]
)
def test_fewer_than_three_able_voters_identify_nothing(accuracies: tuple[float, ...]) -> None:
    model = panel(1500, 7, 0.2, accuracies).learn()
    assert model.rate is None
    assert not model.identified
    assert "label pairs" in model.why


def test_few_prompts_identify_nothing_however_many_pairs_they_have() -> None:
    world = panel(1200, 7, 0.2)
    few = pl.Series([f"prompt {i % 20}" for i in range(1200)])
    assert world.learn().identified
    world.pairs = world.pairs.with_columns(few.alias("prompt_id"))
    model = world.learn()
    assert not model.identified
    assert model.rate is None
    assert "prompts" in model.why


def test_the_rate_of_several_sources_is_that_of_all_their_labels() -> None:
    world = panel(3000, 5, 0.2)
    source = world.votes.pop("source")
    first = np.arange(3000) % 2 == 0
    good = np.where(world.rng.random(3000) < 0.05, -world.truth, world.truth)
    poor = np.where(world.rng.random(3000) < 0.35, -world.truth, world.truth)
    world.cast("alpha", np.where(first, good, 0.0), "source")
    world.cast("beta", np.where(first, 0.0, poor), "source")
    model = world.learn()
    assert model.rate is not None
    assert model.rate.low <= 0.2 <= model.rate.high
    assert model.n_rate == len(source)
    world.votes["beta"] = np.where(first, 0.0, world.rng.choice([-1.0, 1.0], 3000))  # a coin's labels
    unknown = world.learn()
    assert unknown.identified
    assert unknown.rate is None
    assert "beta" in str(unknown.unknown)


def test_a_tie_is_no_opinion_whatever_the_position_bias() -> None:
    rows = [
        {"pair_id": f"{i:032x}", "voter": "j", "voter_group": "j", "kind": "judge", "order": "ab", "sample": 0}
        | {"label": ("a", "a", "b", "tie")[i % 4], "p_a": None, "score_a": None, "score_b": None}
        for i in range(40)
    ]
    schema = dict.fromkeys(("p_a", "score_a", "score_b"), pl.Float64)
    votes = valid_votes(pl.DataFrame(rows, schema_overrides=schema))
    voters = opinionated(assign_slots(votes, describe_voters(votes)))
    assert voters["bias"][0] != 0
    cells = cells_of(votes, voters)
    pairs = cells.select("pair_id", pl.col("pair_id").alias("prompt_id"), pl.lit(0.0).alias("log_ratio"))
    ballots = ballots_of(cells, pairs, {"j": "judge"}, length_scale(np.zeros(40)))
    assert int((ballots.vote != 0).sum()) == 30


def test_coin_labels_have_no_rate() -> None:
    model = panel(1500, 8, 0.5).learn()
    assert model.rate is None
    assert "coin" in str(model.unknown)


def test_near_copies_count_once_and_are_named() -> None:
    world = panel(2000, 9, 0.2, (0.75, 0.75, 0.75, 0.75))
    base = world.add("copy 0", 0.65)
    for index in range(1, 4):
        world.cast(f"copy {index}", np.where(world.rng.random(2000) < 0.97, base, -base))
    model = world.learn()
    assert ("copy 0", "copy 1", "copy 2", "copy 3") in model.blocs
    voters = {v.voter: v for v in model.voters}
    together = sum(voters[f"copy {i}"].weight * voters[f"copy {i}"].discount for i in range(4))
    assert together == pytest.approx(logit(0.65), abs=0.35)
    assert [name for name in model.used if name.startswith("copy")] == ["copy 0"]


def test_judges_that_prefer_the_longer_response_are_no_witnesses_and_are_named() -> None:
    world = World(2000, 10)
    longer = np.sign(world.ratio)
    for index in range(4):
        world.add(f"honest {index}", 0.75)
        world.cast(f"longer {index}", np.where(world.rng.random(2000) < 0.95, longer, -longer))
    model = world.learn()
    assert model.shortcuts == tuple(f"longer {i}" for i in range(4))
    right = float((np.sign(world.odds(model)) == world.truth).mean())
    honest = float(np.mean([(world.votes[f"honest {i}"] == world.truth).mean() for i in range(4)]))
    assert right > honest
    certainty = float(expit(np.abs(world.odds(model))).mean())
    assert certainty < right + 0.05


def test_a_family_that_prefers_its_own_responses_is_a_shortcut() -> None:
    world = panel(3000, 11, 0.1)
    own = world.rng.choice([-1.0, 0.0, 1.0], 3000)
    vote = np.where((own != 0) & (world.rng.random(3000) < 0.8), own, world.add("selfish", 0.7))
    world.cast("selfish", vote)
    family = pl.DataFrame({"pair_id": world.pairs["pair_id"], "voter": "selfish", "own_family": own})
    cells = world.cells().join(family, on=["pair_id", "voter"], how="left")
    model = learn_agreement(cells, world.pairs, world.kinds)
    voters = {v.voter: v for v in model.voters}
    assert voters["selfish"].shortcut[2] > 1.0
    assert abs(voters["judge 0"].shortcut[2]) < 0.2


def test_the_gradient_is_that_of_the_likelihood() -> None:
    world = panel(200, 13, 0.2)
    world.votes["judge 0"][:50] = 0.0
    ballots = ballots_of(world.cells(), world.pairs, world.kinds, length_scale(world.ratio))
    table = table_of(ballots, discount=np.array([1.0, 0.5, 0.7, 1.0]))
    at = start(table)
    at = at.with_vector(at.vector() + np.random.default_rng(0).normal(0, 0.3, at.vector().size))
    found = expectation(table, at, by_row=True)
    assert found.score is not None
    np.testing.assert_allclose(table.count @ found.score, found.gradient[:-1], atol=1e-9)
    for index in range(at.vector().size):
        step = np.zeros(at.vector().size)
        step[index] = 1e-5
        up, down = (expectation(table, at.with_vector(at.vector() + s)).log_likelihood for s in (step, -step))
        assert table.count @ (up - down) / 2e-5 == pytest.approx(found.gradient[index], abs=1e-3)


def test_an_audit_of_some_labels_corrects_the_predictions_of_all() -> None:
    rng = np.random.default_rng(14)
    covered, narrower = 0, 0
    for _ in range(200):
        wrong = (rng.random(3000) < 0.15).astype(np.float64)
        noise = np.clip(0.1 + 0.5 * wrong + rng.normal(0, 0.1, 3000), 0, 1)
        audited = rng.choice(3000, 150, replace=False)
        found = ppi_rate(Predictions.of(noise), noise[audited], wrong[audited])
        alone = ppi_rate(Predictions.of(np.zeros(3000)), np.zeros(150), wrong[audited])
        assert found is not None
        assert alone is not None
        covered += found.low <= wrong.mean() <= found.high
        narrower += found.high - found.low < alone.high - alone.low
    assert covered >= 0.9 * 200
    assert narrower >= 0.9 * 200


def test_an_audit_that_found_nothing_wrong_still_has_an_upper_bound_and_a_tiny_one_has_no_interval() -> None:
    found = ppi_rate(Predictions.of(np.full(1000, 0.1)), np.full(50, 0.1), np.zeros(50))
    assert found is not None
    assert found.low == 0.0
    assert 0.02 < found.high < 0.15
    assert ppi_rate(Predictions.of(np.full(1000, 0.1)), np.full(5, 0.1), np.zeros(5)) is None
    one_prompt = ppi_rate(
        Predictions.of(np.full(1000, 0.1)), np.full(50, 0.1), np.zeros(50), np.zeros(50, dtype=np.int64)
    )
    assert one_prompt is None
