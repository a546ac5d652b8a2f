from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.ids import unit_interval
from tests.transforms.generators.harness import FakeEngine, build, meta, prompt_row, run, text
from transforms.generators.short_to_long import consistent, pad
from transforms.llm.request import Request

DOCUMENTS = ["The lighthouse is 42 metres high.", "Ferries run hourly.", "The bay freezes in some winters."]
QUESTION = "How high is the lighthouse?"


@pytest.fixture
def distractors(tmp_path: Path) -> str:
    path = tmp_path / "distractors.txt"
    path.write_text("\n\n".join(f"Paragraph {i} speaks of other things at some length." for i in range(60)))
    return str(path)


@given(
    critical=st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=4),
    others=st.lists(st.text("xyz", min_size=1, max_size=8), max_size=12),
    target=st.integers(1, 120),
    seed=st.integers(0, 20),
)
def test_padding_keeps_every_critical_chunk_at_its_span_and_stops_at_the_target(
    critical: list[str], others: list[str], target: int, seed: int
) -> None:
    padded = pad(critical, others, target, lambda *names: unit_interval(str(seed), *names))
    everything = len("\n\n".join([*critical, *others]))
    if padded is None:
        assert everything < target
        return
    context, spans = padded
    assert [context[s:e] for s, e in spans] == critical
    assert len(context) >= target
    longest = max([len(o) + 2 for o in others], default=0)
    assert len(context) < max(target, len("\n\n".join(critical)) + 1) + longest
    pieces = context.split("\n\n")
    assert sorted(pieces) == sorted([*critical, *(p for p in pieces if p in others)])


def shorter_wins(request: Request) -> str | None:
    content = request.body["messages"][-1]["content"]
    if "A or B" not in content:
        return None
    a, b = (content.split(f"[Response {x}]")[1].split(f"[End of response {x}]")[0] for x in "AB")
    return "A" if (len(a), a) < (len(b), b) else "B"


def test_label_comes_from_the_short_context_and_holds_for_the_long(distractors: str) -> None:
    fake = FakeEngine(shorter_wins)
    config = {"engine": "small", "distractors": distractors, "target_chars": 1500}
    [pair] = run(build("short_to_long", **config), prompt_row(QUESTION, documents=DOCUMENTS), fake).pairs
    a, b = text(pair["response_a"]), text(pair["response_b"])
    assert pair["source_label"] == ("a" if (len(a), a) < (len(b), b) else "b")
    assert len(pair["context"]) >= 1500
    assert [pair["context"][s:e] for s, e in meta(pair)["critical_spans"]] == DOCUMENTS[:1]
    # Nobody was asked to read the long context.
    assert all("Paragraph 5" not in r.body["messages"][-1]["content"] for r in fake.requests)


def test_responses_do_not_depend_on_the_padding(distractors: str) -> None:
    made = []
    for target in (200, 2000):
        config = {"engine": "small", "distractors": distractors, "target_chars": target}
        result = run(
            build("short_to_long", **config), prompt_row(QUESTION, documents=DOCUMENTS), FakeEngine(shorter_wins)
        )
        made.append({text(p[f"response_{s}"]) for p in result.pairs for s in "ab"})
    assert made[0] == made[1] != set()


def test_votes_that_contradict_each_other_drop_the_pair(distractors: str) -> None:
    def position_bias(request: Request) -> str | None:
        return "A" if "A or B" in request.body["messages"][-1]["content"] else None

    config = {"engine": "small", "distractors": distractors, "target_chars": 500}
    result = run(build("short_to_long", **config), prompt_row(QUESTION, documents=DOCUMENTS), FakeEngine(position_bias))
    assert [r["reason"] for r in result.rejects] == ["inconsistent_votes"]


@given(st.lists(st.none() | st.sampled_from([0.1, 0.5, 0.9]), max_size=7), st.sampled_from([0.6, 0.8, 1.0]))
def test_consistent_needs_the_share_of_all_votes(votes: list[float | None], agreement: float) -> None:
    label = consistent(votes, agreement)
    for side, value in (("a", 0.9), ("b", 0.1)):
        assert (label == side) == (bool(votes) and votes.count(value) >= agreement * len(votes))


def test_too_few_distractors_is_a_reject_and_a_missing_file_an_error() -> None:
    row = prompt_row(QUESTION, documents=DOCUMENTS)
    result = run(build("short_to_long", engine="small", target_chars=10**6), row)
    assert [r["reason"] for r in result.rejects] == ["too_few_distractors"]
    with pytest.raises(DataError, match="nowhere"):
        run(build("short_to_long", engine="small", distractors="nowhere.txt"), row)
