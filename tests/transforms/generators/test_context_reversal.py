from collections import defaultdict
from typing import Any

import pytest

from schemas.messages import text_of
from schemas.pairs import mirrored
from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run, text
from transforms.generators.preferences.contrasts import MEASURES, contrast_of, contrasts
from transforms.llm.request import Request

PROMPTS = ["How do tides work?", "Write a toast.", "Why is the sky blue?"]


def twins(pairs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    found: dict[Any, dict[str, Any]] = defaultdict(dict)
    for pair in pairs:
        key = (text_of(pair["response_a"]), text_of(pair["response_b"]), meta(pair)["contrast"])
        found[key][meta(pair)["side"]] = pair
    assert all(set(sides) == {"more", "less"} for sides in found.values())
    return [(sides["more"], sides["less"]) for sides in found.values()]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_twins_share_responses_and_split_and_reverse_their_label(prompt: str) -> None:
    result = run(
        build("context_reversal", engines="small", verify=False, n=5, k=4, contrasts_per_pair=3), prompt_row(prompt)
    )
    found = twins(result.pairs)
    assert len(found) == 12
    for more, less in found:
        assert more["group_id"] == less["group_id"]
        assert more["pair_id"] != less["pair_id"]
        assert "twin" in more["tags"]
        assert "twin" in less["tags"]
        if more["source_label"] is None:
            assert less["source_label"] is None
        else:
            assert more["source_label"] == mirrored(less["source_label"]) != less["source_label"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_label_under_more_is_the_response_with_more_of_what_is_measured(prompt: str) -> None:
    config = {"n": 6, "policy": "all", "contrasts_per_pair": 4, "verify": False}
    pairs = run(build("context_reversal", engines="small", **config), prompt_row(prompt)).pairs
    labelled = [p for p in pairs if p["source_label"]]
    assert labelled
    for pair in labelled:
        facts = meta(pair)
        measure = MEASURES[contrast_of(facts["contrast"]).measure or ""]
        a, b = measure(text(pair["response_a"])), measure(text(pair["response_b"]))
        larger = "a" if a > b else "b"
        assert pair["source_label"] == facts["expected"] == (larger if facts["side"] == "more" else mirrored(larger))


def test_context_free_accuracy_is_half_by_construction() -> None:
    config = {"n": 6, "policy": "all", "contrasts_per_pair": 3, "verify": False}
    generator = build("context_reversal", engines="small", **config)
    labels = [p["source_label"] for p in run(generator, prompt_row()).pairs if p["source_label"]]
    # Whatever fixed answer a context-blind judge gives to a pair of responses, it is right for one twin of two.
    assert labels.count("a") == labels.count("b") > 0


def test_candidates_are_those_of_sample_n() -> None:
    asked = [FakeEngine(), FakeEngine()]
    for plugin, engine, more in zip(("sample_n", "context_reversal"), asked, ({}, {"verify": False}), strict=True):
        run(build(plugin, engines="small", n=4, **more), prompt_row(), engine)
    assert [r.request_id for r in asked[0].requests] == [r.request_id for r in asked[1].requests]


def test_without_label_the_expectation_is_recorded_only() -> None:
    pairs = run(build("context_reversal", engines="small", label=False, verify=False), prompt_row()).pairs
    assert all(p["source_label"] is None for p in pairs)
    assert any(meta(p).get("expected") for p in pairs)


def follows_context(request: Request) -> str | None:
    """A judge that prefers the longer response when the context says detail, the shorter when it says brief."""
    content = request.body["messages"][-1]["content"]
    if "A or B" not in content:
        return None
    a = content.split("[Response A]")[1].split("[End of response A]")[0]
    b = content.split("[Response B]")[1].split("[End of response B]")[0]
    return "A" if (len(a.split()) > len(b.split())) == ("into more detail" in content) else "B"


def test_verification_keeps_twins_that_reverse() -> None:
    config = {"only": ["detail"], "verifier": "large", "n": 4, "policy": "all"}
    kept = run(build("context_reversal", engines="small", **config), prompt_row(), FakeEngine(follows_context))
    assert kept.pairs
    for pair in kept.pairs:
        if pair["source_label"]:
            p_first = meta(pair)["judged_p_first"]
            assert p_first in (0.0, 1.0)


def test_the_engine_itself_verifies_where_nobody_else_is_named_and_must_agree_with_the_measure() -> None:
    def contrary(request: Request) -> str | None:
        said = follows_context(request)
        return None if said is None else {"A": "B", "B": "A"}[said]

    config = {"only": ["detail"], "n": 4, "policy": "all"}
    engine = FakeEngine(follows_context)
    kept = run(build("context_reversal", engines="small", **config), prompt_row(), engine)
    assert any(p["source_label"] for p in kept.pairs)
    assert {r.engine for r in engine.requests} == {"small"}
    turned = run(build("context_reversal", engines="small", **config), prompt_row(), FakeEngine(contrary))
    assert not [p for p in turned.pairs if p["source_label"]]
    assert "no_reversal" in {r["reason"] for r in turned.rejects}


def test_verification_rejects_when_the_judge_ignores_the_context() -> None:
    def longer(request: Request) -> str | None:
        return follows_context(
            Request(
                request.engine,
                request.model,
                {
                    **request.body,
                    "messages": [
                        {
                            "role": "user",
                            "content": request.body["messages"][-1]["content"].replace(
                                "is brief and gets", "goes into more detail"
                            ),
                        }
                    ],
                },
            )
        )

    config = {"only": ["detail"], "verifier": "large", "n": 3, "policy": "all"}
    result = run(build("context_reversal", engines="small", **config), prompt_row(), FakeEngine(longer))
    assert not result.pairs
    assert {r["reason"] for r in result.rejects} == {"no_reversal"}


def test_written_contrasts_give_unlabelled_twins() -> None:
    config = {"source": "written", "writer": "large", "verify": False}
    found = twins(run(build("context_reversal", engines="small", **config), prompt_row()).pairs)
    assert found
    assert all(m["source_label"] is None and m["context"] != n["context"] for m, n in found)


def test_written_contrasts_take_the_forms_in_turn() -> None:
    config = {"source": "written", "writer": "large", "k": 1, "verify": False}
    config["forms"] = ["scenario", "profile", "criterion"]
    engine = FakeEngine()
    made = run(build("context_reversal", engines="small", contrasts_per_pair=3, **config), prompt_row(), engine)
    asked = [r.body["messages"][-1]["content"] for r in engine.requests if r.engine == "large"]
    assert [("situation" in x, "Describe a reader" in x, "Write a criterion" in x) for x in asked] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip
    assert sorted(p["context_kind"] for p in made.pairs) == ["criterion"] * 4 + ["persona"] * 2


def test_unreadable_contrast_is_a_reject() -> None:
    def answer(request: Request) -> str | None:
        return "I would rather not." if "response_format" in request.body else None

    config = {"source": "written", "writer": "large", "k": 1}
    result = run(build("context_reversal", engines="small", **config), prompt_row(), FakeEngine(answer))
    assert [r["reason"] for r in result.rejects] == ["unparsable"]


def test_built_in_contrasts_are_well_formed() -> None:
    names = [c.name for c in contrasts()]
    assert len(names) == len(set(names)) >= 20
    for contrast in contrasts():
        assert contrast.more != contrast.less
        assert contrast.measure is None or contrast.measure in MEASURES
        assert contrast.kind in ("criterion", "persona")
        assert contrast.favours_more("same words", "same words") == 0


@pytest.mark.parametrize(
    ("measure", "more", "less"),
    [
        ("words", "one two three four", "one two"),
        ("list_items", "- a\n- b\n1. c", "a - b, 1.5"),
        ("digits", "in 1984", "in that year"),
        ("contractions", "I don't think it's so", "I do not think it is so"),
        ("first_person", "I said we go", "It is in Illinois"),
        ("hedges", "It may perhaps rain", "It will rain in May"),
        ("words_per_sentence", "This one is a single long sentence.", "Short. Words. Here."),
        ("letters_per_word", "photosynthesis chlorophyll", "a big dog"),
    ],
)
def test_measures_count_what_they_say(measure: str, more: str, less: str) -> None:
    assert MEASURES[measure](more) > MEASURES[measure](less)
