import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import unit_interval
from tests.transforms.generators.harness import FakeEngine, build, meta, pair_row, prompt_row, run, text
from transforms.generators._corruptions import RULES, sentences
from transforms.generators._edits import changed_share, difference, replace
from transforms.generators._flaws import FLAWS
from transforms.text.similarity import normalised

ANSWER = (
    "The bridge is 1280 metres long and was opened in 1937. It is painted orange, so that ships see it in fog. "
    "About 110000 cars cross it on a working day, and the toll is paid in one direction only."
)
QUESTION = "How long is the bridge, when was it opened, and why is it orange?"
texts = st.text(st.sampled_from("ab .!?\n17é漢"), max_size=60)


@given(original=texts, changed=texts)
def test_difference_is_exact_and_can_be_undone(original: str, changed: str) -> None:
    edit = difference(original, changed)
    assert edit.apply(original) == changed
    assert replace(changed, *edit.span, edit.removed).apply(changed) == original
    assert changed[slice(*edit.span)] == edit.inserted


@given(original=texts)
def test_difference_of_equal_texts_is_empty(original: str) -> None:
    edit = difference(original, original)
    assert edit.removed == edit.inserted == ""
    assert changed_share(original, original) == 0.0


@given(kind=st.sampled_from(sorted(RULES)), content=texts | st.just(ANSWER), seed=st.integers(0, 99))
def test_rules_are_located_reversible_and_reproducible(kind: str, content: str, seed: int) -> None:
    def draw(*names: str) -> float:
        return unit_interval(str(seed), *names)

    edit = RULES[kind](content, QUESTION, draw)
    assert edit == RULES[kind](content, QUESTION, draw)
    if edit is not None:
        damaged = edit.apply(content)
        assert content[edit.start : edit.end] == edit.removed
        assert damaged[slice(*edit.span)] == edit.inserted
        assert replace(damaged, *edit.span, edit.removed).apply(damaged) == content


@pytest.mark.parametrize("kind", sorted(RULES))
def test_every_rule_finds_something_in_an_ordinary_answer(kind: str) -> None:
    edit = RULES[kind](ANSWER, QUESTION, lambda *names: unit_interval(*names))
    assert edit is not None
    assert normalised(edit.apply(ANSWER)) != normalised(ANSWER)


@given(seed=st.integers(0, 200))
def test_wrong_number_changes_the_value_of_one_number(seed: int) -> None:
    edit = RULES["wrong_number"](ANSWER, QUESTION, lambda *names: unit_interval(str(seed), *names))
    assert edit is not None
    assert edit.removed.isdigit()
    assert edit.inserted.isdigit()
    assert len(edit.removed) == len(edit.inserted)
    assert int(edit.removed) != int(edit.inserted)


@given(seed=st.integers(0, 50))
def test_dropped_requirement_removes_a_whole_sentence(seed: int) -> None:
    edit = RULES["dropped_requirement"](ANSWER, QUESTION, lambda *names: unit_interval(str(seed), *names))
    assert edit is not None
    assert edit.inserted == ""
    assert (edit.start, edit.start + len(edit.removed.rstrip())) in sentences(ANSWER)


@given(seed=st.integers(0, 50))
def test_truncation_keeps_a_beginning_that_ends_inside_a_sentence(seed: int) -> None:
    edit = RULES["truncation"](ANSWER, QUESTION, lambda *names: unit_interval(str(seed), *names))
    assert edit is not None
    kept = edit.apply(ANSWER)
    assert ANSWER.startswith(kept)
    assert 0 < len(kept) < len(ANSWER)
    assert kept[-1] not in ".!?"


def check_corruption(pair: dict[str, Any], good: str) -> None:
    facts = meta(pair)["corruption"]
    winner, loser = ("a", "b") if pair["source_label"] == "a" else ("b", "a")
    damaged = text(pair[f"response_{loser}"])
    start, end = facts["span"]
    assert text(pair[f"response_{winner}"]) == good
    assert damaged[start:end] == facts["inserted"]
    assert damaged[:start] + facts["removed"] + damaged[end:] == good


def test_corruption_stands_where_its_span_says_and_undoing_it_gives_the_reference() -> None:
    result = run(build("corrupt", k=8), prompt_row(QUESTION, reference=ANSWER))
    assert {meta(p)["corruption"]["kind"] for p in result.pairs} == set(RULES)
    for pair in result.pairs:
        check_corruption(pair, ANSWER)
    assert result.counts["asked"] == 0


def test_without_a_reference_the_answer_is_sampled(engine: FakeEngine) -> None:
    result = run(build("corrupt", engine="small", kinds=["truncation", "off_topic"]), prompt_row(), engine)
    assert len(engine.requests) == 1
    assert json.loads(result.pairs[0]["origin_ref"])["a"]["source"] in ("sample", "corruption")


def test_existing_pairs_are_corrupted_at_their_preferred_response() -> None:
    row = pair_row(QUESTION, ANSWER, "It is long.", first_label="a", model_first="gold")
    result = run(build("corrupt_pairs", k=3), row)
    assert len(result.pairs) == 3
    for pair in result.pairs:
        check_corruption(pair, ANSWER)
        assert pair["prompt_id"] == row["prompt_id"]


@pytest.mark.parametrize("label", [None, "tie"])
def test_pair_without_a_preferred_response_is_a_reject(label: str | None) -> None:
    result = run(build("corrupt_pairs"), pair_row(first_label=label))
    assert [r["reason"] for r in result.rejects] == ["no_preferred_response"]


