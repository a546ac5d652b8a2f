import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from transforms.hygiene.decontamination import NgramIndex, nearest, read_prompts
from transforms.text.similarity import words

vocabulary = st.sampled_from([f"w{i}" for i in range(6)])
texts = st.lists(vocabulary, max_size=40).map(" ".join)


def naive(benchmarks: list[str], text: str, n: int) -> bool:
    """Every window against every window."""
    tokens = words(text)
    for prompt in benchmarks:
        asked = words(prompt)
        if len(asked) < 8:
            if asked and asked == tokens:
                return True
            continue
        size = min(n, len(asked))
        grams = {tuple(asked[i : i + size]) for i in range(len(asked) - size + 1)}
        if any(tuple(tokens[i : i + size]) in grams for i in range(len(tokens) - size + 1)):
            return True
    return False


@given(st.lists(texts, max_size=4), texts, st.integers(8, 13))
def test_against_every_window(benchmarks: list[str], text: str, n: int) -> None:
    found = NgramIndex({"b": benchmarks}, n).find(text)
    assert (found is not None) == naive(benchmarks, text, n)
    if found is not None:
        assert found[1] in " ".join(words(text))


@given(st.lists(st.text("abcdefghij ", min_size=1), min_size=1, max_size=5), st.text(max_size=20), st.text(max_size=20))
def test_benchmark_prompt_is_found_whatever_stands_around_it(prompts: list[str], before: str, after: str) -> None:
    index = NgramIndex({"b": prompts})
    for prompt in prompts:
        if len(words(prompt)) >= 8:
            assert index.find(f"{before} {prompt.upper()} {after}")


def test_says_which_benchmark_and_which_words() -> None:
    question = "A train leaves Lund at nine and arrives in Malmo at ten; how far apart are they?"
    index = NgramIndex({"maths": [question], "other": ["Who wrote the diary of the lighthouse at the cape?"]}, 13)
    found = index.find(f"Please solve: {question}")
    assert found == ("maths", " ".join(words(question)[:13]))
    assert index.find("A train leaves Lund at nine.") is None


@given(st.integers(0, 20), st.floats(-0.5, 0.99), st.integers(1, 7))
def test_nearest_against_all_cosines(seed: int, threshold: float, block: int) -> None:
    rng = np.random.default_rng(seed)

    def unit(n: int) -> np.ndarray:  # type: ignore[type-arg]
        v = rng.normal(size=(n, 5)).astype(np.float32)
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    x, y = unit(9), unit(4)
    cosines = x @ y.T
    for row, hit in zip(cosines, nearest(x, y, threshold, block), strict=True):
        assert (hit is not None) == (row.max() >= threshold)
        if hit is not None:
            assert hit[0] == int(row.argmax())
            assert hit[1] == pytest.approx(float(row.max()))
    assert nearest(x, y[:0], threshold) == [None] * 9


PROMPTS = ["How high is the tower?", "Who kept the diary?"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".parquet"])
def test_prompt_sets_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bench{suffix}"
    frame = pl.DataFrame({"id": [1, 2], "question": PROMPTS})
    if suffix == ".txt":
        path.write_text("\n".join(PROMPTS) + "\n\n")
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"question": p}) for p in PROMPTS))
    elif suffix == ".json":
        path.write_text(json.dumps(PROMPTS))
    elif suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    assert read_prompts(str(path)) == PROMPTS


def test_conversations_give_what_the_user_says(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    path.write_text(json.dumps({"messages": turns}))
    assert read_prompts(str(path)) == ["Why?"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.jsonl", '{"question": "a"}\n{"answer": 3, "id": 2}', "row 2"),
        ("b.jsonl", "{not json", "cannot be read"),
        ("b.xyz", "text", "unknown kind"),
    ],
)
def test_bad_prompt_sets_say_where(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        read_prompts(str(tmp_path / name))


def test_missing_prompt_set() -> None:
    with pytest.raises(DataError, match="no such file"):
        read_prompts("nowhere/bench.jsonl")
