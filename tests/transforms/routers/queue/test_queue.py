"""Laws of the queue: budget kept, audit random and stable, buckets merge, asking again asks nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import kstest

from schemas.errors import DataError
from schemas.ids import bucket_of, hash_fields
from schemas.messages import message
from schemas.tables import Queue
from tests.transforms.routers.queue.whole import build_queue, merge
from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.features import prompt_families
from transforms.routers.queue.fill import outlook, shortlist, uniform


def candidates(n: int, seed: int = 0, known: float = 0.1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "pair_id": [hash_fields("pair", str(seed), str(i)) for i in range(n)],
            "prompt_id": [hash_fields("prompt", str(seed), str(i // 3)) for i in range(n)],
            "certainty": rng.uniform(1 / 3, 1, n),
            "p_a": rng.uniform(0, 1, n),
            "p_tie": rng.uniform(0, 0.5, n),
            "kind": [("sum", "chat", None)[i % 3] for i in range(n)],
            "n_chars": rng.integers(10, 9000, n),
            "known_label": ["a" if u < known else None for u in rng.random(n)],
        },
        schema_overrides=dict.fromkeys(("pair_id", "prompt_id", "known_label", "kind"), pl.String),
    )


def values_of(frame: pl.DataFrame, seed: int = 0) -> pl.Series:
    return pl.Series(np.random.default_rng(seed + 1000).random(frame.height))


def cost(queue: pl.DataFrame, frame: pl.DataFrame, config: QueueConfig) -> float:
    seconds = config.base_seconds + pl.col("n_chars") / config.chars_per_second
    unit = seconds if config.budget_seconds else pl.lit(1.0)
    return float(queue.join(frame, on="pair_id").select((pl.col("overlap") * unit).sum()).item())


def budgets() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"budget": st.integers(1, 400)}),
        st.fixed_dictionaries({"budget_seconds": st.floats(10, 20_000)}),
        st.just({}),
    )


configs = st.builds(
    lambda budget, audit, overlap, minimum, singly: QueueConfig(
        **budget, audit_share=audit, overlap_max=overlap, slice="kind", slice_minimum=minimum, one_by_one=singly
    ),
    budgets(),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(1, 4),
    st.integers(0, 20),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 300), st.integers(1, 5), st.sampled_from([1, 4, 40, 300]))
def test_buckets_merge_to_the_queue_of_the_whole_in_any_order(
    config: QueueConfig, n: int, buckets: int, families: int
) -> None:
    """Prompts that are nearly the same lie in different buckets, and are discounted against each other all the same."""
    frame = candidates(n).with_columns(values_of(candidates(n)).alias("v"))
    frame = frame.with_columns(family=(pl.int_range(pl.len()) * 7919 // 3 % families).cast(pl.String))
    whole = build_queue(frame.drop("v"), frame["v"], config, seed=3)
    number = pl.Series([bucket_of(p, buckets) for p in frame["prompt_id"]], dtype=pl.Int64)
    parts = [frame.filter(number == b) for b in reversed(range(buckets))]
    merged = merge([shortlist(p.drop("v"), p["v"], config, 3) for p in parts], config, seed=3)
    assert merged.equals(whole)
    Queue.validate(whole)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 300))
@example(QueueConfig(budget_seconds=123, audit_share=0.0, slice="kind", slice_minimum=1), 297)
def test_the_budget_is_kept_and_asking_again_asks_nothing_new(config: QueueConfig, n: int) -> None:
    frame = candidates(n)
    queue = build_queue(frame, values_of(frame), config, seed=1)
    assert cost(queue, frame, config) <= config.total + 1e-6
    again = build_queue(frame, values_of(frame, seed=9), config, seed=1, previous=queue)
    assert cost(again, frame, config) <= config.total + 1e-6
    kept = ["pair_id", "overlap", "held_out", "purpose", "shown", "known_label"]
    if config.budget_seconds is None:
        assert again.select(kept).sort("pair_id").equals(queue.select(kept).sort("pair_id"))
    else:
        both = queue.join(again, on=["pair_id", "held_out", "purpose", "shown"], suffix="_again")
        assert both.height == queue.height
        assert (both["overlap_again"] >= both["overlap"]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 200))
def test_a_larger_budget_only_adds_answers(small: int, more: int) -> None:
    frame = candidates(250)
    first = build_queue(frame, values_of(frame), QueueConfig(budget=small), seed=1)
    second = build_queue(frame, values_of(frame), QueueConfig(budget=small + more), seed=1, previous=first)
    both = first.join(second, on="pair_id", how="left", suffix="_later")
    assert (both["overlap_later"] >= both["overlap"]).all()
    assert second["overlap"].sum() <= small + more


def test_the_audit_is_uniform_blind_to_values_and_stable_under_growth() -> None:
    frame = candidates(3000, known=0)
    config = QueueConfig(budget=400, audit_share=0.5, audit_overlap=1)
    by_value = build_queue(frame, values_of(frame), config, seed=5)
    by_other = build_queue(frame, values_of(frame, seed=2), config, seed=5)
    audit = set(by_value.filter(purpose="audit")["pair_id"])
    assert audit == set(by_other.filter(purpose="audit")["pair_id"])
    assert len(audit) == 200
    older = frame.head(1500)
    before = set(build_queue(older, values_of(older), config, seed=5).filter(purpose="audit")["pair_id"])
    assert audit & set(older["pair_id"]) <= before
    assert kstest(uniform(frame["pair_id"], 5, "audit"), "uniform").pvalue > 0.001
    correlation = np.corrcoef(uniform(frame["pair_id"], 5, "audit"), uniform(frame["pair_id"], 5, "shown"))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(3000)


def test_audited_pairs_are_asked_for_value_as_often_as_all_others() -> None:
    """Otherwise the audit would describe labels that no human improved."""
    frame = candidates(4000, known=0)
    values = values_of(frame)
    config = QueueConfig(budget=3000, audit_share=0.4, audit_overlap=1, control_share=0, same_prompt_decay=1)
    queue = build_queue(frame, values, config, seed=2)
    routed = queue.filter(pl.col("overlap") > pl.col("held_out"))
    in_audit = routed.filter(purpose="audit").height / queue.filter(purpose="audit").height
    elsewhere = routed.filter(purpose="value").height / (frame.height - queue.filter(purpose="audit").height)
    assert in_audit == pytest.approx(elsewhere, abs=0.05)
    floor = routed["value"].min()
    assert isinstance(floor, float)
    assert set(routed["pair_id"]) == set(frame.filter(values >= floor)["pair_id"])


def test_one_by_one_asks_again_only_what_was_answered_and_is_still_worth_it() -> None:
    frame = candidates(300, known=0).with_columns(family="pair_id", answered=pl.lit(0))
    value = values_of(frame)
    config = {"audit_share": 0.1, "control_share": 0, "overlap_max": 3, "one_by_one": True}
    first = build_queue(frame, value, QueueConfig(budget=100, **config), seed=1)
    routed = first.filter(pl.col("overlap") > pl.col("held_out"))
    assert (routed["overlap"] - routed["held_out"] == 1).all()
    patient = build_queue(frame, value, QueueConfig(budget=200, **config), seed=1, previous=first)
    assert (patient["overlap"] - patient["held_out"]).max() == 1  # nobody has answered: others are asked
    settled, open_ = routed["pair_id"].head(25), routed["pair_id"].slice(25, 25)
    said = pl.col("pair_id").is_in(pl.concat([settled, open_]).implode())
    come = frame.with_columns(answered=said.cast(pl.Int32), v=value)
    value = come.select(pl.when(pl.col("pair_id").is_in(settled.implode())).then(0.0).otherwise("v")).to_series()
    come = come.drop("v")
    second = build_queue(come, value, QueueConfig(budget=200, **config), seed=1, previous=first)
    assert 195 <= second["overlap"].sum() <= 200
    both = routed.join(second, on="pair_id", how="left", suffix="_later")
    more = both.with_columns(
        more=pl.col("overlap_later") - pl.col("overlap") - pl.col("held_out_later") + pl.col("held_out")
    )
    assert set(more["more"]) == {0, 1}
    assert set(more.filter(pl.col("more") == 1)["pair_id"]) == set(open_)  # not the settled, not those without answers
    third = build_queue(come, value, QueueConfig(budget=200, **config), seed=1, previous=second)
    assert third.drop("rank").sort("pair_id").equals(second.drop("rank").sort("pair_id"))


def test_purposes_overlap_and_order_shown() -> None:
    frame = candidates(2000)
    queue = build_queue(frame, values_of(frame), QueueConfig(budget=600, overlap_max=3), seed=4)
    known = queue.join(frame.select("pair_id", "certainty"), on="pair_id")
    assert set(queue.filter(purpose="control")["known_label"]) == {"a"}
    value = known.filter(purpose="value").with_columns(wanted=(pl.lit(4) - (pl.col("certainty") * 4.5 - 1.5).ceil()))
    assert value["known_label"].null_count() == value.height
    assert value.filter(pl.col("overlap") != pl.col("wanted")).height <= 1  # the last one gets what is left
    assert set(value["overlap"]) == {1, 2, 3}
    assert (queue["held_out"] > 0).equals((queue["purpose"] == "audit").rename("held_out"))
    assert 0.4 < (queue["shown"] == "ab").mean() < 0.6  # type: ignore[operator]
    first_half = queue.head(queue.height // 2)
    for purpose in ("audit", "control", "value"):
        assert first_half.filter(purpose=purpose).height == pytest.approx(
            queue.filter(purpose=purpose).height / 2, abs=1
        )


def test_slices_get_their_minimum_and_one_prompt_does_not_take_all() -> None:
    frame = candidates(900, known=0).with_columns(kind=pl.lit("common"))
    frame = frame.with_columns(
        kind=pl.when(pl.int_range(pl.len()) < 60).then(pl.lit("rare")).otherwise("kind"),
        prompt_id=pl.when(pl.int_range(pl.len()).is_between(60, 160)).then(pl.lit("0" * 32)).otherwise("prompt_id"),
    )
    value = pl.Series([0.01] * 60 + [1.0] * 101 + [0.4] * (900 - 161))
    config = QueueConfig(
        budget=100, audit_share=0, control_share=0, slice="kind", slice_minimum=10, same_prompt_decay=0.5
    )
    chosen = build_queue(frame, value, config, seed=0).join(frame, on="pair_id")
    assert chosen.filter(kind="rare").height == 10
    assert chosen.filter(prompt_id="0" * 32).height == 2  # 1, 0.5; the third would be worth 0.25 < 0.4


def test_prompts_nearly_alike_are_not_all_asked() -> None:
    """Sixty wordings of one question, each worth more than any of the others: without families they take all."""
    texts = [
        f"Please tell me in a few short words what the capital city of the country France is {i}" for i in range(60)
    ]
    texts += [f"question {i * 7919} about thing {i * 104729} and {i * 1299709}" for i in range(300)]
    pairs = pl.DataFrame(
        {
            "prompt_id": [hash_fields(text) for text in texts],
            "prompt": [[message("user", text)] for text in texts],
        }
    )
    frame = candidates(360, known=0).with_columns(pairs["prompt_id"], prompt_families(pairs))
    assert frame["family"].head(60).n_unique() < 20
    assert frame["family"].tail(300).n_unique() > 290
    value = pl.Series([1.0] * 60 + [0.7] * 300)
    config = QueueConfig(budget=60, audit_share=0, control_share=0)
    alone = build_queue(frame.drop("family"), value, config, seed=0).join(frame.head(60), on="pair_id", how="semi")
    diverse = build_queue(frame, value, config, seed=0).join(frame.head(60), on="pair_id", how="semi")
    assert alone.height == 60
    assert frame["family"].head(60).n_unique() <= diverse.height < 45


def test_a_budget_of_seconds_prefers_cheap_answers_of_equal_value() -> None:
    frame = candidates(600, known=0)
    config = QueueConfig(budget_seconds=5000, audit_share=0, same_prompt_decay=1)
    queue = build_queue(frame, pl.Series([1.0] * 600), config, seed=0).join(frame, on="pair_id")
    longest = queue["n_chars"].max()
    assert queue.height == frame.filter(pl.col("n_chars") <= longest).height


def test_the_outlook_is_what_the_next_answers_are_expected_to_mend() -> None:
    """Against a simulation: draw truths and answers from the beliefs, and count the labels that answers mend."""
    frame = candidates(500, known=0).with_columns(prompt_id=pl.col("pair_id"))
    values = values_of(frame)
    config = QueueConfig(budget=50, audit_share=0, control_share=0, overlap_min=2, overlap_max=2)
    found = outlook(shortlist(frame, values, config, 0), build_queue(frame, values, config, 0))
    asked = frame.with_columns(values.alias("v")).sort("v", descending=True)[25:75]
    rng, mended, rounds = np.random.default_rng(3), 0, 4000
    p_a, p_tie = asked["p_a"].to_numpy(), asked["p_tie"].to_numpy()
    p = np.stack([p_a * (1 - p_tie), (1 - p_a) * (1 - p_tie), p_tie], axis=1)
    for _ in range(rounds):
        truth = (rng.random((50, 1)) > p.cumsum(axis=1)).sum(axis=1)
        likelihood = np.ones_like(p)
        for _ in range(2):
            said = np.where(rng.random(50) < 0.9, truth, (truth + rng.integers(1, 3, 50)) % 3)
            likelihood *= np.where(np.arange(3) == said[:, None], 0.9, 0.05)
        mended += int(((p * likelihood).argmax(axis=1) == truth).sum() - (p.argmax(axis=1) == truth).sum())
    assert found == pytest.approx(mended / rounds, abs=0.3)


@pytest.mark.parametrize("parts", [1, 7])
def test_an_accuracy_asks_what_is_wanted_an_audit_of_its_own_size_and_controls_in_proportion(parts: int) -> None:
    frame = candidates(900).with_columns(wanted=pl.col("certainty") < 0.5)
    config = QueueConfig(accuracy=0.9).sized(900)
    values = values_of(frame)
    pieces = [frame.with_columns(v=values)[i::parts] for i in range(parts)]
    lists = [shortlist(piece.drop("v"), piece["v"], config, 3) for piece in pieces]
    queue = merge(lists, config, seed=3)
    assert queue.filter(pl.col("held_out") > 0).height == config.audit_pairs == 100
    open_ = frame.filter(pl.col("known_label").is_null() & pl.col("wanted"))["pair_id"]
    assert set(queue.filter(pl.col("overlap") > pl.col("held_out"), pl.col("purpose") != "control")["pair_id"]) == set(
        open_
    )
    controls = queue.filter(pl.col("purpose") == "control")
    assert controls.height == config.control_pairs == 34
    assert queue.equals(build_queue(frame, values, config, 3))
    again = build_queue(frame, values, config, 3, previous=queue)
    assert (
        again.select("pair_id", "overlap", "held_out")
        .sort("pair_id")
        .equals(queue.select("pair_id", "overlap", "held_out").sort("pair_id"))
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 5, "budget_seconds": 5.0}, "not budget and budget_seconds"),
        ({"budget": 5, "accuracy": 0.9}, "not budget and accuracy"),
        ({"budget": 5, "audit_pairs": 50}, "goes with accuracy"),
        ({"accuracy": 0.9, "audit_share": 0}, "audit_share must be above 0"),
        ({"overlap_min": 3, "overlap_max": 2}, "smaller than"),
        ({"audit_share": 0.8, "control_share": 0.4}, "exceed"),
        ({"slice_minimum": 3}, "needs slice"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QueueConfig(**fields)


@pytest.mark.parametrize("bad", [[1.0], [1.0, math.nan], [1.0, None]])
def test_bad_values_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="value"):
        build_queue(candidates(2), pl.Series(bad), QueueConfig(), seed=0)
