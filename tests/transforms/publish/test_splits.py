"""Laws of splits: no leak, fixed for ever, near the fractions, seeded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.tables import Pairs, Verdicts, rows_frame
from tests.transforms.publish import frames
from tests.transforms.publish.frames import assign_splits
from transforms.publish import assign
from transforms.publish.assign import BRIDGES
from transforms.publish.prompt_keys import canonical_texts, similarity_keys
from transforms.publish.splits import SplitsConfig, assign_parts, prompt_keys, remembered

CONFIG = SplitsConfig(fractions={"train": 0.6, "validation": 0.2, "test": 0.2})


def table(rows: list[tuple[str, list[int]]], slice_: str = "") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt_id": [r[0] for r in rows],
            "slice": [slice_] * len(rows),
            "n_rows": [1] * len(rows),
            "keys": [r[1] for r in rows],
        },
        schema_overrides={"keys": pl.List(pl.UInt64), "n_rows": pl.Int64, "prompt_id": pl.String, "slice": pl.String},
    )


def split_of(splits: pl.DataFrame) -> dict[str, str | None]:
    return dict(splits.select("prompt_id", "split").iter_rows())


graphs = st.lists(st.lists(st.integers(0, 25), max_size=3), max_size=40)


@settings(max_examples=150, deadline=None)
@given(graphs, graphs, st.integers(0, 5))
def test_no_leak_and_no_old_prompt_moves_while_the_dataset_grows(
    old: list[list[int]], new: list[list[int]], seed: int
) -> None:
    first = table([(f"p{i:03d}", keys) for i, keys in enumerate(old)])
    both = pl.concat([first, table([(f"n{i:03d}", keys) for i, keys in enumerate(new)])])
    before = assign_splits(first, CONFIG, seed)
    after = assign_splits(both, CONFIG, seed, memory=before)
    assert all(s is not None for s in before["split"])
    kept = split_of(after)
    for prompt, split in split_of(before).items():
        assert kept[prompt] == split
    for frame in (before, after):
        holders: dict[int, set[str]] = {}
        for keys, split in frame.select("keys", "split").iter_rows():
            for key in keys:
                if split:
                    holders.setdefault(key, set()).add(split)
        assert all(len(splits) == 1 for splits in holders.values())
    lost = after.filter(pl.col("split").is_null())
    assert set(lost["reason"]) <= {BRIDGES}
    assert set(lost["prompt_id"]) <= {p for p in kept if p.startswith("n")}
    assert after.equals(assign_splits(both.sample(fraction=1, shuffle=True, seed=1), CONFIG, seed, memory=before))


@settings(max_examples=100, deadline=None)
@given(graphs, graphs, st.integers(0, 5), st.integers(1, 4))
def test_parts_and_passes_change_nothing(old: list[list[int]], new: list[list[int]], seed: int, n_parts: int) -> None:
    first = table([(f"p{i:03d}", keys) for i, keys in enumerate(old)], "x")
    both = pl.concat([first, table([(f"n{i:03d}", keys) for i, keys in enumerate(new)])])
    memory = assign_splits(first, CONFIG, seed)
    nodes = remembered(both, memory)
    own = pl.int_range(nodes.height, eager=True) % n_parts
    parts = [nodes.filter(own == i) for i in range(n_parts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assign, "KEYS_AT_ONCE", 5)
        found = pl.concat(list(assign_parts(lambda: parts, CONFIG, seed)))
    assert found.sort("prompt_id").equals(assign_splits(both, CONFIG, seed, memory))


def test_a_prompt_between_two_old_splits_is_left_out_and_its_neighbours_are_not() -> None:
    memory = assign_splits(table([("a", [1]), ("b", [2])]), CONFIG, 0).with_columns(split=pl.Series(["train", "test"]))
    new = table([("a", [1]), ("b", [2]), ("c", [1, 2]), ("d", [1, 3]), ("e", [3])])
    splits = assign_splits(new, CONFIG, 0, memory)
    assert split_of(splits) == {"a": "train", "b": "test", "c": None, "d": "train", "e": "train"}
    assert splits.filter(pl.col("prompt_id") == "c")["reason"].item() == BRIDGES


def test_old_prompts_that_left_the_workspace_are_still_obeyed() -> None:
    memory = assign_splits(table([("a", [1])]), CONFIG, 0).with_columns(split=pl.lit("test"))
    assert split_of(assign_splits(table([("b", [1])]), CONFIG, 0, memory)) == {"a": "test", "b": "test"}


def test_every_slice_gets_its_fractions() -> None:
    keys = pl.concat([table([(f"{s}{i}", []) for i in range(n)], s) for s, n in (("x", 500), ("y", 100), ("z", 20))])
    splits = assign_splits(keys, CONFIG, 3)
    for name, n in (("x", 500), ("y", 100), ("z", 20)):
        counts = Counter(splits.filter(pl.col("slice") == name)["split"])
        for split, fraction in CONFIG.fractions.items():
            assert abs(counts[split] - fraction * n) <= 1


def test_the_seed_decides() -> None:
    keys = table([(f"p{i}", []) for i in range(100)])
    one, two, other = (split_of(assign_splits(keys, CONFIG, seed)) for seed in (1, 1, 2))
    assert one == two != other


def test_groups_and_near_duplicates_stay_together() -> None:
    base = "Write a short letter to the editor of a newspaper about the new cycle path along the river in our town"
    rows = [
        frames.pair(base, "x", "y"),
        frames.pair(base.upper() + "!!!", "x", "y"),
        frames.pair(base + " please", "x", "y"),
        frames.pair("an apple", "x", "y", group_id="g"),
        frames.pair("eine Birne", "x", "y", group_id="g"),
        *(frames.pair(f"question {i} about thing {i * i}", "x", "y") for i in range(60)),
    ]
    pairs = rows_frame(rows, Pairs)
    keys = prompt_keys(pairs, rows_frame([], Verdicts), CONFIG)
    cluster = dict(assign_splits(keys, CONFIG, 0).select("prompt_id", "cluster_id").iter_rows())
    letters, fruit = {cluster[r["prompt_id"]] for r in rows[:3]}, {cluster[r["prompt_id"]] for r in rows[3:5]}
    assert len(letters) == 1
    assert len(fruit) == 1
    assert len(set(cluster.values())) == 62


def test_what_descends_from_an_ungrouped_prompt_stays_with_it() -> None:
    rows = []
    for i in range(40):
        original = frames.pair(f"question {i} about thing {i * i}", "x", "y")
        rows += [original, frames.pair(f"ganz anderer Satz {i}", "x", "y", group_id=original["prompt_id"])]
    keys = prompt_keys(rows_frame(rows, Pairs), rows_frame([], Verdicts), CONFIG)
    cluster = dict(assign_splits(keys, CONFIG, 0).select("prompt_id", "cluster_id").iter_rows())
    assert all(cluster[r["prompt_id"]] == cluster[r.get("group_id") or r["prompt_id"]] for r in rows)
    assert len(set(cluster.values())) == 40


def test_a_shared_system_message_does_not_make_prompts_alike() -> None:
    system = {"role": "system", "content": "You are a helpful assistant who answers briefly and to the point. " * 20}
    prompts = [[system, {"role": "user", "content": t}] for t in ("Name a river", "Why is the sky blue?")]
    texts = canonical_texts(pl.Series(prompts)).to_list()
    assert texts == ["name a river", "why is the sky blue"]


@pytest.mark.parametrize("text", ["", "!!!", "a", "日本語の文章です", "x" * 10_000, "á ﬁ", "  two   spaces "])
def test_keys_of_a_text_do_not_depend_on_its_company(text: str) -> None:
    texts = canonical_texts(pl.Series([[{"role": "user", "content": t}] for t in (text, "some other words here")]))
    alone = similarity_keys(texts.head(1), 20, 10, 3)
    assert (similarity_keys(texts, 20, 10, 3)[:1] == alone).all()


@pytest.mark.parametrize(("changed", "low", "high"), [(0, 1, 1), (1, 0.97, 1), (3, 0.3, 0.62), (8, 0, 0.05)])
def test_bands_collide_as_often_as_theory_says(changed: int, low: float, high: float) -> None:
    rng = np.random.default_rng(5)
    one, two = [], []
    for _ in range(200):
        words = [f"w{i}" for i in rng.integers(0, 5000, 50)]
        other = list(words)
        for i in rng.choice(50, changed, replace=False):
            other[i] = f"z{i}"
        one.append(" ".join(words))
        two.append(" ".join(other))
    a, b = (similarity_keys(pl.Series(t), 20, 10, 3)[:, 1:] for t in (one, two))
    assert low <= (a == b).any(axis=1).mean() <= high


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ValidationError, match="sum to 1"):
        SplitsConfig(fractions={"train": 0.5, "test": 0.4})