def answer_with(reply: str) -> FakeEngine:
    return FakeEngine(lambda request: reply)


def llm(**config: Any) -> Any:
    return build("corrupt", engine="small", by=["llm"], kinds=["wrong_number"], **config)


def test_rewrite_by_the_engine_is_located_by_difference() -> None:
    row = prompt_row(QUESTION, reference=ANSWER)
    result = run(llm(), row, answer_with(ANSWER.replace("1937", "1973")))
    check_corruption(result.pairs[0], ANSWER)
    assert meta(result.pairs[0])["corruption"]["removed"] == "37"


def test_rewrite_that_changes_nothing_is_a_reject() -> None:
    result = run(llm(), prompt_row(QUESTION, reference=ANSWER), answer_with(f"  {ANSWER.upper()} "))
    assert not result.pairs
    assert {r["reason"] for r in result.rejects} >= {"nothing_to_corrupt"}
    same = run(llm(), prompt_row(QUESTION, reference=ANSWER), answer_with(f"  {ANSWER} "))
    assert {r["reason"] for r in same.rejects} == {"corruption_changed_nothing", "nothing_to_corrupt"}


def test_rewrite_of_everything_is_no_controlled_corruption() -> None:
    result = run(llm(), prompt_row(QUESTION, reference=ANSWER), answer_with("I like bridges, all of them, very much."))
    assert {r["reason"] for r in result.rejects} == {"corruption_uncontrolled", "nothing_to_corrupt"}


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="truncation"):
        build("corrupt", kinds=["typo"])


def test_neither_reference_nor_engine_is_a_reject() -> None:
    result = run(build("corrupt"), prompt_row())
    assert [r["reason"] for r in result.rejects] == ["no_answer"]


def test_llm_without_an_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine"):
        build("corrupt", by=["rule", "llm"])


# kind: rewrites that have its form, rewrites that have not
REWRITES: dict[str, tuple[list[str], list[str]]] = {
    "wrong_number": (
        [ANSWER.replace("1937", "1973"), ANSWER.replace("1280", "12,800")],
        [ANSWER.replace("painted", "coated"), ANSWER.replace("110000", "110,000"), ANSWER.replace("1937", "spring")],
    ),
    "wrong_unit": (
        [ANSWER.replace("metres", "feet"), ANSWER.replace("metres", "yards")],
        [f"{ANSWER} Hooray!", ANSWER.replace("1280", "1281"), ANSWER.replace("orange", "red")],
    ),
    "negation": (
        [ANSWER.replace("It is painted", "It is not painted"), ANSWER.replace("ships see", "ships never see")],
        [ANSWER.replace("painted", "coated"), ANSWER.replace("1937", "1973")],
    ),
    "dropped_requirement": (
        [ANSWER.replace(" It is painted orange, so that ships see it in fog.", "")],
        [ANSWER.replace("painted", "coated"), f"{ANSWER} It is long."],
    ),
    "unsupported_claim": (
        [f"{ANSWER} Its builder Ferdinand was a Portuguese monk."],
        [f"{ANSWER} Hooray!", ANSWER[:80], f"{ANSWER} The bridge is long."],
    ),
    "off_topic": (
        [ANSWER.replace("It is painted orange, so that ships see it in fog.", "My cat sleeps all afternoon.")],
        [
            ANSWER.replace("painted", "coated"),
            f"{ANSWER} My cat sleeps.",
            ANSWER.replace("1280", "bridge was opened 3"),
        ],
    ),
    "truncation": (
        [ANSWER[:90], f"{ANSWER[:91]}..."],
        [f"{ANSWER} It is also long.", ANSWER.replace("1937", "1973"), ANSWER[20:]],
    ),
    "verbosity": (
        [f"{ANSWER} All of this should be kept in mind at all times."],
        [ANSWER[:90], ANSWER.replace("1937", "1973"), f"{ANSWER} Yes."],
    ),
}


@pytest.mark.parametrize("kind", sorted(RULES))
def test_a_rewrite_must_have_the_form_of_its_kind(kind: str) -> None:
    row = prompt_row(QUESTION, reference=ANSWER)
    generator = build("corrupt", engine="small", by=["llm"], kinds=[kind], max_changed=1.0)
    right, wrong = REWRITES[kind]
    for reply in right:
        made = run(generator, row, answer_with(reply))
        assert len(made.pairs) == 1, (reply, made.rejects)
        check_corruption(made.pairs[0], ANSWER)
    for reply in wrong:
        made = run(generator, row, answer_with(reply))
        assert not made.pairs, reply
        assert {r["reason"] for r in made.rejects} == {"corruption_of_another_kind", "nothing_to_corrupt"}


@given(kind=st.sampled_from(sorted(RULES)), seed=st.integers(0, 200))
def test_what_a_rule_does_has_the_form_of_its_kind(kind: str, seed: int) -> None:
    edit = RULES[kind](ANSWER, QUESTION, lambda *names: unit_interval(str(seed), *names))
    assert edit is not None
    assert FLAWS[kind](ANSWER, edit.apply(ANSWER), QUESTION) is None


@given(kind=st.sampled_from(sorted(RULES)), original=texts, changed=texts)
def test_checks_take_any_text(kind: str, original: str, changed: str) -> None:
    fault = FLAWS[kind](original, changed, QUESTION)
    assert fault is None or fault
    assert FLAWS[kind](original, original, QUESTION) is not None
