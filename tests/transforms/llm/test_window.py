"""The continuous window: full, bounded, without barriers; nothing asked twice; budgets stop it cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BudgetExceeded, EngineError, UsageError
from tests.stub_llm import Options, StubServer
from transforms.llm.client import Client, Patience
from transforms.llm.request import Reply, Request
from transforms.llm.supervisor import free_port
from transforms.llm.window import Asker, Budget, Caller, Work, answer, sum_usage
from transforms.storage.memo import Memo

Unit = Callable[[], Awaitable[Any]]
NO_LIMIT, USUAL = Budget(), Patience()


def request(number: int, purpose: str = "judge") -> Request:
    body = {"messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 5}
    return Request("e", "m", body, purpose=purpose)


def sleeper(seconds: float, log: list[str], name: str) -> Unit:
    async def run() -> str:
        log.append(f"start {name}")
        await asyncio.sleep(seconds)
        log.append(f"end {name}")
        return name

    return run


def test_results_come_in_order_and_every_bucket_once() -> None:
    finished: list[list[str]] = []
    works = [
        Work([sleeper(0.02 - 0.005 * unit, [], f"{bucket}.{unit}") for unit in range(4)], finished.append)
        for bucket in range(5)
    ]
    asyncio.run(answer([*works, Work([], finished.append)], max_units=3))
    assert sorted(finished) == [[], *([f"{bucket}.{unit}" for unit in range(4)] for bucket in range(5))]


def test_a_straggler_delays_neither_other_units_nor_other_buckets() -> None:
    log: list[str] = []
    slow = Work([sleeper(0.6, log, "slow")], lambda _: log.append("finish slow"))
    quick = [
        Work([sleeper(0.001, log, f"{b}.{u}") for u in range(5)], lambda _, b=b: log.append(f"finish {b}"))
        for b in range(8)
    ]
    asyncio.run(answer([slow, *quick], max_units=4))
    end_of_slow = log.index("end slow")
    assert all(log.index(f"finish {b}") < end_of_slow for b in range(8))


def test_units_and_loaded_buckets_are_bounded() -> None:
    open_units, most_units, loaded, most_loaded = 0, 0, 0, 0

    async def unit() -> None:
        nonlocal open_units, most_units
        open_units += 1
        most_units = max(most_units, open_units)
        await asyncio.sleep(0.001)
        open_units -= 1

    def finish(_: list[None]) -> None:
        nonlocal loaded
        loaded -= 1

    def works() -> Iterator[Work[None]]:
        nonlocal loaded, most_loaded
        for _ in range(30):
            loaded += 1
            most_loaded = max(most_loaded, loaded)
            yield Work([unit] * 7, finish)

    asyncio.run(answer(works(), max_units=5, max_buckets=3))
    assert most_units == 5
    assert most_loaded <= 3 + 1  # one is read ahead


def test_a_failure_stops_new_units_hands_over_complete_buckets_and_is_raised() -> None:
    log: list[str] = []
    told: list[BaseException] = []

    async def fails() -> str:
        await asyncio.sleep(0.02)
        raise ValueError("boom")

    works = [
        Work([sleeper(0.1, log, "a")], lambda _: log.append("finish a")),
        Work([fails, sleeper(0.1, log, "b")], lambda _: log.append("finish b")),
        *(Work([sleeper(0.05, log, f"late {n}")], lambda _: None) for n in range(50)),
    ]
    with pytest.raises(ValueError, match="boom"):
        asyncio.run(answer(works, max_units=4, on_failure=told.append))
    assert len(told) == 1
    assert "finish a" in log
    assert "finish b" not in log
    assert sum(line.startswith("start late") for line in log) < 10


def test_a_failing_finish_or_source_is_raised() -> None:
    def finish(_: list[str]) -> None:
        raise OSError("disk full")

    def works() -> Iterator[Work[str]]:
        yield Work([sleeper(0.001, [], "x")], lambda _: None)
        raise RuntimeError("cannot read")

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(answer([Work([sleeper(0, [], "x")], finish)], max_units=2))
    with pytest.raises(RuntimeError, match="cannot read"):
        asyncio.run(answer(works(), max_units=2))


def run_requests(
    url: str,
    root: Path,
    numbers: list[int],
    budget: Budget = NO_LIMIT,
    patience: Patience = USUAL,
) -> tuple[list[Reply], Caller]:
    """Ask in one bucket, one request a unit."""
    done: list[Reply] = []

    async def run() -> Caller:
        async with Client("e", [url], "stub", 16, patience) as client:
            caller = Caller({"e": client}, budget)
            with Memo(root) as memo:
                ask = caller.asker(memo)
                units = [lambda n=n: ask(request(n)) for n in numbers]
                try:
                    await answer([Work(units, done.extend)], max_units=32, on_failure=caller.stop)
                finally:
                    run.caller = caller  # type: ignore[attr-defined]
            return caller

    try:
        return done, asyncio.run(run())
    except BudgetExceeded as error:
        error.caller = run.caller  # type: ignore[attr-defined]
        raise


def test_equal_requests_are_asked_once_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    numbers = [n % 20 for n in range(100)]
    with StubServer(Options(latency_s=0.01)) as stub:
        first, caller = run_requests(stub.url, tmp_path, numbers)
        assert sum(stub.stub.received.values()) == 20
        usage = caller.ledger.total()
        assert (usage.calls, usage.calls + usage.joined + usage.memo_hits) == (20, 100)
        again, caller = run_requests(stub.url, tmp_path, numbers)
        assert sum(stub.stub.received.values()) == 20
        assert caller.ledger.total().memo_hits == 100
    assert again == first


@pytest.mark.parametrize("budget", [Budget(max_calls=30), Budget(max_tokens=400), Budget(max_seconds=0.2)])
def test_a_spent_budget_stops_cleanly_and_later_runs_complete(tmp_path: Path, budget: Budget) -> None:
    numbers = list(range(150))
    runs = 0
    with StubServer(Options(latency_s=0.05)) as stub:
        while True:
            runs += 1
            try:
                replies, _ = run_requests(stub.url, tmp_path, numbers, budget)
                break
            except BudgetExceeded as stopped:
                usage = stopped.caller.ledger.total()  # type: ignore[attr-defined]
                if budget.max_calls:
                    assert usage.calls == budget.max_calls
                assert usage.calls > 0
        assert runs > 1
        assert sum(stub.stub.received.values()) == len(numbers), "an answer was bought twice"
    assert {reply.state for reply in replies} == {"ok"}


def test_what_a_failed_unit_leaves_on_the_wire_is_still_kept(tmp_path: Path) -> None:
    """Both orders of a pair are one unit: when the budget refuses one, the other, already sent, is paid for."""

    async def run(url: str, budget: Budget) -> int:
        async with Client("e", [url], "stub") as client:
            caller = Caller({"e": client}, budget)
            with Memo(tmp_path) as memo:
                ask = caller.asker(memo)
                units = [lambda n=n: asyncio.gather(*(ask(request(3 * n + i)) for i in range(3))) for n in range(4)]
                done: list[object] = []
                try:
                    await answer([Work(units, done.extend)], max_units=8, on_failure=caller.stop)
                except BudgetExceeded:
                    await caller.finish()
        return len(done)

    with StubServer(Options(latency_s=0.1)) as stub:
        assert asyncio.run(run(stub.url, Budget(max_calls=5))) == 0
        assert asyncio.run(run(stub.url, NO_LIMIT)) == 4
        assert sorted(stub.stub.received.values()) == [1] * 12


def test_an_outage_keeps_what_was_answered_and_the_next_run_buys_only_the_rest(tmp_path: Path) -> None:
    patience = Patience(retries=2, backoff_s=0.01, outage_s=0.5)
    port = free_port()
    with StubServer(Options(latency_s=0.01), port=port) as stub:
        run_requests(stub.url, tmp_path, list(range(40)), patience=patience)
    with pytest.raises(EngineError, match="nothing answers"):
        run_requests(stub.url, tmp_path, list(range(80)), patience=patience)
    with StubServer(Options(latency_s=0.01), port=port) as second:
        replies, _ = run_requests(second.url, tmp_path, list(range(80)), patience=patience)
        assert sum(second.stub.received.values()) == 40
    assert {reply.state for reply in replies} == {"ok"}


def test_usage_is_accounted_by_engine_and_purpose(tmp_path: Path) -> None:
    async def run(url: str) -> tuple[Caller, Asker]:
        async with Client("e", [url], "stub") as client:
            caller = Caller({"e": client})
            one, other = caller.asker(Memo(tmp_path / "0")), caller.asker(Memo(tmp_path / "1"))
            for number in range(6):
                await one(request(number, "judge"))
            await one(request(0, "judge"))
            await other(request(99, "rubric"))
            return caller, one

    with StubServer(Options(prompt_tokens=11)) as stub:
        caller, one = asyncio.run(run(stub.url))
    rows = {row["purpose"]: row for row in caller.ledger.rows()}
    assert (rows["judge"]["calls"], rows["judge"]["memo_hits"], rows["judge"]["tokens_in"]) == (6, 1, 66)
    assert rows["rubric"]["calls"] == 1
    assert one.ledger.total().calls == 6
    assert sum_usage(caller.ledger.rows()) == caller.ledger.total()


def test_an_unknown_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no engine named 'e'; known: f"):
        asyncio.run(Caller({"f": Client("f", ["http://127.0.0.1:1/v1"], "x")}).asker(Memo(tmp_path))(request(1)))


def test_a_failure_reaches_all_who_wait_for_the_same_request(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with Client("e", [f"http://127.0.0.1:{free_port()}/v1"], "x", patience=Patience(outage_s=0.3)) as client:
            ask = Caller({"e": client}).asker(Memo(tmp_path))
            return await asyncio.gather(*(ask(request(1)) for _ in range(5)), return_exceptions=True)

    assert {type(result) for result in asyncio.run(run())} == {EngineError}


def test_counting_tokens_spends_no_call(tmp_path: Path) -> None:
    async def run(url: str) -> tuple[int, int]:
        async with Client("e", [url], "stub", 4, USUAL) as client:
            caller = Caller({"e": client}, Budget(max_calls=3))
            ask = caller.asker(Memo(tmp_path))
            body = {"content": "a b", "prompt": "a b"}
            for number in range(10):
                await ask(Request("e", "m", body, path="tokenize", salt=str(number), purpose="tokenize"))
            for number in range(3):
                await ask(request(number))
            with pytest.raises(BudgetExceeded):
                await ask(request(3))
            return caller.ledger.total().calls, caller.ledger.spent().calls

    with StubServer() as stub:
        assert asyncio.run(run(stub.url)) == (13, 3)


def test_a_failure_for_now_counts_for_all_buckets_that_waited_for_it(tmp_path: Path) -> None:
    """Or the bucket that merely waited would pass for complete, and its votes would stay errors."""

    async def run(url: str) -> list[int]:
        async with Client("e", [url], "stub", 4, Patience(retries=0)) as client:
            caller = Caller({"e": client})
            asks = [caller.asker(Memo(tmp_path / str(bucket))) for bucket in range(3)]
            await asyncio.gather(*(ask(request(1)) for ask in asks))
            assert all(ask.ledger.failures.gave_up["status 503"][0] == 1 for ask in asks)
            return [ask.ledger.total().gave_up for ask in asks]

    with StubServer(Options(unavailable=1.0)) as stub:
        assert asyncio.run(run(stub.url)) == [1, 1, 1]
        assert sum(stub.stub.received.values()) == 1
