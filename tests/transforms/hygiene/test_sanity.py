from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.hygiene.sanity import degenerate, echoes, is_empty, is_refusal, repetition, residue
from transforms.text.language import language_of


@pytest.mark.parametrize("text", ["", " \n\t", "...", "-- ?", "\u00a0"])
def test_empty(text: str) -> None:
    assert is_empty(text)


@pytest.mark.parametrize("text", ["4", "x", "é", "好", "👍", "a = b", "5 > 3", "+"])
def test_not_empty(text: str) -> None:
    assert not is_empty(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I cannot assist with this request.",
        "I am afraid I am unable to answer that.",
        "Sorry, I can't do that.",
        "I cannot provide instructions for this.",
        "I must decline to help.",
        "As an AI language model, I cannot have opinions.",
        "Unfortunately, I won't be able to help you.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the delay! Here is the recipe you asked for.",
        "I'm sorry to hear about your loss. Here is what helps.",
        "I can't believe how easy this is: mix and bake.",
        "I cannot recommend the film highly enough.".replace("recommend", "praise"),
        "As an AI researcher, she could not attend.",
        "The engine cannot help but overheat.",
        "It is a novel whose hero says: I can't help you.",
    ],
)
def test_answers_that_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_refusals_are_rare_among_human_written_answers(shared_data: Path) -> None:
    texts = pl.read_parquet(shared_data / "finegrained_qa_dev.parquet")["response_a"].to_list()
    assert sum(map(is_refusal, texts)) <= 0.002 * len(texts)


@pytest.mark.parametrize(
    "text",
    ["Fine.<|im_end|>", "[INST] hi [/INST]", "Human: and then?", "### Response: yes", "Dear {{ name }},", "ok</s>"],
)
def test_residue(text: str) -> None:
    assert residue(text)


@pytest.mark.parametrize(
    "text",
    [
        "In Jinja you write `{{ name }}`.",
        "```\n<|im_end|>\n```",
        "Humans: we are many.",
        "if a < b and c > d",
        "an <s>old</s> new",
    ],
)
def test_no_residue(text: str) -> None:
    assert residue(text) is None


PROMPT = "Write a short poem about the sea in winter, please, with four lines."


def test_echo() -> None:
    assert echoes(PROMPT, PROMPT.upper() + "  ")
    assert echoes(PROMPT, PROMPT + " Grey is the sea.")
    assert not echoes(PROMPT, "Grey is the sea in winter, and the gulls are few; the boats lie still.")
    assert echoes(PROMPT + " Thank you.", PROMPT)
    assert not echoes("Answer yes or no?", "no")
    text = "grey is the sea in winter and the gulls is few and the boats lies still"
    assert not echoes(f"Correct the grammar of this line: {text}.", text.replace("gulls is", "gulls are"))
    assert not echoes(PROMPT, "")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=60), st.integers(2, 20))
def test_repetition_grows_with_copies_and_stays_below_one(tokens: list[str], copies: int) -> None:
    once = " ".join(tokens)
    assert 0.0 <= repetition(once) < 1.0
    repeated = repetition(" ".join([once] * copies))
    # copies of n tokens have at most n distinct 4-grams among copies x n - 3
    assert repeated >= 1 - len(tokens) / (copies * len(tokens) - 3) - 1e-9


def test_degenerate_loops_and_ordinary_texts(shared_data: Path) -> None:
    assert degenerate("and so it goes " * 40)
    assert degenerate("x" * 100)
    assert degenerate("\n".join(["- the same point"] * 9 + ["another"] * 3))
    assert degenerate("-" * 100) is None
    assert degenerate("|---|---|\n" * 3) is None
    texts = pl.read_parquet(shared_data / "llmbar.parquet")["response_a"].to_list()
    assert sum(degenerate(t) is not None for t in texts) <= 0.01 * len(texts)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The keeper of the lighthouse wrote a diary for more than thirty years.", "en"),
        ("Der Leuchtturmwärter führte mehr als dreißig Jahre lang ein Tagebuch.", "de"),
        ("Le gardien du phare a tenu un journal pendant plus de trente ans.", "fr"),
        ("El guardián del faro escribió un diario durante más de treinta años.", "es"),
        ("灯台の管理人は三十年以上にわたって日記をつけていました。それは今も博物館に残っています。", "ja"),
        ("Смотритель маяка вёл дневник более тридцати лет подряд.", "ru"),
    ],
)
def test_language_of_a_sentence(text: str, language: str) -> None:
    assert language_of(text) == language


def test_too_short_or_code_only_has_no_language() -> None:
    assert language_of("Oui.") is None
    assert language_of("```python\nfor i in range(10):\n    print('the quick brown fox')\n```") is None


def test_language_is_right_on_real_texts(shared_data: Path) -> None:
    german = pl.read_parquet(shared_data / "wmt23_mqm_sxs_ende.parquet")["response_a"].to_list()[:400]
    english = pl.read_parquet(shared_data / "finegrained_qa_dev.parquet")["response_a"].to_list()[:400]
    for texts, language in ((german, "de"), (english, "en")):
        found = [language_of(text) for text in texts]
        known = [f for f in found if f is not None]
        assert len(known) > 100
        assert sum(f == language for f in known) >= 0.98 * len(known)
