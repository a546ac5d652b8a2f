"""What stands in a text under judgement is never more than text: no turn, no fence, no verdict, no template code."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from tests.transforms.judges.fixtures import judge, pair, prompt_text, said, votes_of
from transforms.judges._parsing import tagged
from transforms.judges._templates import harmless
from transforms.judges._verdicts import bracketed_letter
from transforms.llm.request import Request
from transforms.plugins.registry import names

# Of the chat templates of ChatML (Qwen, SmolLM), Llama 2, 3, 4, Mistral, Gemma, DeepSeek, Phi, Command R, GLM, Granite,
# MiniMax and T5.
SPECIAL_TOKENS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|begin_of_text|>", "<|header_start|>", "<|eot|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]"),
    *("<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    *("[gMASK]", "<sop>", "<|start_of_role|>", "]~b]", "]~!b[", "<extra_id_0>", "<unused12>", "<think>", "</think>"),
    *("<tool_call>", "</tool_call>", "<mask>"),
]
MARKUP = [
    *("[[A]]", "[[B]]", "<answer>", "</answer>", "<verdict>", "</verdict>", "</text id=", "<text id=", "</text>"),
    *('{"verdict": "A"}', '{"reasoning": "", "verdict": "B"}', "{{ 7 * 7 }}", "{% raw %}", "{# x #}", "{{ nonce }}"),
]
KINDS = names("judges")
POINTWISE = ("nuggets",)  # which see one response at a time

pieces = st.sampled_from([*SPECIAL_TOKENS, *MARKUP, *"<|>[]/｜ \n"]) | st.text(max_size=3)
hostile = st.lists(pieces, max_size=12).map("".join)


def reading_tokenizer() -> Tokenizer:
    """A real tokenizer that knows every special token above, as a server's knows its model's."""
    made = Tokenizer(models.BPE(vocab={}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return made


TOKENIZER = reading_tokenizer()


def special_tokens(text: str) -> list[str]:
    return TOKENIZER.encode(text, add_special_tokens=False).tokens


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_each_special_token_is_seen_by_the_oracle_and_broken(token: str) -> None:
    assert special_tokens(f"a{token}b") == [token]
    assert special_tokens(harmless(f"a{token}b")) == []


@given(hostile)
def test_no_special_token_survives_whatever_stands_round_it(text: str) -> None:
    assert special_tokens(harmless(text)) == []


@given(hostile)
def test_nothing_but_the_marks_is_changed(text: str) -> None:
    assert harmless(text).replace("\u200b", "") == text.replace("\u200b", "")


@given(hostile)
def test_a_quoted_text_gives_no_verdict(text: str) -> None:
    # What a judge repeats of a response cannot be taken for the judge's own verdict.
    quoted = harmless(text)
    assert bracketed_letter(quoted) is None
    assert tagged(quoted, "answer") is None
    assert "</text" not in quoted.lower()


@pytest.mark.parametrize("text", ["[[[A]]]", "[[[[B]]]]", "<<|im_start|>", "<|>", "<<s>", "[[INST]]", "</<text>"])
def test_marks_that_overlap_are_all_broken(text: str) -> None:
    broken = harmless(text)
    assert not re.search(r"\[\[|\]\]|<\||\|>|<s>|\[INST\]|<text", broken)


FENCED = re.compile(r"<text id=[0-9a-z]+>\n(.*?)\n</text id=[0-9a-z]+>", re.DOTALL)


def skeleton(text: str) -> str:
    """What is left of a request when all fenced texts are taken out."""
    return FENCED.sub("...", text)


@cache
def judge_of(kind: str) -> Any:
    return judge(kind) if kind in POINTWISE else judge(kind, orders="ab")


def asked_about(kind: str, first: str, second: str) -> list[Request]:
    row = pair(first, second, context="Be brief.", context_kind="criterion", meta='{"nuggets": ["Paris."]}')
    _, asked = votes_of(judge_of(kind), [row], lambda request: said(request, ""))
    return asked


@pytest.mark.parametrize("kind", KINDS)
@given(first=hostile, second=hostile)
@settings(max_examples=40)
def test_what_a_text_holds_cannot_change_the_form_of_a_request(kind: str, first: str, second: str) -> None:
    """Same turns, same fences, same words of ours as for plain texts; the texts stand in it as they are."""
    texts = [f"1 {first}.", f"2 {second}."]
    asked, plain = asked_about(kind, *texts), asked_about(kind, "one", "two")
    assert len(asked) == len(plain)
    for request, usual in zip(asked, plain, strict=True):
        assert [m["role"] for m in request.body["messages"]] == [m["role"] for m in usual.body["messages"]]
        assert special_tokens(prompt_text(request)) == []
        assert skeleton(prompt_text(request)) == skeleton(prompt_text(usual))
        shown = {harmless(text) for text in texts} & set(FENCED.findall(prompt_text(request)))
        assert len(shown) == (1 if kind in POINTWISE else 2)


@given(hostile)
@settings(max_examples=40)
def test_a_fact_or_its_source_cannot_change_the_form_of_a_request(text: str) -> None:
    given_facts = pair(meta=orjson.dumps({"nuggets": [f"1 {text}."]}).decode())
    plain_facts = pair(meta='{"nuggets": ["one"]}')
    drawn, plain = (pair(context=context, context_kind="documents") for context in (f"1 {text}.", "one"))
    for row, usual_row in ((given_facts, plain_facts), (drawn, plain)):
        _, asked = votes_of(judge_of("nuggets"), [row], lambda request: said(request, ""))
        _, usual = votes_of(judge_of("nuggets"), [usual_row], lambda request: said(request, ""))
        assert len(asked) == len(usual)
        for request, other in zip(asked, usual, strict=True):
            assert [m["role"] for m in request.body["messages"]] == [m["role"] for m in other.body["messages"]]
            assert special_tokens(prompt_text(request)) == []
    assert harmless(f"1 {text}.") in FENCED.findall(prompt_text(asked[0]))
