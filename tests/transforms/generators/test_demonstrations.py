from tests.transforms.generators.harness import FakeEngine, build, prompt_row, run, text
from transforms.llm.request import Request

REFERENCE = "The moon and the sun pull the sea; the moon more, because it is nearer."


def test_reference_is_one_side_of_every_pair_and_is_preferred() -> None:
    result = run(build("demonstrations", engines="small", n=3), prompt_row(reference=REFERENCE))
    assert len(result.pairs) == 3
    for pair in result.pairs:
        winner = pair["source_label"]
        assert text(pair[f"response_{winner}"]) == REFERENCE
        assert pair[f"model_{winner}"] == "reference"
        assert pair["reference"] == REFERENCE


def test_samples_that_say_what_the_reference_says_are_rejects() -> None:
    result = run(
        build("demonstrations", engines="small", n=1),
        prompt_row(reference=REFERENCE),
        FakeEngine(lambda r: REFERENCE.upper()),
    )
    assert [r["reason"] for r in result.rejects] == ["sample_is_reference"]


def test_prompt_without_reference_is_a_reject_and_costs_nothing(engine: FakeEngine) -> None:
    result = run(build("demonstrations", engines="small"), prompt_row(), engine)
    assert [r["reason"] for r in result.rejects] == ["no_reference"]
    assert engine.requests == []


def test_verifier_that_prefers_the_sample_drops_the_pair() -> None:
    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        if "A or B" not in content:
            return None
        return "B" if content.split("[Response A]")[1].strip().startswith("The moon and the sun") else "A"

    generator = build("demonstrations", engines="small", n=2, verifier="large")
    result = run(generator, prompt_row(reference=REFERENCE), FakeEngine(answer))
    assert [r["reason"] for r in result.rejects] == ["reference_not_better"] * 2
