import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run
from transforms.generators.base import written
from transforms.generators.past_future import Rated, anchored
from transforms.llm.request import Request

ratings = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def rated(values: list[int], model: str) -> list[Rated]:
    return [(float(v), written(f"{model} {i}", model)) for i, v in enumerate(values)]


@given(past=ratings, current=ratings, future=ratings)
def test_anchoring_never_narrows_the_gap(past: list[int], current: list[int], future: list[int]) -> None:
    chosen, rejected = anchored(rated(past, "past"), rated(current, "current"), rated(future, "future"))
    assert chosen[0] == max(current + future)
    assert rejected[0] == min(past + current)
    assert chosen[1].model in ("current", "future")
    assert rejected[1].model in ("past", "current")
    assert chosen[0] - rejected[0] >= max(current) - min(current)


def engines(scores: dict[str, str], consistent: bool = True) -> FakeEngine:
    """Each engine names itself in its text; the rater rates by that name and compares likewise."""

    def answer(request: Request) -> str | None:
        content = request.body["messages"][-1]["content"]
        if content.startswith("Rate"):
            return scores[content.split("[Response]")[1].split()[0]]
        if "A or B" in content:
            if not consistent:
                return "A"
            a, b = (content.split(f"[Response {x}]")[1].split()[0] for x in "AB")
            return "A" if scores[a] > scores[b] else "B"
        return f"{request.engine} says {request.body['seed']}"

    return FakeEngine(answer)


CONFIG = {"past": "old", "future": "new", "rater": "judge", "n": 2}


def test_chosen_comes_from_the_future_and_rejected_from_the_past() -> None:
    [pair] = run(build("past_future", **CONFIG), prompt_row(), engines({"old": "2", "new": "8"})).pairs
    winner = pair["source_label"]
    assert pair[f"model_{winner}"] == "new-weights"
    assert {pair["model_a"], pair["model_b"]} == {"new-weights", "old-weights"}
    sides = meta(pair)["sides"]
    assert sides[winner]["rating"] == 8.0


@pytest.mark.parametrize("scores", [{"old": "5", "new": "5"}])
def test_kept_only_if_rated_better(scores: dict[str, str]) -> None:
    result = run(build("past_future", **CONFIG), prompt_row(), engines(scores))
    assert not result.pairs
    assert [r["reason"] for r in result.rejects] == ["not_better"]


def test_position_biased_comparison_is_no_verification() -> None:
    result = run(build("past_future", **CONFIG), prompt_row(), engines({"old": "2", "new": "8"}, consistent=False))
    assert [r["reason"] for r in result.rejects] == ["not_better"]


def test_current_model_stands_between(engine: FakeEngine) -> None:
    fake = engines({"old": "6", "mid": "4", "new": "9"})
    [pair] = run(build("past_future", **CONFIG, current="mid"), prompt_row(), fake).pairs
    assert {pair["model_a"], pair["model_b"]} == {"new-weights", "mid-weights"}
