"""Each judge's statistics against a plain count over a list of votes."""

from __future__ import annotations

import random
from typing import Any

import orjson
import polars as pl
import pytest

from schemas.tables import Votes, rows_frame
from transforms.stats.judge_quality import context_worth, judge_statistics

MIRROR = {"a": "b", "b": "a"}


def vote(number: int, pair: int, label: str, order: str = "ab", kind: str = "judge", **more: Any) -> dict[str, Any]:
    return {
        "vote_id": f"{number:032x}",
        "pair_id": f"{pair:032x}",
        "voter": "j",
        "voter_group": "j",
        "kind": kind,
        "order": order,
        "sample": 0,
        "label": label,
        "tokens_in": 10,
        "tokens_out": 2,
        "ms": 5.0,
        **more,
    }


def made(n: int, seed: int) -> tuple[list[dict[str, Any]], pl.DataFrame, dict[str, str]]:
    chance = random.Random(seed)
    rows = []
    for pair in range(n):
        for order in ("ab", "ba"):
            label = chance.choice(["a", "a", "b", "tie", "invalid", "refused", "error"])
            p = chance.random() if label in ("a", "b") else None
            rows.append(vote(len(rows), pair, label, order, p_a=p))
    lengths = [(chance.randint(1, 5), chance.randint(1, 5)) for _ in range(n)]
    frame = pl.DataFrame(
        {
            "pair_id": [f"{pair:032x}" for pair in range(n)],
            "length_a": [a for a, _ in lengths],
            "length_b": [b for _, b in lengths],
        }
    )
    humans = {f"{pair:032x}": chance.choice(["a", "b", "tie"]) for pair in range(0, n, 2)}
    return rows, frame, humans


@pytest.mark.parametrize("seed", range(5))
def test_statistics_equal_a_plain_count(seed: int) -> None:
    rows, lengths, humans = made(60, seed)
    labels = pl.DataFrame({"pair_id": list(humans), "label": list(humans.values())})
    (row,) = judge_statistics(rows_frame(rows, Votes), lengths, labels).to_dicts()
    n = len(rows)
    for state in ("invalid", "refused", "error"):
        assert row[f"{state}_rate"] == pytest.approx(sum(v["label"] == state for v in rows) / n)
    valid = [v for v in rows if v["label"] in ("a", "b", "tie")]
    assert row["tie_rate"] == pytest.approx(sum(v["label"] == "tie" for v in valid) / len(valid))
    by_pair: dict[str, dict[str, str]] = {}
    for v in valid:
        by_pair.setdefault(v["pair_id"], {})[v["order"]] = v["label"]
    both = [b for b in by_pair.values() if len(b) == 2]
    assert row["flip_rate"] == pytest.approx(sum(b["ab"] != b["ba"] for b in both) / len(both))
    shown = [("a", b["ab"]) for b in both] + [("b", b["ba"]) for b in both]
    strict = [(first, label) for first, label in shown if label != "tie"]
    assert row["first_rate"] == pytest.approx(sum(first == label for first, label in strict) / len(strict))
    size = {r["pair_id"]: (r["length_a"], r["length_b"]) for r in lengths.to_dicts()}
    longer = [
        (v, "a" if size[v["pair_id"]][0] > size[v["pair_id"]][1] else "b")
        for v in rows
        if v["label"] in ("a", "b") and size[v["pair_id"]][0] != size[v["pair_id"]][1]
    ]
    assert row["longer_rate"] == pytest.approx(sum(v["label"] == side for v, side in longer) / len(longer))
    people = [(humans[v["pair_id"]], side) for v, side in longer if humans.get(v["pair_id"]) in ("a", "b")]
    assert row["human_longer_rate"] == pytest.approx(sum(h == side for h, side in people) / len(people))
    seen = [v for v in rows if v["label"] in ("a", "b") and humans.get(v["pair_id"]) in ("a", "b")]
    assert row["n_compared"] == len(seen)
    assert row["agreement"] == pytest.approx(sum(v["label"] == humans[v["pair_id"]] for v in seen) / len(seen))
    assert row["agreement_low"] < row["agreement"] < row["agreement_high"]
    brier = sum((v["p_a"] - (humans[v["pair_id"]] == "a")) ** 2 for v in seen) / len(seen)
    assert row["brier"] == pytest.approx(brier)


def test_a_judge_that_always_takes_the_first_is_seen() -> None:
    rows = []
    for pair in range(20):
        rows += [vote(2 * pair, pair, "a", "ab"), vote(2 * pair + 1, pair, "b", "ba")]
    empty = pl.DataFrame(schema={"pair_id": pl.String, "label": pl.String})
    lengths = pl.DataFrame(schema={"pair_id": pl.String, "length_a": pl.Int64, "length_b": pl.Int64})
    (row,) = judge_statistics(rows_frame(rows, Votes), lengths, empty).to_dicts()
    assert (row["first_rate"], row["flip_rate"]) == (1.0, 1.0)
    assert row["agreement"] is None
    assert row["longer_rate"] is None


def test_exchanging_a_and_b_everywhere_changes_nothing() -> None:
    rows, lengths, humans = made(40, 9)
    mirrored = [
        {
            **v,
            "label": MIRROR.get(v["label"], v["label"]),
            "order": {"ab": "ba", "ba": "ab"}[v["order"]],
            "p_a": None if v["p_a"] is None else 1 - v["p_a"],
        }
        for v in rows
    ]
    labels = pl.DataFrame({"pair_id": list(humans), "label": list(humans.values())})
    other = labels.with_columns(pl.col("label").replace(MIRROR))
    swapped = lengths.rename({"length_a": "length_b", "length_b": "length_a"})
    one = judge_statistics(rows_frame(rows, Votes), lengths, labels).to_dicts()[0]
    two = judge_statistics(rows_frame(mirrored, Votes), swapped, other).to_dicts()[0]
    for key, value in one.items():
        assert two[key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_what_a_context_is_worth() -> None:
    aspects = [orjson.dumps({"label_without": "a"}).decode()] * 4
    rows = [vote(n, n, label, aspects=aspects[n]) for n, label in enumerate(["a", "b", "a", "b"])]
    humans = pl.DataFrame({"pair_id": [f"{n:032x}" for n in range(4)], "label": ["a", "b", "a", "b"]})
    (row,) = context_worth(rows_frame(rows, Votes), humans).to_dicts()
    assert (row["n_context"], row["with_context"], row["without_context"], row["changed"]) == (4, 1.0, 0.5, 0.5)
