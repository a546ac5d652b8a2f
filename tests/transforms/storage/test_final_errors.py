"""A request that was turned away is asked in two runs of one server, again of another one, and never twice in a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.llm.request import Reply
from transforms.storage.final_errors import RUNS, AskingRun, FinalErrors, same_server


def turned_away(n: int = 0, words: str = "400: too long") -> Reply:
    return Reply(f"{n:032x}", "error", error=words, cause="status 400", ms=3.0)


def run(name: str, server: str = "home:800", retries: bool = False) -> AskingRun:
    return AskingRun(name, {"e": server}, retries)


def stands(root: Path, now: AskingRun, n: int = 0) -> bool:
    error = FinalErrors(root).get(turned_away(n).request_id)
    return error is not None and error.stands("e", now)


def test_it_is_asked_once_more_in_the_next_run_and_then_left_alone(tmp_path: Path) -> None:
    for number in range(1, RUNS + 3):
        now = run(f"run {number}")
        assert stands(tmp_path, now) == (number > RUNS)
        if number <= RUNS:
            errors = FinalErrors(tmp_path)
            errors.put("e", turned_away(), now)
            assert errors.is_new(now.run) == (number < RUNS)
            assert stands(tmp_path, now), "asked twice in one run"
    assert not stands(tmp_path, run("last", retries=True))


@pytest.mark.parametrize(("server", "is_asked"), [("home:800", 0), ("home:8000", 1), ("away:800", 1), ("home:", 0)])
def test_another_server_is_asked(tmp_path: Path, server: str, is_asked: int) -> None:
    for name in ("one", "two"):
        FinalErrors(tmp_path).put("e", turned_away(), run(name))
    assert stands(tmp_path, run("three", server)) != bool(is_asked)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["one", "two", "three"])), max_size=12))
def test_the_latest_word_counts_before_and_after_compaction(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, str]]
) -> None:
    root = tmp_path_factory.mktemp("errors")
    for place, (n, name) in enumerate(puts):
        errors = FinalErrors(root)
        errors.put("e", turned_away(n, f"word {place}"), run(name))
        errors.close()
    latest = {n: f"word {place}" for place, (n, _) in enumerate(puts)}
    for _ in range(2):
        known = {n: FinalErrors(root).get(turned_away(n).request_id) for n in range(4)}
        assert {n: error.error for n, error in known.items() if error is not None} == latest
        FinalErrors(root).compact()
    assert len(list(root.glob("errors-*"))) <= 1


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    errors = FinalErrors(tmp_path)
    errors.put("e", turned_away(), run("one"))
    errors.close()
    (journal,) = tmp_path.glob("errors-*")
    journal.write_bytes(journal.read_bytes() + b'{"request_id": "0')
    assert stands(tmp_path, run("one"))


def test_unknown_abilities_equal_all() -> None:
    assert same_server("a:1", "a:1")
    assert same_server("a:", "a:1")
    assert not same_server("a:1", "a:2")
    assert not same_server("a:1", "b:1")
