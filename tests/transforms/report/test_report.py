"""The report's figures are those of the data, and its page is safe, self-contained and repeatable."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from schemas.tables import Verdicts, Votes, rows_frame
from tests.transforms.publish import frames
from transforms.publish.card import dataset_card
from transforms.publish.read import Version, open_version
from transforms.publish.version import Provenance, publish
from transforms.report import voters
from transforms.report.data import report_data
from transforms.report.plots import routing_curve
from transforms.report.render import render
from transforms.report.strategies import yield_table
from transforms.report.yields import yield_panels
from transforms.stats.calibration import calibration_error

EVIL = '<script>alert("x")</script><img src=x onerror=y>{{ 7 * 7 }} & "quotes"'


def make(root: Path, pairs: pl.DataFrame, votes: pl.DataFrame, verdicts: pl.DataFrame, **provenance: Any) -> Version:
    content, splits = frames.buckets(pairs, votes, verdicts)
    publish(root, "demo", content, splits, Provenance(recipe="", recipe_hash="r" * 32, code_version="1", **provenance))
    return open_version(root, "demo")


@pytest.fixture
def rich(tmp_path: Path) -> Version:
    """A version with humans, both orders, an ensemble and several origins."""
    pairs, votes, verdicts = frames.workspace(40)
    more = []
    for i, row in enumerate(pairs.iter_rows(named=True)):
        for person in ("ann-1", "ann-2", "ann-3"):
            more.append(frames.vote(row["pair_id"], person, "ab"[i % 2], kind="human"))
        more += [frames.vote(row["pair_id"], "twice", "ab"[o == "ba"], order=o) for o in ("ab", "ba")]
        aspects = orjson.dumps({"mu": 1.0, "sigma": 0.5}).decode()
        more.append(frames.vote(row["pair_id"], "heads", "a", kind="reward", aspects=aspects))
    origins = pl.Series("origin", [f"source-{i % 13}" for i in range(pairs.height)])
    return make(tmp_path, pairs.with_columns(origins), pl.concat([votes, rows_frame(more, Votes)]), verdicts)


class Page(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_and_runs_nothing(rich: Version) -> None:
    costs = pl.DataFrame(
        {"stage": ["judge"], "who": ["local/judge"], "requests": [4], "tokens_in": [5], "tokens_out": [2]}
    )
    queue = pl.DataFrame({"value": [0.5, 0.25], "purpose": ["value", "audit"], "overlap": [1, 3]})
    html = render(report_data(rich, costs=costs, queue=queue))
    page = Page(html)
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(a.startswith("#") for a in page.addresses)
    assert not re.search(r"@import|url\((?!#)", html)
    ids = re.findall(r'<h2 id="(\w+)"', html)
    assert [a[1:] for a in page.addresses if a[1:] in ids] == ids
    assert len(html) < 5_000_000
    assert {"flow", "voters", "calibration", "noise", "bias", "yield", "slices", "routing", "cost", "examples"} <= set(
        ids
    )


def test_estimates_are_shown_with_their_intervals_and_calibration_is_the_fusers_own(tmp_path: Path) -> None:
    bins = [{"low": 0.6, "high": 0.7, "n": 40, "confidence": 0.65, "accuracy": 0.55}]
    noise = {"rate": 0.123, "low": 0.101, "high": 0.145, "level": 0.95, "n": 40}
    estimates = {
        "noise": noise,
        "audited_noise": {"rate": 0.2, "low": 0.15, "high": 0.26, "level": 0.95, "audited": 10, "population": 40},
        "predicted": {"keep": 0.875, "flip": 0.125},
        "actual": {"keep": 1.0},
        "calibration": {"n": 40, "ece": 0.1, "accuracy": 0.55, "log_loss": 0.7, "bins": bins},
    }
    version = make(tmp_path, *frames.workspace(20), estimates=estimates)
    data = report_data(version)
    assert calibration_error(data.out_of_fold.to_dicts()) == pytest.approx(0.1)
    assert dict(data.shares.select("action", "predicted").iter_rows())["flip"] == 0.125
    actual = dict(data.shares.select("action", "actual").iter_rows())
    total = sum(version.manifest.actions.values())
    assert actual == {a: version.manifest.actions.get(a, 0) / total for a in actual}
    text = " ".join(" ".join(Page(render(data)).text).split())
    for shown in ("Out of fold", "12.3%", "10.1%", "14.5%", "20.0%", "87.5%"):
        assert shown in text
    card = dataset_card(version.manifest)
    assert "| the posterior | 12.3% | 10.1% to 14.5% |" in card  # published before it was said how a figure is known
    assert "| a random audit | 20.0% | 15.0% to 26.0% |" in card
    assert "ncalibrated" not in card + text
    assert re.search(r"\| flip \| [\d,]+ \| [\d.]+% \| 12.5% \|", card)


def test_what_is_not_known_is_said_and_what_is_known_says_how(tmp_path: Path) -> None:
    shares = {"predicted": {"keep": 1.0}, "actual": {"keep": 1.0}, "calibration": None, "audited_noise": None}
    unknown = {
        "calibrated_by": None,
        "noise": None,
        "unknown": "no voter is better than chance",
        "accuracy": None,
        "expected": {"wrong": 9.0, "turned": 0.0, "left_out": 3.0},
        "warnings": ["x, y err together and count as one voter"],
    }
    noise = {"rate": 0.123, "low": 0.101, "high": 0.145, "level": 0.95, "n": 40, "how": "agreement of four"}
    known = unknown | {
        "calibrated_by": "agreement",
        "noise": noise,
        "unknown": None,
        "accuracy": {"before": 0.877, "after": 0.941},
        "warnings": [],
    }
    for name, estimates in (("unknown", unknown), ("known", known)):
        version = make(tmp_path / name, *frames.workspace(20), estimates=estimates | shares)
        text = " ".join(" ".join(Page(render(report_data(version))).text).split())
        card = dataset_card(version.manifest)
        for page in (text, card):
            assert ("Uncalibrated" in page) == (name == "unknown")
            assert ("no voter is better than chance" in page) == (name == "unknown")
            assert ("agreement of four" in page) == (name == "known")
        assert ("err together" in text) == (name == "unknown")
        assert ("87.7% of the sources' labels, 94.1% of the published ones" in text) == (name == "known")


def test_text_of_models_and_sources_is_shown_as_text(tmp_path: Path) -> None:
    row = frames.pair(f"q {EVIL}", f"x {EVIL}", "y", origin=EVIL, model_first=EVIL, context=f"c {EVIL}", kind=EVIL)
    vote = frames.vote(row["pair_id"], EVIL, "a", kind="human")
    verdict = {**frames.verdict(row, "keep", {EVIL: 1.0}), "reasons": [EVIL]}
    lost = frames.pair("q2", EVIL, "y", origin=EVIL)
    dropped = {**frames.verdict(lost, "route", {EVIL: 0.1}), "reasons": [EVIL]}
    frames_ = (
        rows_frame([row, lost], frames.Pairs),
        rows_frame([vote], Votes),
        rows_frame([verdict, dropped], Verdicts),
    )
    html = render(report_data(make(tmp_path, *frames_, inputs={EVIL: EVIL})))
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.handlers == []
    text = " ".join(page.text)
    assert f"q {EVIL}" in text
    assert f"x {EVIL}" in text
    assert f"c {EVIL}" in text


def test_equal_versions_have_equal_reports(rich: Version) -> None:
    assert render(report_data(rich)) == render(report_data(rich))


def test_an_empty_version_has_a_report(tmp_path: Path) -> None:
    html = render(report_data(make(tmp_path, *frames.workspace(0))))
    assert "0 preferences from 0 pairs" in html


def test_the_flow_conserves_pairs(rich: Version) -> None:
    flow = report_data(rich).flow
    made = flow.filter(pl.col("level") == 0)
    ended = flow.filter(pl.col("level") == 1)
    assert made["n"].sum() == ended["n"].sum() == rich.manifest.n_pairs
    into = dict(made.group_by("target").agg(pl.col("n").sum()).iter_rows())
    assert into == dict(ended.group_by("source").agg(pl.col("n").sum()).iter_rows()) == rich.manifest.actions


def test_voters_are_counted_as_they_voted(rich: Version) -> None:
    table = {r["voter"]: r for r in report_data(rich).voters.iter_rows(named=True)}
    votes = rich.scan("votes").collect()
    verdicts = dict(rich.scan("verdicts").select("pair_id", "label").collect().iter_rows())
    for voter, row in table.items():
        mine = votes.filter(pl.col("voter") == voter)
        decisive = [v for v in mine.iter_rows(named=True) if v["label"] in "ab" and verdicts[v["pair_id"]] in "ab"]
        assert row["votes"] == mine.height
        assert row["agrees"] == pytest.approx(
            sum(v["label"] == verdicts[v["pair_id"]] for v in decisive) / len(decisive)
        )


def test_position_bias_of_a_judge_who_always_takes_the_first(rich: Version) -> None:
    (row,) = report_data(rich).judges.drop_nulls("first_rate").to_dicts()
    assert (row["voter"], row["first_rate"], row["flip_rate"]) == ("twice", 1.0, 1.0)


def test_agreement_is_the_share_of_equal_votes() -> None:
    said = {"x": "aabb", "y": "abab", "z": "ab"}
    votes = rows_frame(
        [frames.vote(f"{i:032x}", voter, label) for voter, labels in said.items() for i, label in enumerate(labels)],
        Votes,
    )
    table = {(r["voter"], r["other"]): (r["n"], r["agreement"]) for r in voters.agreement(votes).iter_rows(named=True)}
    assert table["x", "y"] == table["y", "x"] == (4, 0.5)
    assert table["x", "z"] == (2, 0.5)
    assert table["y", "z"] == (2, 1.0)


def test_reliability_leaves_the_humans_own_votes_out() -> None:
    row = frames.pair("q", "x", "y")
    cast = rows_frame([frames.vote(row["pair_id"], "ann", "b", kind="human")], Votes)
    verdict = rows_frame([frames.verdict(row, "keep", {"judge": 1.0, "ann": -9.0})], Verdicts)
    (found,) = voters.reliability(cast, verdict).to_dicts()
    assert found["confidence"] == pytest.approx(0.7310585786)
    assert (found["accuracy"], found["n"]) == (0.0, 1)


def test_length_bias_is_seen() -> None:
    row = frames.pair("q", "a long answer", "no")
    longer = "a" if row["response_a"][0]["content"] == "a long answer" else "b"
    sizes = {"a": (13, 2), "b": (2, 13)}[longer]
    sample = rows_frame([frames.verdict(row, "keep", {"j": -1.0 if longer == "a" else 1.0})], Verdicts).with_columns(
        length_a=pl.lit(sizes[0]), length_b=pl.lit(sizes[1])
    )
    (found,) = voters.length_bias(rows_frame([frames.vote(row["pair_id"], "j", longer)], Votes), sample).to_dicts()
    assert (found["longer"], found["longer_fused"]) == (1.0, 0.0)


def test_every_judge_is_described_and_its_flips_are_counted(rich: Version) -> None:
    data = report_data(rich)
    judges = {row["voter"]: row for row in data.judges.iter_rows(named=True)}
    assert "twice" in judges
    assert {"ann-1", "heads"}.isdisjoint(judges)
    # It takes the response shown first every time: every pair is a flip.
    assert judges["twice"]["flip_rate"] == judges["twice"]["first_rate"] == 1.0
    # One of its two votes on each pair agrees with the three people, who are of one mind.
    assert judges["twice"]["agreement"] == 0.5
    html = render(data)
    assert '<h2 id="judges"' in html
    assert "<td>twice</td>" in html


def test_yields_are_drawn_for_what_is_known(rich: Version) -> None:
    counts = {name: {"asked": 40, "answered": 39, "parsed": 30, "valid": 20} for name in ("<tree>", "rag")}
    columns = ["pair_id", "context_kind", "user_id", "meta"]
    rows = rich.scan("rows").select(*columns, response_a="chosen", response_b="rejected", origin=pl.lit("rag"))
    pairs = rows.collect()
    table = yield_table(counts, pairs, rich.scan("verdicts").collect(), {"rag": np.eye(4)})
    drawn = yield_panels(table)
    assert all(f">{name}" in drawn for name in ("&lt;tree&gt;", "rag", "asked", "kept", "distinct-2", "spread"))
    assert "tokens per kept" in drawn
    known = table.select(c for c in table.columns if not table[c].is_null().all())
    assert yield_panels(known.drop("tokens_per_kept")).count("<svg") == 1
    assert yield_panels(table.select("generator")) == ""
    assert yield_panels(table) == drawn
    assert drawn in render(report_data(rich, asked=table))


def test_the_routing_curve_ends_with_everything_bought() -> None:
    assert routing_curve([1, 2], [0.5, 0.25]) == routing_curve([2, 1], [0.25, 0.5])
