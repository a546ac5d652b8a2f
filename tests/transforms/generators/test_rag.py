import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import unit_interval
from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run, text
from transforms.generators._passages import numbered, relevance
from transforms.generators.rag import abstains, cite, misplaced_citation
from transforms.llm.request import Request

DOCUMENTS = [
    "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
    "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
    "Cape Norr lies at the mouth of the bay and is reached by a ferry.",
]
QUESTION = "How high is the lighthouse of Cape Norr, and who was its keeper?"


def row():  # type: ignore[no-untyped-def]
    return prompt_row(QUESTION, documents=DOCUMENTS)


def scenario(name: str, engine: FakeEngine | None = None, **config: object):  # type: ignore[no-untyped-def]
    return run(build("rag", engine="small", scenarios=[name], **config), row(), engine)


def winner(pair):  # type: ignore[no-untyped-def]
    return text(pair[f"response_{pair['source_label']}"])


def loser(pair):  # type: ignore[no-untyped-def]
    return text(pair["response_b" if pair["source_label"] == "a" else "response_a"])


def shown_to(request: Request) -> list[str]:
    return [d for d in DOCUMENTS if d in request.body["messages"][-1]["content"]]


def test_multi_hop_good_saw_all_hops_and_bad_saw_one(engine: FakeEngine) -> None:
    [pair] = scenario("multi_hop", engine, hops=2).pairs
    facts = meta(pair)
    assert pair["context"] == numbered(DOCUMENTS)
    hops = {DOCUMENTS[n - 1] for n in facts["hops"]}
    assert len(hops) == 2
    assert facts["seen_by_bad"] in facts["hops"]
    seen = sorted((shown_to(r) for r in engine.requests), key=len)
    assert seen == [[DOCUMENTS[facts["seen_by_bad"] - 1]], [d for d in DOCUMENTS if d in hops]]


def test_wrong_citation_is_the_only_difference_and_stands_where_recorded() -> None:
    def answer(request: Request) -> str:
        return "It is 42 metres high [1]. The keeper was Ada Lind [2]."

    [pair] = scenario("citation", FakeEngine(answer)).pairs
    facts = meta(pair)["citation"]
    good, bad = winner(pair), loser(pair)
    start, end = facts["span"]
    assert facts["cited_by"] == "llm"
    assert bad[start:end] == facts["inserted"] != facts["removed"]
    assert bad[:start] + facts["removed"] + bad[end:] == good
    assert 1 <= int(facts["inserted"]) <= len(DOCUMENTS)


def test_uncited_answer_is_cited_by_rule_with_valid_numbers() -> None:
    engine = FakeEngine(lambda r: "The lighthouse stands 42 metres high. Its keeper kept a diary for years. Yes.")
    [pair] = scenario("citation", engine).pairs
    assert meta(pair)["citation"]["cited_by"] == "rule"
    assert re.findall(r"\[(\d)\]", winner(pair)) == ["1", "2"]


def test_abstention_context_withholds_what_the_bad_answer_rests_on() -> None:
    def answer(request: Request) -> str:
        return "It is 42 metres high." if len(shown_to(request)) == 1 else "The documents do not mention the height."

    [pair] = scenario("abstain", FakeEngine(answer)).pairs
    withheld = meta(pair)["withheld"]
    assert withheld in DOCUMENTS
    assert withheld not in pair["context"]
    assert all(d in pair["context"] for d in DOCUMENTS if d != withheld)
    assert abstains(winner(pair))
    assert not abstains(loser(pair))


def test_engine_that_cannot_abstain_is_replaced_by_the_rule() -> None:
    [pair] = scenario("abstain").pairs
    assert abstains(winner(pair))


def test_conflict_shows_both_versions_and_bad_saw_only_the_altered(engine: FakeEngine) -> None:
    [pair] = scenario("conflict", engine).pairs
    facts = meta(pair)["conflict"]
    passages = re.split(r"\n\n\[\d+\] ", "\n\n" + pair["context"])[1:]
    original, altered = (passages[n - 1] for n in facts["documents"])
    start, end = facts["span"]
    assert original in DOCUMENTS
    assert altered[start:end] == facts["inserted"]
    assert altered[:start] + facts["removed"] + altered[end:] == original != altered
    contents = [r.body["messages"][-1]["content"] for r in engine.requests]
    assert sum(original in c and altered in c for c in contents) == 1
    assert sum(altered in c and original not in c for c in contents) == 1


def test_verifiers_must_all_agree() -> None:
    def answer(request: Request) -> str | None:
        return "A" if "A or B" in request.body["messages"][-1]["content"] else None

    result = scenario("multi_hop", FakeEngine(answer), verifiers=["j1", "j2"])
    assert [r["reason"] for r in result.rejects] == ["verifiers_disagree"]


def test_what_the_documents_do_not_allow_is_a_reject() -> None:
    result = run(build("rag", engine="small"), prompt_row(documents=["Only one, and no figures here"]))
    reasons = {r["reason"] for r in result.rejects}
    assert "scenario_impossible" in reasons
    assert [r["reason"] for r in run(build("rag", engine="small"), prompt_row()).rejects] == ["no_documents"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The documents do not contain it.", True),
        ("I don't know.", True),
        ("This is not mentioned in the passages given.", True),
        ("There is no information on the keeper.", True),
        ("None of them says so.", True),
        ("It is 42 metres high.", False),
        ("The tower does not include a lift, and it is 42 metres high.", False),
        ("I cannot recommend the ferry in winter.", False),
    ],
)
def test_abstention_is_told_from_an_answer(text: str, expected: bool) -> None:
    assert abstains(text) == expected


@given(st.integers(0, 100), st.integers(2, 6))
def test_misplaced_citation_points_to_another_passage(seed: int, n: int) -> None:
    text = f"One [1]. Two [2]. {n} [{n}]."
    edit = misplaced_citation(text, n, lambda *names: unit_interval(str(seed), *names))
    assert edit is not None
    assert edit.removed != edit.inserted
    assert 1 <= int(edit.inserted) <= n


def test_cite_adds_citations_and_nothing_else() -> None:
    text = "The keeper kept a diary. Nothing in common! The ferry goes to the cape."
    cited = cite(text, DOCUMENTS)
    assert re.sub(r" \[\d+\]", "", cited) == text
    assert cited == "The keeper kept a diary [2]. Nothing in common! The ferry goes to the cape [3]."


def test_relevance_ranks_by_shared_rare_words() -> None:
    scores = relevance("Who kept a diary?", DOCUMENTS)
    assert max(range(3), key=scores.__getitem__) == 1
    assert min(scores) >= 0
