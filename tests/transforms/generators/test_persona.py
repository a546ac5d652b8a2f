import json
import math
from collections import defaultdict
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run, text
from transforms.generators.preferences import views
from transforms.generators.preferences.contrasts import MEASURES, contrast_of
from transforms.generators.preferences.views import (
    exemplar,
    favours_first,
    label_entropy,
    persona,
    population_spread,
    view_contrasts,
)
from transforms.llm.request import Request

PROMPTS = [f"Explain matter number {i} to me." for i in range(6)]


def test_exemplars_fit_the_side_they_stand_for() -> None:
    assert len(view_contrasts()) >= 12
    for contrast in view_contrasts():
        example = exemplar(contrast.name)
        assert contrast.favours_more(example.more, example.less) == 1, contrast.name


def test_weightiest_deciding_view_labels_the_pair() -> None:
    generator = build("persona", engine="small", personas_per_prompt=3)
    decided = 0
    for prompt in PROMPTS:
        for pair in run(generator, prompt_row(prompt)).pairs:
            facts = meta(pair)
            a, b = text(pair["response_a"]), text(pair["response_b"])
            winner, loser = (a, b) if pair["source_label"] == "a" else (b, a)
            assert facts["expected"] == pair["source_label"]
            if facts["decided_by"] == "stated":
                assert winner in pair["context"]
                assert favours_first(facts["views"], a, b)[0] == 0
                continue
            decided += 1
            side = dict(facts["views"])[facts["decided_by"]]
            measure = MEASURES[contrast_of(facts["decided_by"]).measure or ""]
            assert (measure(winner) > measure(loser)) == (side == "more")
    assert decided > 5


def test_context_states_every_view_and_personas_recur() -> None:
    generator = build("persona", engine="small", population=3, personas_per_prompt=2)
    seen = defaultdict(set)
    for prompt in PROMPTS:
        for pair in run(generator, prompt_row(prompt)).pairs:
            assert pair["context_kind"] == "persona"
            for name, side in meta(pair)["views"]:
                assert getattr(contrast_of(name), side) in pair["context"]
            seen[pair["user_id"]].add(pair["prompt_id"])
    assert 2 <= len(seen) <= 3
    assert max(map(len, seen.values())) > 1


def test_personas_are_reproducible_and_differ() -> None:
    population = [persona(1, i, 3) for i in range(50)]
    assert population == [persona(1, i, 3) for i in range(50)]
    assert len({p.persona_id for p in population}) == 50
    assert all(len({name for name, _ in p.views}) == 3 for p in population)


@given(st.lists(st.sampled_from("ab"), max_size=12))
def test_label_entropy_is_that_of_a_coin(labels: list[str]) -> None:
    p = labels.count("a") / len(labels) if labels else 0.0
    expected = -sum(q * math.log(q) for q in (p, 1 - p) if 0 < q < 1)
    assert label_entropy(labels) == pytest.approx(expected)


@given(st.integers(2, 12), st.integers(1, 6))
def test_population_spread_is_the_mean_over_all_pairs(n: int, views: int) -> None:
    people = [persona(3, i, views) for i in range(n)]
    facts = [{*p.attributes, *p.views} for p in people]
    oracle = [1 - len(x & y) / len(x) for x, y in combinations(facts, 2)]
    assert population_spread(facts) == pytest.approx(sum(oracle) / len(oracle))
    assert population_spread([facts[0]] * n) == pytest.approx(0)
    assert population_spread(facts[:1]) is None


def judged(by: str):  # type: ignore[no-untyped-def]
    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        if "A or B" not in content:
            return None
        if by == "length":
            a, b = (content.split(f"[Response {x}]")[1].split(f"[End of response {x}]")[0] for x in "AB")
            return "A" if (len(a), a) > (len(b), b) else "B"
        # A judge without a view of its own: another answer in every sample, the same in both orders.
        first_longer = content.split("[Response A]")[1] > content.split("[Response B]")[1]
        return "A" if (int(request.salt.rsplit("/", 1)[1]) % 2 == 0) == first_longer else "B"

    return FakeEngine(answer)


@pytest.mark.parametrize(("by", "reasons"), [("length", set()), ("sample", {"incoherent"})])
def test_coherence_check_keeps_the_decided_and_rejects_the_undecided(by: str, reasons: set[str]) -> None:
    generator = build("persona", engine="small", judge="large", coherence_samples=4, max_entropy=0.3)
    result = run(generator, prompt_row(), judged(by))
    assert {r["reason"] for r in result.rejects} == reasons
    assert bool(result.pairs) == (not reasons)


def test_written_profiles_join_the_context() -> None:
    def answer(request: Request) -> str | None:
        return json.dumps({"profile": "Keeps bees."}) if "response_format" in request.body else None

    result = run(build("persona", engine="small", writer="large"), prompt_row(), FakeEngine(answer))
    assert result.pairs
    assert all("Keeps bees." in p["context"] for p in result.pairs)


def test_alike_answers_under_opposite_views_are_rejects() -> None:
    result = run(build("persona", engine="small"), prompt_row(), FakeEngine(lambda r: "Always the same."))
    assert [r["reason"] for r in result.rejects] == ["near_identical_candidate"] * 2


def test_identity_follows_what_personas_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = build("persona", engine="small")
    before = generator.identity
    assert before == build("persona", engine="small").identity
    changed = {**views._library(), "attributes": {"age": ["young", "old"]}}
    monkeypatch.setattr(views, "_library", lambda: changed)
    views.library_id.cache_clear()
    try:
        assert generator.identity != before
    finally:
        views.library_id.cache_clear()
