from tests.transforms.generators.harness import FakeEngine, build, failed, meta, prompt_row, run, text
from transforms.generators.contrast_prompt import opposed
from transforms.llm.request import Reply, Request

GOOD = {sides["better"] for sides in opposed().values()}


def engine_with_judge(prefers_good: bool | None, position: str | None = None) -> FakeEngine:
    """Writes "good ..." or "bad ..." as told; judges by content, by position, or not at all."""

    def answer(request: Request) -> str | Reply | None:
        messages = request.body["messages"]
        if "A or B" not in messages[-1]["content"]:
            return ("good" if messages[0]["content"] in GOOD else "bad") + f" answer {request.body['seed']}"
        if position:
            return position
        if prefers_good is None:
            return failed(request)
        first_is_good = messages[-1]["content"].split("[Response A]")[1].strip().startswith("good")
        return "A" if first_is_good == prefers_good else "B"

    return FakeEngine(answer)


def test_verified_pair_prefers_the_response_under_the_good_instruction() -> None:
    result = run(build("contrast_prompt", engine="small", k=3), prompt_row(), engine_with_judge(True))
    assert len(result.pairs) == 3
    for pair in result.pairs:
        assert text(pair[f"response_{pair['source_label']}"]).startswith("good")
        assert meta(pair)["p_better"] == 1.0


def test_instruction_alone_is_no_label() -> None:
    for judge in (engine_with_judge(False), engine_with_judge(None), engine_with_judge(True, position="A")):
        result = run(build("contrast_prompt", engine="small"), prompt_row(), judge)
        assert not result.pairs
        assert [r["reason"] for r in result.rejects] == ["contrast_not_verified"]


def test_unverified_pairs_carry_no_label() -> None:
    result = run(build("contrast_prompt", engine="small", verify=False), prompt_row())
    assert [p["source_label"] for p in result.pairs] == [None]
    assert meta(result.pairs[0])["expected"] in ("a", "b")


def test_the_prompt_of_the_pair_is_the_users_alone() -> None:
    row = prompt_row()
    [pair] = run(build("contrast_prompt", engine="small", verify=False), row).pairs
    assert pair["prompt"] == row["prompt"]


def test_opposed_instructions_differ() -> None:
    assert len(opposed()) >= 8
    assert all(set(sides) == {"better", "worse"} and sides["better"] != sides["worse"] for sides in opposed().values())
