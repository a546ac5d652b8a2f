"""Ids are content hashes: equal content, equal id, on every machine."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import (
    ID_PATTERN,
    bucket_of,
    canonical_json,
    fingerprint,
    hash_bytes,
    hash_fields,
    hash_json,
    unit_interval,
)

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
ID = st.binary(max_size=8).map(hash_bytes)


@given(data=st.binary())
def test_an_id_is_the_head_of_a_sha256(data: bytes) -> None:
    assert hash_bytes(data) == hashlib.sha256(data).hexdigest()[:32]
    assert re.fullmatch(ID_PATTERN, hash_bytes(data))


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _reordered(value[k]) for k in reversed(value)}
    return [_reordered(v) for v in value] if isinstance(value, list) else value


@given(value=JSON)
def test_the_order_of_keys_does_not_count(value: Any) -> None:
    assert hash_json(value) == hash_json(_reordered(value))


@given(one=JSON, two=JSON)
def test_different_json_has_different_bytes(one: Any, two: Any) -> None:
    same = repr(_sorted(one)) == repr(_sorted(two))  # repr tells True from 1, which == does not
    assert (canonical_json(one) == canonical_json(two)) == same


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _sorted(value[k]) for k in sorted(value)}
    return [_sorted(v) for v in value] if isinstance(value, list) else value


@given(one=st.lists(TEXT, max_size=4), two=st.lists(TEXT, max_size=4))
def test_fields_cannot_run_into_each_other(one: list[str], two: list[str]) -> None:
    assert (hash_fields(*one) == hash_fields(*two)) == (one == two)


@given(prompt_id=ID, n=st.integers(1, 5000))
def test_buckets_are_in_range(prompt_id: str, n: int) -> None:
    assert 0 <= bucket_of(prompt_id, n) < n


def test_buckets_and_draws_are_even() -> None:
    n = 20_000
    counts = [0] * 16
    draws = []
    for i in range(n):
        counts[bucket_of(hash_fields(str(i)), 16)] += 1
        draws.append(unit_interval("seed", str(i)))
    # Chi-squared with 15 degrees of freedom exceeds 45 with probability 1e-4 by chance.
    assert sum((c - n / 16) ** 2 / (n / 16) for c in counts) < 45
    assert all(0 <= d < 1 for d in draws)
    assert abs(sum(draws) / n - 0.5) < 5 * (1 / 12 / n) ** 0.5


@given(names=st.lists(TEXT.filter(lambda t: t.isprintable()), max_size=6), random=st.randoms(use_true_random=False))
def test_a_fingerprint_is_of_a_set(names: list[str], random: Any) -> None:
    again = names + names[:2]
    random.shuffle(again)
    assert fingerprint(names) == fingerprint(again)


def test_ids_are_the_same_in_another_process() -> None:
    code = (
        "from schemas.ids import *; print(hash_fields('a', 'é'), hash_json({'b': [1, None]}), unit_interval('s', 'x'))"
    )
    root = Path(__file__).resolve().parents[2]
    outs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = f"{hash_fields('a', 'é')} {hash_json({'b': [1, None]})} {unit_interval('s', 'x')}\n"
    assert outs == {here}
