"""What a change costs, in less than three minutes: processor time of our parts as a multiple of plain code's.

    python -m tests.benchmarks.quick [--record]

Each measure runs plain, ours, plain, ours, ..., plain on the same input in the same run, and the ratio is the least
processor time of ours to the least of the plain one: other work on the machine slows the wall clock several times but
adds little to the processor time, and nothing takes it away. Threads and child processes count. Fails where a ratio is
more than 25 % above the one in `quick.json`, which `--record` writes anew. Ratios differ between kinds of processor:
elsewhere than on the machine of the record, record the commit before the change first.

tabular: `prefine run` from ingest to a published version, three rules as scorers, Python's start included. Plain: the
    function `majority` of `tests.benchmarks.tabular`, without Python's start.
again: the same run with nothing left to do. Plain: a Python that reads every Parquet file of the workspace.
start: `prefine --help`. Plain: a Python that imports Polars, Pydantic and Typer.
window, judge stage: as in `tests.benchmarks.llm`, per request to a stub of 256 slots and 50 ms. Plain: its aiohttp
    client. What lost overlap costs shows in the wall clock only: that benchmark takes it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.benchmarks import llm, tabular

RECORDED = Path(__file__).with_suffix(".json")
WORSE = 0.25  # a ratio this much above the recorded one still passes
PAIRS = 6000
RULES = ("length", "repetition", "format")
READ = "import sys, polars\nfor path in sys.argv[1:]: polars.read_parquet(path)"
IMPORTS = "import polars, pydantic, typer"


@dataclass
class Cost:
    """Processor time of every repetition, in `unit`."""

    unit: str
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Ours, of the plain one's."""
        return min(self.ours) / min(self.plain)


def interleaved(name: str, ours: Callable[[], float], plain: Callable[[], float], repetitions: int) -> Cost:
    """The seconds that both give, every repetition of ours between two of the plain one."""
    cost = Cost("s", plain=[plain()])
    for number in range(repetitions):
        cost.ours.append(ours())
        cost.plain.append(plain())
        print(f"{number} {name}: {cost.ours[-1]:.2f} s; {cost.plain[-1]:.3f} s", file=sys.stderr, flush=True)
    return cost


def prefine() -> tuple[str, str, str]:
    """The words that start this checkout's `prefine`; an installed script may belong to another checkout."""
    project = tomllib.loads((llm.ROOT / "pyproject.toml").read_text())["project"]
    return sys.executable, "-m", project["scripts"]["prefine"].split(":")[0]


def tables(folder: Path) -> dict[str, Cost]:
    """What runs as a command."""
    out, workspace = folder / "out.txt", folder / "workspace"
    tabular.make_input(folder / "input", PAIRS)
    recipe = tabular.recipe(folder, PAIRS)
    settings = yaml.safe_load(recipe.read_text())
    settings["score"] = {"scorers": [{"plugin": rule} for rule in RULES]}
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    run = (*prefine(), "run", str(recipe), "--workspace", str(workspace), "--quiet", "--json")

    def spent(*words: str) -> float:
        return tabular.timed(out, *words)["cpu"]

    def first() -> float:
        shutil.rmtree(workspace, ignore_errors=True)
        seconds = spent(*run)
        done = json.loads(out.read_text().splitlines()[-1])
        assert done["published"], done
        assert {stage["stage"]: stage["counts"] for stage in done["stages"]}["score"]["votes"] == len(RULES) * PAIRS
        return seconds

    def majority() -> float:
        start = time.process_time()
        tabular.majority(folder)
        seconds = time.process_time() - start
        shutil.rmtree(folder / "majority")
        return seconds

    def again() -> float:
        seconds = spent(*run)
        assert not json.loads(out.read_text().splitlines()[-1])["published"]
        return seconds

    def reading() -> float:
        return spent(sys.executable, "-c", READ, *map(str, sorted(workspace.rglob("*.parquet"))))

    return {
        # The plain one is short and so the noisier: several of it to one of ours.
        "tabular": interleaved("tabular", first, lambda: min(majority() for _ in range(5)), 2),
        "again": interleaved("again", again, reading, 4),
        "start": interleaved(
            "start",
            lambda: spent(*prefine(), "--help"),
            lambda: spent(sys.executable, "-c", IMPORTS),
            4,
        ),
    }


def requests() -> dict[str, Cost]:
    """What asks an LLM."""
    costs = {}
    # The window before the judge stage, not between its rounds: once Beam is imported, the same window takes longer.
    for name, contender, count in (("window", llm.window, 3000), ("judge stage", llm.beam, 1000)):
        rounds = llm.measure({name: contender}, count, 3, llm.stub(heavy=False))[name]
        plain = [rounds[0].before.cpu_us, *(each.after.cpu_us for each in rounds)]
        costs[name] = Cost("us", [each.timed.cpu_us for each in rounds], plain)
    return costs


def measure() -> dict[str, Cost]:
    """Every measure by name."""
    with tempfile.TemporaryDirectory() as folder:
        return tables(Path(folder)) | requests()


def missed(ratios: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """The measures that are more than `WORSE` above their recorded ratio, or have none."""
    return [name for name, ratio in ratios.items() if ratio > (1 + WORSE) * recorded.get(name, 0.0)]


def main(words: list[str] | None = None) -> int:
    """Measure, print a row a measure, and fail or write the record."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start compiles our sources anew
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name} instead of failing")
    options = parser.parse_args(words)
    recorded: dict[str, float] = json.loads(RECORDED.read_text())["ratios"] if RECORDED.exists() else {}
    start = time.perf_counter()
    costs = measure()
    print("| measure | ours | plain | ratio | recorded | change |\n|---|---|---|---|---|---|")
    for name, cost in costs.items():
        before = recorded.get(name)
        compared = "none | " if before is None else f"{before:.2f} | {cost.ratio / before - 1:+.0%}"
        ours, plain = (f"{min(each):.3g} {cost.unit}" for each in (cost.ours, cost.plain))
        print(f"| {name} | {ours} | {plain} | {cost.ratio:.2f} | {compared} |")
    print(f"{time.perf_counter() - start:.0f} s")
    ratios = {name: cost.ratio for name, cost in costs.items()}
    if options.record:
        written = {"command": "python -m tests.benchmarks.quick --record", "ratios": ratios}
        RECORDED.write_text(json.dumps(written, indent=2) + "\n")
        return 0
    failed = missed(ratios, recorded)
    for name in failed:
        print(f"{name}: more than {WORSE:.0%} above the recorded ratio, or none recorded", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
