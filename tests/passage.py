"""How far a pair and a judge's request travel through our code: `python -m tests.passage` counts it.

A function is passed when an argument or what it returns holds the marker in the pair's text, and so is every function
of ours that has called it: all that somebody steps through who follows the pair. A pair is followed from a line of a
JSONL file to a row of a published version, without the report and the queue, which are made beside it; a request from
the pair in the workspace to the votes in the workspace.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import polars as pl
import yaml

from pipelines.runtime.run import run_recipe, run_stages
from tests.stub_llm import Options, StubServer

MARKER = "quokka-7719"
ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(str(ROOT / room) + "/" for room in ("schemas", "transforms", "pipelines", "prefine"))
BESIDE = ("transforms/report/", "transforms/routers/", "pipelines/publish/report.py", "pipelines/stages/route.py")
_DEPTH = 5  # of containers in containers: a list of rows of messages of fields


@dataclasses.dataclass
class Passage:
    """The functions that were passed, by file and name, and how often."""

    functions: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def add(self, frame: FrameType) -> None:
        """Count a call and the calls that led to it, unless one of them makes something beside the pair's way."""
        stack: list[FrameType] = []
        above: FrameType | None = frame
        while above is not None:
            if above.f_code.co_filename.startswith(ROOMS) and above.f_code.co_filename.endswith(".py"):
                stack.append(above)
            above = above.f_back
        calls = [(Path(f.f_code.co_filename).relative_to(ROOT).as_posix(), f.f_code.co_qualname) for f in stack]
        if not any(file.startswith(BESIDE) for file, _ in calls):
            self.functions.update((file, name) for file, name in calls if not name.rpartition(".")[2].startswith("<"))

    @property
    def files(self) -> set[str]:
        """The files of these functions."""
        return {file for file, _ in self.functions}

    def lines(self) -> list[str]:
        """One line per function, by file."""
        return [f"{file}:{name}" for file, name in sorted(self.functions)]


def holds(value: Any, marker: str, depth: int = _DEPTH) -> bool:
    """Whether the marker is in a value, its items, fields or cells."""
    if isinstance(value, str):
        return marker in value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return marker.encode() in bytes(value)
    if isinstance(value, (int, float, bool, type(None), Path)) or depth == 0:
        return False
    if isinstance(value, pl.DataFrame):
        return any(holds(column, marker) for column in value.get_columns())
    if isinstance(value, pl.Series):
        return marker in str(value.to_list())
    if isinstance(value, dict):
        return any(holds(item, marker, depth - 1) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(holds(item, marker, depth - 1) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(holds(getattr(value, field.name), marker, depth - 1) for field in dataclasses.fields(value))
    return False


@contextmanager
def followed(marker: str = MARKER) -> Iterator[Passage]:
    """Count the functions that a marker passes during the block, in every thread."""
    passage, busy = Passage(), threading.local()

    def notice(frame: FrameType, event: str, returned: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(ROOMS) or getattr(busy, "now", False):
            return
        busy.now = True
        try:
            values = [returned]
            if event == "call":
                values = [
                    frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
                ]
            if any(holds(value, marker) for value in values):
                passage.add(frame)
        finally:
            busy.now = False

    threading.setprofile(notice)
    sys.setprofile(notice)
    try:
        yield passage
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def recipe(folder: Path, url: str | None) -> Path:
    """One pair; with `url` an LLM judges it, else its length."""
    row = {"prompt": f"What is a {MARKER}?", "chosen": f"A {MARKER} is a small wallaby.", "rejected": "No idea at all."}
    (folder / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    found: dict[str, Any] = {
        "name": "passage",
        "buckets": 1,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
    }
    if url is not None:
        found["engines"] = {"stub": {"plugin": "openai", "base_url": url, "model": "stub"}}
        found["judge"] = {"judges": [{"plugin": "logprob", "engine": "stub"}]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def pair_passage(folder: Path) -> Passage:
    """From a line of JSONL to a row of a published version."""
    with followed() as passage:
        run_recipe(recipe(folder, None), str(folder / "w"), None, None, (), quiet=True)
    return passage


def request_passage(folder: Path) -> Passage:
    """From a pair in the workspace over the wire to votes in the workspace."""
    with StubServer(Options()) as server:
        path = recipe(folder, server.url)
        prefine = str(Path(sys.executable).with_name("prefine"))
        command = [prefine, "run", str(path), "--workspace", str(folder / "w"), "--until", "clean"]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # not here: old threads are not followed
        with followed() as passage:
            run_stages(path, str(folder / "w"), ["judge"], None, (), quiet=True)
    return passage


PASSAGES = {"pair": pair_passage, "request": request_passage}


def main() -> None:
    """Print one passage, or each in a process of its own: threads that were there before are not followed."""
    if len(sys.argv) == 1:
        for name in PASSAGES:
            subprocess.run([sys.executable, "-m", "tests.passage", name], check=True, cwd=ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        passage = PASSAGES[sys.argv[1]](Path(folder))
    print(f"{sys.argv[1]}: {len(passage.functions)} functions in {len(passage.files)} files")
    print("".join(f"  {line}\n" for line in passage.lines()))


if __name__ == "__main__":
    main()
