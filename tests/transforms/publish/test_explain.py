"""An explanation repeats the arithmetic and can be made from a version alone."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UsageError
from tests.transforms.publish import frames
from tests.transforms.publish.frames import plain_text
from transforms.publish.explain import explain, weaker_share
from transforms.publish.version import Provenance, publish


def test_every_pair_is_explained_from_the_published_version_alone(tmp_path: Path) -> None:
    pairs, votes, verdicts = frames.workspace(12)
    content, splits = frames.buckets(pairs, votes, verdicts)
    provenance = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
    folder = Path(publish(tmp_path, "demo", content, splits, provenance).path)
    tables = [pl.read_parquet(folder / f"evidence/{t}-*.parquet") for t in ("pairs", "votes", "verdicts")]
    for row in verdicts.iter_rows(named=True):
        e = explain(row["pair_id"], *tables)
        odds = math.exp(row["prior"])
        for c in row["contributions"]:
            odds *= math.exp(c["log_odds"])
        assert e.p_a == pytest.approx(odds / (1 + odds))
        assert e.agrees
        assert {v.vote_id for v in e.votes} == set(votes.filter(pl.col("pair_id") == row["pair_id"])["vote_id"])
        assert e.contributions[-1].cumulative == pytest.approx(e.log_odds)
        text = plain_text(e)
        assert row["pair_id"] in text
        assert "equal to the recorded" in text
        assert all(c["voter"] in text for c in row["contributions"])


def test_a_false_posterior_is_found_out() -> None:
    pairs, votes, verdicts = frames.workspace(3)
    forged = verdicts.with_columns(p_a=pl.lit(0.123))
    e = explain(pairs["pair_id"][0], pairs, votes, forged)
    assert not e.agrees
    assert "NOT equal" in plain_text(e)


def test_unknown_pairs_are_wrong_usage() -> None:
    pairs, votes, verdicts = frames.workspace(3)
    with pytest.raises(UsageError, match="no pair 'x'"):
        explain("x", pairs, votes, verdicts)
    with pytest.raises(UsageError, match="no verdict yet"):
        explain(pairs["pair_id"][0], pairs, votes, verdicts.head(0))


def test_voters_markup_is_shown_as_text() -> None:
    row = frames.pair("q", "x", "y")
    from schemas.tables import Pairs, Verdicts, Votes, rows_frame

    cast = frames.vote(row["pair_id"], "[red]evil[/red]", "a", rationale="[bold]see[/bold] [/]")
    v = frames.verdict(row, "keep", {"[red]evil[/red]": 1.0})
    e = explain(row["pair_id"], rows_frame([row], Pairs), rows_frame([cast], Votes), rows_frame([v], Verdicts))
    assert "[red]evil[/red]" in plain_text(e)


def _parts(margins: list[float]) -> list[pl.LazyFrame]:
    schema = {"margin": pl.Float64}
    return [pl.LazyFrame({"margin": part}, schema=schema) for part in (margins[:2], margins[2:])]


@given(st.lists(st.integers(-4, 4), max_size=30), st.integers(-5, 5))
def test_a_pair_is_as_strong_as_the_share_of_rows_below_it(margins: list[int], margin: int) -> None:
    share = weaker_share(_parts(margins), float(margin))
    ranks = [0.5 * ((abs(m) < abs(margin)) + (abs(m) <= abs(margin))) for m in margins]
    assert share == (pytest.approx(sum(ranks) / len(ranks)) if ranks else None)


def test_how_strong_a_pair_is_stands_beside_its_decision() -> None:
    pairs, votes, verdicts = frames.workspace(3)
    pair = pairs["pair_id"][0]
    size = abs(verdicts.filter(pl.col("pair_id") == pair)["margin"].item())
    published = pl.LazyFrame({"margin": [size - 0.1, size - 0.1, size - 0.1, size + 0.1]})
    shown = plain_text(explain(pair, pairs, votes, verdicts, published=[published]))
    assert "stronger than 75% of the published rows" in " ".join(shown.split())
    assert "stronger" not in plain_text(explain(pair, pairs, votes, verdicts))
