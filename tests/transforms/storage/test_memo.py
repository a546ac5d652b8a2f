"""Laws of the memo: what was put is got, by this process or another, torn or compacted."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import WorkspaceError
from schemas.tables import Generations, rows_frame
from transforms.llm.request import Reply, Request
from transforms.storage.memo import EmbeddingCache, Memo

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def request(number: int | str) -> Request:
    return Request("engine", "model", {"messages": [{"role": "user", "content": str(number)}]})


def reply(number: int | str, text: str = "hello") -> Reply:
    return Reply(request(number).request_id, "ok", text=text, logprobs=[{"A": -0.5}], tokens_in=3, tokens_out=1, ms=2.5)


@st.composite
def replies(draw: st.DrawFn) -> list[tuple[Request, Reply]]:
    out = []
    for number in range(draw(st.integers(0, 12))):
        asked = request(number)
        state = draw(st.sampled_from(["ok", "refused", "error"]))
        logprobs = draw(st.none() | st.lists(st.dictionaries(TEXT, st.floats(-100, 0), max_size=3), max_size=2))
        out.append(
            (
                asked,
                Reply(
                    asked.request_id,
                    state,
                    text=draw(TEXT),
                    reasoning=draw(st.none() | TEXT),
                    finish_reason=draw(st.none() | st.just("stop")),
                    logprobs=logprobs,
                    error=draw(TEXT) if state != "ok" else None,
                    tokens_in=draw(st.integers(0, 10**6)),
                    tokens_cached=draw(st.integers(0, 10)),
                    tokens_out=draw(st.integers(0, 10**6)),
                    ms=draw(st.floats(0, 1e6)),
                    retries=draw(st.integers(0, 9)),
                ),
            )
        )
    return out


@settings(max_examples=40, deadline=None)
@given(replies())
def test_put_is_got_before_and_after_reopening_and_compaction(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Request, Reply]]
) -> None:
    root = tmp_path_factory.mktemp("memo")
    with Memo(root) as memo:
        for asked, answer in rows:
            memo.put(asked, answer)
            assert memo.get(asked.request_id) == (answer if answer.state != "error" else None)
    kept = [answer if answer.state != "error" else None for _, answer in rows]
    again = Memo(root)
    assert [again.get(asked.request_id) for asked, _ in rows] == kept
    assert again.compact() == len(rows) - kept.count(None)
    assert [Memo(root).get(asked.request_id) for asked, _ in rows] == kept
    assert not list(root.glob("journal-*"))
    assert Generations.is_valid(Memo(root).frame())


@pytest.mark.parametrize("transient", [True, False])
def test_errors_are_never_stored(tmp_path: Path, transient: bool) -> None:
    memo = Memo(tmp_path)
    asked = request(1)
    memo.put(asked, Reply(asked.request_id, "error", error="400: too long", transient=transient))
    assert memo.get(asked.request_id) is None
    assert Memo(tmp_path).get(asked.request_id) is None


@pytest.mark.parametrize("compacted", [False, True])
def test_an_error_of_an_older_memo_makes_way_for_the_answer(tmp_path: Path, compacted: bool) -> None:
    """Errors stood in the memo until they were found to outlive the server that gave them."""
    with Memo(tmp_path) as memo:
        for number in (1, 2):
            memo.put(request(number), reply(number))
    (journal,) = tmp_path.glob("journal-*")
    journal.write_bytes(journal.read_bytes().replace(b'"state":"ok"', b'"state":"error"', 1))
    if compacted:
        frame = pl.concat(
            [Memo(tmp_path).frame(), rows_frame([orjson.loads(journal.read_bytes().split(b"\n")[0])], Generations)]
        )
        journal.unlink()
        frame.write_parquet(tmp_path / "part-old.parquet")
    with Memo(tmp_path) as memo:
        assert memo.get(request(1).request_id) is None
        assert memo.get(request(2).request_id) == reply(2)
        memo.put(request(1), reply(1, "now"))
    assert Memo(tmp_path).get(request(1).request_id) == reply(1, "now")
    assert Memo(tmp_path).compact() == 2
    assert Memo(tmp_path).get(request(1).request_id) == reply(1, "now")


def test_a_journal_torn_at_any_byte_loses_only_its_last_line(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        for number in range(3):
            memo.put(request(number), reply(number, "é" * number))
    (journal,) = tmp_path.glob("journal-*")
    whole = journal.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        journal.write_bytes(whole[:cut])
        memo = Memo(tmp_path)
        found = sum(memo.get(request(number).request_id) == reply(number, "é" * number) for number in range(3))
        # A line whose newline alone is missing is whole.
        assert found == sum(end - 1 <= cut for end in ends)
        assert len(memo) == found


def test_a_torn_journal_is_continued_in_a_new_one(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        memo.put(request(1), reply(1))
        memo.put(request(2), reply(2))
    (journal,) = tmp_path.glob("journal-*")
    journal.write_bytes(journal.read_bytes()[:-7])
    with Memo(tmp_path) as memo:
        assert memo.get(request(2).request_id) is None
        memo.put(request(2), reply(2))
        assert memo.damaged == 1
    assert Memo(tmp_path).compact() == 2


def test_put_twice_is_kept_once(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        memo.put(request(1), reply(1, "first"))
        memo.put(request(1), reply(1, "second"))
    found = Memo(tmp_path).get(request(1).request_id)
    assert found is not None
    assert found.text == "first"


def test_compaction_leaves_a_journal_that_is_being_written(tmp_path: Path) -> None:
    writer = Memo(tmp_path)
    writer.put(request(1), reply(1))
    with Memo(tmp_path) as other:
        other.put(request(2), reply(2))
    Memo(tmp_path).compact()
    writer.put(request(3), reply(3))
    writer.close()
    memo = Memo(tmp_path)
    assert all(memo.get(request(number).request_id) == reply(number) for number in (1, 2, 3))
    assert memo.compact() == 3


def test_a_crash_between_part_and_removal_of_journals_is_harmless(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        for number in range(5):
            memo.put(request(number), reply(number))
    (journal,) = tmp_path.glob("journal-*")
    kept = journal.read_bytes()
    Memo(tmp_path).compact()
    journal.write_bytes(kept)  # the state in which the process would have died
    memo = Memo(tmp_path)
    assert len(memo) == 5
    assert memo.compact() == 5
    assert len(list(tmp_path.iterdir())) == 1


def _write(root: Path, start: int) -> None:
    with Memo(root) as memo:
        for number in range(start, start + 50):
            memo.put(request(number), reply(number, "x" * 5000))


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, start)) for start in (0, 25)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    memo = Memo(tmp_path)
    assert len(memo) == 75
    assert memo.damaged == 0


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot write to the memo"):
        Memo(tmp_path / "file" / "bucket=0000").put(request(1), reply(1))


def test_embeddings_come_back_as_they_were(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    ids = [f"{number:032x}" for number in range(4)]
    cache = EmbeddingCache(tmp_path)
    cache.put(ids[:2], vectors[:2])
    cache.put(ids, vectors)
    for found in (cache, EmbeddingCache(tmp_path)):
        got = found.get([*ids, "f" * 32])
        assert sorted(got) == ids
        assert all(np.array_equal(got[key], vectors[row]) for row, key in enumerate(ids))
    assert EmbeddingCache(tmp_path).compact() == 4
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(EmbeddingCache(tmp_path).get(ids)) == ids


def test_bad_vectors_are_refused(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(ValueError, match="NaN"):
        cache.put(["0" * 32], np.array([[np.nan]], dtype=np.float32))
    with pytest.raises(ValueError, match="shape"):
        cache.put(["0" * 32], np.zeros((2, 3), dtype=np.float32))
