"""The real preference data, and our own demo prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from schemas.pairs import mirrored
from schemas.tables import Pairs, Prompts, Votes
from tests.transforms.sources.support import assert_conserved, read_path
from transforms.scorers.checks.vocabulary import parse_checks
from transforms.sources.dedupe import dedupe_pairs

ROOT = Path(__file__).resolve().parents[3]
VOTES = [
    {"kind": "human", "labels": "human_labels", "voters": "human_annotators"},
    {"kind": "judge", "column": "judge_labels", "order_suffix": True},
]
FILES = (
    *("pandalm_test", "hh_harmless_test", "llmbar", "ukpconvarg1"),
    *("finegrained_qa_dev", "tarm_webgpt_hh", "wmt23_mqm_sxs_ende"),
)


@pytest.mark.parametrize("name", FILES)
def test_real_data_is_read_whole_with_every_vote(name: str, shared_data: Path) -> None:
    path = shared_data / f"{name}.parquet"
    result = read_path(path, columns={"label": "gold"}, votes=VOTES)
    assert_conserved(result)
    assert result.rejects.is_empty()
    Pairs.validate(result.pairs.unique("pair_id"))
    Votes.validate(result.votes)
    deduped = dedupe_pairs(result.pairs)
    assert deduped.rows.height + deduped.rejects.height == result.rows_in

    # The oracle walks the file itself and finds each row's pair by the row number in origin_ref.
    rows = pl.read_parquet(path).to_dicts()
    stored = {p["origin_ref"]: p for p in result.pairs.iter_rows(named=True)}
    wanted = set()
    for number, row in enumerate(rows, 1):
        pair = stored[f"{name}.parquet:{number}"]
        swapped = pair["response_a"][0]["content"] != row["response_a"]
        assert {pair["response_a"][0]["content"], pair["response_b"][0]["content"]} == {
            row["response_a"],
            row["response_b"],
        }
        said = [("source", "s", "none", row["gold"])]
        said += [
            ("human", f"s/{v}", "none", x) for v, x in zip(row["human_annotators"], row["human_labels"], strict=True)
        ]
        for verdict in row["judge_labels"]:
            voter, _, order = verdict["judge"].partition("|")
            said.append(("judge", voter, order or "none", verdict["label"]))
        for kind, voter, order, label in said:
            if label is not None:
                seen = (mirrored(order), mirrored(label)) if swapped else (order, label)
                wanted.add((pair["pair_id"], kind, voter, *seen))
    assert set(result.votes.select("pair_id", "kind", "voter", "order", "label").rows()) == wanted
    assert result.votes.height == len(wanted)


def test_multi_turn_prompts_are_messages(shared_data: Path) -> None:
    result = read_path(shared_data / "hh_harmless_test.parquet", columns={"label": "gold"}, limit=200)
    turns = result.pairs["prompt"].list.len()
    assert turns.max() > 2
    for prompt in result.pairs["prompt"].to_list():
        assert [m["role"] for m in prompt] == ["user", "assistant"] * (len(prompt) // 2) + ["user"]


def test_the_demo_prompts_are_enough_varied_and_their_references_pass_their_checks() -> None:
    result = read_path(ROOT / "recipes" / "prompts" / "demo.jsonl", kind="prompts")
    assert_conserved(result)
    assert result.rejects.is_empty()
    Prompts.validate(result.prompts)
    kinds = Counter(result.prompts["kind"].to_list())
    assert result.prompts.height >= 66
    assert set(kinds) == {"chat", "instruction", "arithmetic", "code", "summarise", "safety"}
    assert min(kinds.values()) >= 11
    for row in result.prompts.iter_rows(named=True):
        name = json.loads(row["meta"])["id"]
        assert sum(len(m["content"].split()) for m in row["prompt"]) < 120, name
        assert row["reference"], name
        checks = parse_checks(row["checks"] or "[]")
        assert checks or row["kind"] not in ("instruction", "arithmetic"), name
        assert all(check.holds(row["reference"]) for check in checks), name
