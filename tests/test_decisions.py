"""docs/decisions.md: the page's numbers are what the code makes, its snippets run, and its picture is up to date."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from schemas.ids import hash_fields
from schemas.tables import Verdicts
from tests.decisions import PAGE, PICTURE, Example, Point, examples, picture, regions
from tests.transforms.exporters.rows import row, table
from transforms.exporters.base import soft_rows
from transforms.plugins.registry import find, names
from transforms.publish.rows import RowsConfig, dataset_rows

TEXT = PAGE.read_text()
PAIRS = examples(TEXT)
DOUBTFUL = PAIRS[1]


def decided(points: list[Point], name: str = "posterior", **config: Any) -> pl.DataFrame:
    """Verdicts of pairs whose source says a, with these P(a), P(b), P(tie), by a policy."""
    p = np.array(points)
    p_a, even = p[:, 0] / (p[:, 0] + p[:, 1]), p[:, 0] == p[:, 1]
    frame = pl.DataFrame(
        {
            "pair_id": [hash_fields("pair", str(i)) for i in range(len(p))],
            "prompt_id": [hash_fields("prompt", str(i)) for i in range(len(p))],
            "p_a": p_a,
            "p_tie": p[:, 2],
            "label": np.where(even, "tie", np.array(["a", "b", "tie"])[p.argmax(axis=1)]),
            "margin": np.log(p_a / (1 - p_a)),
            "certainty": np.where(even, p[:, 2], p.max(axis=1)),
            "disagreement": np.zeros(len(p)),
            "noise": 1 - p[:, 0],
            "n_votes": [3] * len(p),
            "n_human": [0] * len(p),
            "prior": np.zeros(len(p)),
            "contributions": [[]] * len(p),
            "source_label": ["a"] * len(p),
        },
        schema_overrides={"contributions": Verdicts.columns()["contributions"].dtype},
    )
    policy = find("policies", name)
    return policy(name, policy.Config(**config), 0).decide({}, frame)


def published(verdicts: pl.DataFrame) -> pl.DataFrame:
    """The dataset rows of verdicts."""
    texts = table(*(row(f"What is {i}?", "It is so.", "It is not.") for i in range(len(verdicts))))
    pairs = verdicts.select(
        "pair_id",
        "prompt_id",
        prompt=texts["prompt"],
        response_a=texts["chosen"],
        response_b=texts["rejected"],
        model_a=pl.lit(None, pl.String),
        model_b=pl.lit(None, pl.String),
        origin=pl.lit("test"),
        **{name: pl.lit(None, pl.String) for name in ("context", "context_kind", "user_id", "group_id", "language")},
        **{name: pl.lit(None, pl.String) for name in ("kind", "meta", "origin_ref", "source_label", "checks")},
        source_strength=pl.lit(None, pl.Float64),
        reference=pl.lit(None, pl.String),
        tags=pl.lit(None, pl.List(pl.String)),
    )
    splits = pairs.select("prompt_id", split=pl.lit("train"), reason=pl.lit(None, pl.String))
    rows, _ = dataset_rows(pairs, verdicts, splits, RowsConfig())
    return rows


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.pair for pair in PAIRS])
def test_the_table_of_pairs_is_what_the_policy_does(pair: Example) -> None:
    p_a, p_b, _ = pair.outcomes
    computed = {"log-odds": pair.log_odds, "P(a)": p_a, "P(b)": p_b}
    assert {name: round(value, 3 if "P" in name else 1) for name, value in computed.items()} == pair.printed
    verdict = decided([pair.outcomes])
    assert verdict["action"].item() == {"in doubt": "drop"}.get(pair.action, pair.action)
    assert ("doubtful" in verdict["reasons"].item()) == (pair.action == "in doubt")


def test_the_snippet_is_the_arithmetic_of_the_code() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    values: dict[str, Any] = {}
    exec(code, values)
    verdict = decided([DOUBTFUL.outcomes], doubtful="soften")
    kept = published(verdict).row(0, named=True)
    assert values["label"] == verdict["label"].item()
    computed = {
        **{name: kept[name] for name in ("p_chosen", "margin", "weight")},
        **{name: verdict[name].item() for name in ("certainty", "noise")},
        "log_odds": verdict["margin"].item(),
    }
    assert {name: values[name] for name in computed} == pytest.approx(computed)
    # What the comments say is what the names hold.
    for line in code.splitlines():
        said = re.match(r"(.+?) = .*#(?: b, .*| ([-\d., ]+))$", line)
        if said and said[2]:
            held = [values[name.strip()] for name in said[1].split(",")]
            assert [round(value, 3) for value in held] == [float(x) for x in said[2].split(", ")]


def test_what_doubtful_does_is_as_the_table_says() -> None:
    listing = TEXT.partition("| `doubtful` |")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in listing.splitlines()[2:]]
    assert [cells[0] for cells in lines] == ["`drop`", "`flip`", "`soften`", "`ask`"]
    for name, actions, becomes, p_chosen, margin, weight in lines:
        verdict = decided([DOUBTFUL.outcomes, (0.45, 0.35, 0.2)], doubtful=name.strip("`"))
        assert set(verdict["action"]) == set(re.findall(r"`(\w+)`", actions))
        rows = published(verdict.head(1))
        assert becomes.startswith("a row" if rows.height else "a reject, `doubtful`")
        numbers = [f"{x:.3g}" for x in rows.select("p_chosen", "margin", "weight").row(0)] if rows.height else [""] * 3
        assert numbers == [p_chosen, margin, weight]


def test_reasons_and_columns_are_those_of_the_code() -> None:
    for name in names("policies"):
        for code in re.findall(r"`(\w+)`", find("policies", name).__doc__.partition("Reasons:")[2]):
            assert f"`{code}`" in TEXT, code
    assert {"p_chosen", "margin", "weight", "chosen_is", "decided_by"} <= set(table(row("?", "a", "b")).columns)


def test_the_policys_block_is_its_default() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    given = yaml.safe_load(block)["fuse"]["policy"]
    default = find("policies", given.pop("plugin")).Config()
    assert given["doubtful"] == default.doubtful
    assert given["certainty"] == pytest.approx(default.certainty, abs=1e-4)


def test_exports_do_with_softened_rows_what_the_table_says() -> None:
    for formats, default, _ in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \| ([^|]*) \|$", TEXT, re.MULTILINE):
        for name in re.findall(r"`([\w-]+)`", formats):
            if name not in names("exporters"):
                continue
            config = find("exporters", name).Config()
            soft = re.findall(r"\(`(\w+)`\)", default)
            assert soft == ([config.soft_labels] if hasattr(config, "soft_labels") else []), name
    config = find("exporters", "trl-dpo").Config(soft_labels="duplicate")
    rows = published(decided([DOUBTFUL.outcomes], doubtful="soften")).lazy()
    draws = [soft_rows(rows, config, seed).select("chosen").collect() for seed in range(200)]
    assert all(len(copies) == config.copies == 4 for copies in draws)
    chosen = rows.select("chosen").collect().item()
    exchanged = np.mean([text != chosen for copies in draws for text in copies["chosen"]])
    assert exchanged == pytest.approx(0.475, abs=0.03)


def test_the_regions_of_the_picture_are_the_policys() -> None:
    points = np.random.default_rng(0).dirichlet([1, 1, 1], 2000)
    corners = regions(find("policies", "posterior").Config().certainty)
    actions = decided([tuple(p) for p in points])["action"].to_list()
    for point, action in zip(points, actions, strict=True):
        inside = [name for name, polygon in corners.items() if _holds(np.array(polygon), point)]
        assert inside == ([] if action == "drop" else [action])


def _holds(polygon: np.ndarray[Any, Any], point: np.ndarray[Any, Any]) -> bool:
    """Whether a convex polygon, its corners in order, holds a point; both by (P(other), P(tie))."""
    corners, p = polygon[:, 1:], point[1:]
    sides, offsets = np.roll(corners, -1, axis=0) - corners, p - corners
    turns = sides[:, 0] * offsets[:, 1] - sides[:, 1] * offsets[:, 0]
    return bool((turns > 0).all() or (turns < 0).all())


def test_the_picture_is_drawn_from_the_page() -> None:
    assert PICTURE.read_text() == picture(PAIRS), "python -m tests.decisions draws it anew"
