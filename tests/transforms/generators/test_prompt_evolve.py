import json
from pathlib import Path

import pytest

from schemas.messages import messages_id, text_of
from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run
from transforms.generators.prompt_evolve import OPERATORS
from transforms.llm.request import Request

SEED = "Explain how a tide table is made and why it is right for one harbour only."


def replying(text: str) -> FakeEngine:
    return FakeEngine(lambda request: json.dumps({"prompt": text}))


def numbered(request: Request) -> str:
    operator = request.salt.rsplit("/", 1)[1]
    return json.dumps({"prompt": f"Tell a sailor about {operator} when {operator} {operator} matters at sea, please."})


def test_new_prompts_keep_the_seeds_split_and_say_where_they_come_from() -> None:
    seed = prompt_row(SEED, kind="explain", language="en", checks="[]", reference="It is measured.")
    result = run(build("prompt_evolve", engine="small", k=6), seed, FakeEngine(numbered))
    assert len(result.prompts) == 6
    for row in result.prompts:
        assert row["prompt_id"] == messages_id(row["prompt"])
        assert row["group_id"] == seed["prompt_id"]
        assert row["checks"] is None
        assert row["reference"] is None
        made = meta(row)["evolution"]
        assert made["evolved_from"] == seed["prompt_id"]
        assert made["operator"] in text_of(row["prompt"])
    assert {meta(r)["evolution"]["operator"] for r in result.prompts} == set(OPERATORS)
    assert not result.pairs


def test_grandchildren_share_the_group_of_the_first_seed() -> None:
    generator = build("prompt_evolve", engine="small", k=1)
    [child] = run(generator, prompt_row(SEED), FakeEngine(numbered)).prompts
    [grandchild] = run(
        build("prompt_evolve", engine="small", k=1),
        child,
        replying("A quite different question about the colours of ships."),
    ).prompts
    assert grandchild["group_id"] == child["group_id"] == prompt_row(SEED)["prompt_id"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SEED.upper(), "near_identical_prompt"),
        ("Why?", "too_short"),
        ("Here is the rewritten prompt: why do tides differ?", "template_residue"),
        ("I'm sorry, but I can't help with rewriting that.", "refusal"),
    ],
)
def test_what_is_no_new_prompt_is_a_reject(text: str, reason: str) -> None:
    result = run(build("prompt_evolve", engine="small", k=1), prompt_row(SEED), replying(text))
    assert not result.prompts
    assert [r["reason"] for r in result.rejects] == [reason]


def test_siblings_that_say_the_same_give_one_prompt() -> None:
    engine = replying("How would a fisherman without a table know the tide?")
    result = run(build("prompt_evolve", engine="small", k=3), prompt_row(SEED), engine)
    assert len(result.prompts) == 1
    assert [r["reason"] for r in result.rejects] == ["near_identical_prompt"] * 2


def test_benchmark_prompts_are_kept_out(tmp_path: Path) -> None:
    question = "A ship leaves the harbour at noon and sails north at twelve knots for three hours; how far is it?"
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps({"question": question}) + "\n")
    config = {"engine": "small", "k": 1, "benchmarks": [str(path)]}
    result = run(build("prompt_evolve", **config), prompt_row(SEED), replying(f"Solve this. {question} Show steps."))
    assert [r["reason"] for r in result.rejects] == ["contaminated"]
    before = build("prompt_evolve", **config).identity
    path.write_text(json.dumps({"question": question + " Why?"}) + "\n")
    assert build("prompt_evolve", **config).identity != before


def test_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="breadth"):
        build("prompt_evolve", engine="small", operators=["wider"])


def test_what_answers_the_seed_does_not_answer_the_new_prompt() -> None:
    given = json.dumps({"trajectories": [{"messages": []}], "topic": "sea"})
    made = run(build("prompt_evolve", engine="small", k=2), prompt_row(meta=given, reference="By the moon."))
    assert made.prompts
    for row in made.prompts:
        assert row["reference"] is None
        assert set(meta(row)) == {"topic", "evolution"}
