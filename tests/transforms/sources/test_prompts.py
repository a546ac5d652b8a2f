"""Prompts to generate from, in every file format."""

from __future__ import annotations

import json

import pytest

from schemas.messages import message, messages_id
from schemas.tables import Prompts
from tests.transforms.sources.support import SUFFIXES, assert_conserved, read_rows
from transforms.sources.config import PromptsSource
from transforms.sources.detect import detect


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_prompt_keeps_its_fields_in_every_format(suffix: str) -> None:
    row = {
        **{"question": "p", "kind": "chat", "reference": "r", "documents": ["d1", "d2"], "group_id": "g"},
        **{"checks": [{"type": "max_words", "n": 3}], "difficulty": "low", "id": "x1"},
    }
    result = read_rows(
        [row], suffix, kind="prompts", columns={"prompt": "question"}, constants={"language": "en", "tags": ["ours"]}
    )
    assert_conserved(result)
    Prompts.validate(result.prompts)
    prompt = result.prompts.row(0, named=True)
    assert prompt["prompt_id"] == messages_id([message("user", "p")])
    assert (prompt["kind"], prompt["reference"], prompt["language"], prompt["group_id"]) == ("chat", "r", "en", "g")
    assert (prompt["documents"], prompt["tags"]) == (["d1", "d2"], ["ours"])
    assert json.loads(prompt["checks"]) == [{"type": "max_words", "n": 3}]
    assert json.loads(prompt["meta"]) == {"difficulty": "low", "id": "x1"}
    assert result.pairs.is_empty()
    assert result.votes.is_empty()


def test_a_prompt_is_one_text_or_a_conversation() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    ways = [turns, json.dumps(turns), "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"]
    prompts = read_rows([{"prompt": way} for way in ways], kind="prompts").prompts
    assert prompts["prompt_id"].n_unique() == 1
    assert [m["content"] for m in prompts["prompt"][0].to_list()] == ["q", "a", "r"]


def test_bad_prompts_are_rejected_one_by_one() -> None:
    rows = [{"prompt": "p"}, {"prompt": ""}, {"prompt": 3}, {"prompt": "x" * 11}, {"prompt": "p", "documents": [1]}]
    result = read_rows(rows, kind="prompts", max_chars=10)
    assert_conserved(result)
    assert result.rejects["reason"].to_list() == ["empty_prompt", "bad_prompt", "too_long", "bad_field"]


def test_columns_of_pairs_are_everything_else_for_prompts() -> None:
    config = PromptsSource(name="s", kind="prompts", path="x")
    assert detect(config, ["prompt", "chosen", "kind"], "f").taken == {"prompt", "kind"}
