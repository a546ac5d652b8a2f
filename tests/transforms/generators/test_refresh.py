from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import text_of
from tests.transforms.generators.harness import FakeEngine, build, meta, pair_row, run
from transforms.generators.refresh import extremes
from transforms.llm.request import Request


def rater(old: tuple[int, int], fresh: int) -> FakeEngine:
    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        if not content.startswith("Rate"):
            return f"A fresh thought {request.body['seed']}."
        body = content.split("[Response]")[1].strip()
        return str(old[0] if body.startswith("The moon") else old[1] if body.startswith("Because") else fresh)

    return FakeEngine(answer)


CONFIG = {"engine": "small", "rater": "large", "n": 1}


@given(st.lists(st.lists(st.integers(1, 9).map(float), min_size=1, max_size=4), min_size=2, max_size=5))
def test_without_optimism_best_and_worst_are_the_extreme_means(ratings: list[list[float]]) -> None:
    best, worst = extremes(ratings, 0.0)
    means = [sum(r) / len(r) for r in ratings]
    assert means[best] == max(means)
    assert means[worst] == min(means)


def test_optimism_prefers_the_uncertain_at_equal_means() -> None:
    assert extremes([[5.0, 5.0], [2.0, 8.0], [1.0, 1.0]], 0.5) == (1, 2)


def test_stale_pair_is_renewed_with_the_best_fresh_answer() -> None:
    row = pair_row(model_first="old", model_second="old")
    [pair] = run(build("refresh", **CONFIG), row, rater((6, 3), 9)).pairs
    texts = [text_of(pair["response_a"]), text_of(pair["response_b"])]
    assert any(t.startswith("A fresh thought") for t in texts)
    assert any(t.startswith("Because") for t in texts)
    assert pair["prompt_id"] == row["prompt_id"]
    assert pair["pair_id"] != row["pair_id"]
    assert meta(pair)["old_gap"] == 3.0


def test_hard_pair_of_the_present_model_is_left_alone(engine: FakeEngine) -> None:
    row = pair_row(model_first="small-weights", model_second="old")
    result = run(build("refresh", **CONFIG, easy_gap=3.0), row, rater((6, 5), 9))
    assert [r["reason"] for r in result.rejects] == ["still_useful"]


def test_easy_pair_of_the_present_model_is_renewed() -> None:
    row = pair_row(model_first="small-weights", model_second="small-weights")
    assert run(build("refresh", **CONFIG, easy_gap=3.0), row, rater((8, 2), 1)).pairs


def test_no_new_pair_where_the_old_ones_remain_the_extremes() -> None:
    result = run(build("refresh", **CONFIG), pair_row(), rater((8, 2), 5))
    assert [r["reason"] for r in result.rejects] == ["unchanged"]


def test_context_goes_to_the_rater_and_stays_on_the_pair() -> None:
    row = pair_row(context="Prefer brevity.", context_kind="criterion")
    fake = rater((6, 3), 9)
    [pair] = run(build("refresh", **CONFIG), row, fake).pairs
    assert pair["context"] == "Prefer brevity."
    rated = [r for r in fake.requests if r.body["messages"][-1]["content"].startswith("Rate")]
    assert all("Prefer brevity." in r.body["messages"][-1]["content"] for r in rated)
