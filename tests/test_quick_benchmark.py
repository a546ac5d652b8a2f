"""`make bench-quick` fails where a change costs more than it may, and only there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.benchmarks import quick
from tests.conftest import ROOT

RECORDED = {"tabular": 30.0, "start": 4.0}


def costs(tabular: float, start: float) -> dict[str, quick.Cost]:
    """Measures that cost so many times the recorded ratio; the slower repetitions do not count."""
    return {
        "tabular": quick.Cost("s", [90.0, 30.0 * tabular], [1.0, 2.0]),
        "start": quick.Cost("s", [0.4 * start, 0.9], [0.3, 0.1]),
    }


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "quick.json"
    path.write_text(json.dumps({"ratios": RECORDED}))
    monkeypatch.setattr(quick, "RECORDED", path)
    return path


@pytest.mark.parametrize(
    ("tabular", "start", "named"),
    [
        (1.0, 1.0, []),
        (1.24, 1.24, []),
        (0.5, 0.9, []),
        (1.26, 1.0, ["tabular"]),
        (0.5, 1.26, ["start"]),
        (1.26, 1.26, ["tabular", "start"]),
    ],
)
def test_fails_above_a_quarter_more(
    tabular: float,
    start: float,
    named: list[str],
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quick, "measure", lambda: costs(tabular, start))
    before = record.read_text()
    assert quick.main([]) == bool(named)
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.err.splitlines()] == named
    assert f"| {tabular - 1:+.0%} |" in said.out
    assert record.read_text() == before


def test_a_measure_without_a_record_fails_until_it_is_recorded(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "measure", lambda: costs(1.0, 1.0) | {"new": quick.Cost("s", [3.0], [1.5])})
    assert quick.main([]) == 1
    assert quick.main(["--record"]) == 0
    assert json.loads(record.read_text())["ratios"] == RECORDED | {"new": 2.0}
    assert quick.main([]) == 0


def test_the_committed_record_says_the_command_that_wrote_it() -> None:
    written = json.loads(quick.RECORDED.read_text())
    assert written["command"] == "python -m tests.benchmarks.quick --record"
    assert all(ratio > 0 for ratio in written["ratios"].values())


def test_repetitions_stand_between_two_of_the_plain_one() -> None:
    calls: list[str] = []

    def spent(name: str) -> float:
        calls.append(name)
        return 10.0 / len(calls)

    cost = quick.interleaved("m", lambda: spent("ours"), lambda: spent("plain"), 2)
    assert calls == ["plain", "ours", "plain", "ours", "plain"]
    assert cost.ratio == 2.5 / 2.0


def test_our_command_is_a_module_of_this_checkout() -> None:
    found = importlib.util.find_spec(quick.prefine()[-1])
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).is_relative_to(ROOT)
