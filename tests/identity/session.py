"""One case under one checkout: the commands that were run, and what they said."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.identity.checkouts import Checkout

WORKSPACE = "w"
PUBLISHED = ("datasets", "exports")  # of a workspace
WRITTEN = "out"  # what commands of a case write beside the workspace


@dataclass
class Session:
    """Commands in a case's folder.

    Attributes:
        said: what was printed, in order, as far as it is a function of the inputs.
        runs: the last `prefine run` by recipe and workspace, with its options: what an upgrade repeats.
    """

    checkout: Checkout
    folder: Path
    said: list[tuple[str, Any]] = field(default_factory=list)
    runs: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def run(self, recipe: str, *options: str, workspace: str = WORKSPACE) -> dict[str, Any]:
        """`prefine run`; returns and keeps its summary."""
        self.runs[recipe, workspace] = options
        words = ("run", recipe, "--workspace", workspace, "--json", *options)
        summary = json.loads(self.checkout.prefine(self.folder, *words).splitlines()[-1])
        self.said.append((" ".join(words), without_times(summary)))
        result: dict[str, Any] = summary
        return result

    def ask(self, *words: str, workspace: str = WORKSPACE) -> Any:
        """A command that prints JSON; returns and keeps what it printed."""
        out = self.checkout.prefine(self.folder, *words, "--workspace", workspace, "--json")
        found = json.loads(out.splitlines()[-1])
        self.said.append((" ".join((*words, workspace)), found))
        return found

    def tell(self, *words: str, typed: str = "", workspace: str = WORKSPACE) -> None:
        """A command for people; what it printed is kept."""
        out = self.checkout.prefine(self.folder, *words, "--workspace", workspace, typed=typed)
        self.said.append((" ".join((*words, workspace)), out))

    def people_answer(self, name: str, people: tuple[str, ...], workspace: str = WORKSPACE) -> None:
        """Answers to the whole queue, each a function of pair and person, appended to a file as other tools would."""
        lines = []
        for row in self.ask("queue", "--rows", "1000", workspace=workspace):
            for person in people:
                luck = hashlib.sha256(f"{row['pair_id']} {person}".encode()).digest()[0]
                label = row.get("known_label") if luck > 40 and row.get("known_label") else "aaaabbbbt"[luck % 9]
                answer = {"pair_id": row["pair_id"], "annotator": person, "updated_at": "2026-01-01T00:00:00Z"}
                lines.append(json.dumps({**answer, "label": "tie" if label == "t" else label}) + "\n")
        with (self.folder / name).open("a") as file:
            file.writelines(sorted(lines))

    def people_type(self, name: str, person: str, keys: str, workspace: str = WORKSPACE) -> None:
        """`prefine annotate` with the keys typed; what depends on the clock is then taken out of the file."""
        typed = "".join(f"{key}\n" for key in keys)
        words = ("annotate", "--annotator", person, "--out", name, "--rows", str(len(keys)))
        self.tell(*words, typed=typed, workspace=workspace)
        rows = [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
        clocked = ("annotation_id", "seconds")
        kept = [{k: v for k, v in row.items() if k not in clocked} | {"updated_at": _STAMP} for row in rows]
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in kept))


_STAMP = "2026-01-02T00:00:00Z"


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    """A run's summary without seconds and without what was bought now or known before."""
    stages = [{k: v for k, v in stage.items() if k in _STAGE} for stage in summary["stages"]]
    return {**summary, "stages": stages}


_STAGE = ("stage", "rows_in", "rows_out", "rejects", "counts")
