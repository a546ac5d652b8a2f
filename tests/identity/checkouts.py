"""A checkout of the repository: how its command line is called, and which plug-ins it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAUNCH = HERE / "launch.py"
SECONDS = 300  # that one command may take
# Where the command line has been and is going to be, the newest place first.
ENTRIES = {
    "prefine/cli/main.py": "prefine.cli.main",
    "prefine/cli/__main__.py": "prefine.cli",
    "prefine/cli.py": "prefine.cli",
    "cli/main.py": "cli.main",
}
_NAMES = """
import importlib, json, sys
registry = importlib.import_module(sys.argv[1])
kinds = registry.BASES if hasattr(registry, "BASES") else registry.KINDS
print(json.dumps({"file": registry.__file__, "names": {kind: registry.names(kind) for kind in kinds}}))
"""


class CommandFailed(Exception):
    """A command exited with another code than 0; the text holds what it said."""


@dataclass(frozen=True)
class Checkout:
    """A folder with a version of the code."""

    root: Path

    @cached_property
    def entry(self) -> str:
        """The module that `python -m` runs as `prefine`."""
        for file, module in ENTRIES.items():
            if (self.root / file).is_file():
                return module
        raise CommandFailed(f"{self.root} has none of {', '.join(ENTRIES)}: it is no checkout, or the tool is too old")

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's settings, the checkout's code first, no network for models."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFINE_", "PYTHON"))}
        return {**own, "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1"}

    def prefine(self, folder: Path, *words: str, typed: str = "") -> str:
        """Run a command in a folder; returns what it printed.

        Raises:
            CommandFailed: it did not exit with 0, or its code came from elsewhere.
        """
        command = [sys.executable, "-P", str(LAUNCH), str(self.root), self.entry, *words]
        return self._run(command, folder, f"prefine {' '.join(words)}", typed)

    @cached_property
    def plugins(self) -> dict[str, list[str]]:
        """The names of all plug-ins by kind, as the checkout's registry gives them."""
        found = sorted((self.root / "transforms").rglob("registry.py"))
        modules = [
            ".".join(path.relative_to(self.root).with_suffix("").parts)
            for path in found
            if "def names(kind" in path.read_text()
        ]
        if not modules:
            raise CommandFailed(f"{self.root} has no registry.py with names(kind)")
        answer = json.loads(self._run([sys.executable, "-P", "-c", _NAMES, modules[-1]], self.root, "the registry", ""))
        if not Path(answer["file"]).resolve().is_relative_to(self.root.resolve()):
            raise CommandFailed(f"the registry came from {answer['file']}, not from {self.root}")
        names: dict[str, list[str]] = answer["names"]
        return names

    def _run(self, command: list[str], folder: Path, what: str, typed: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=self.environment, input=typed, capture_output=True, text=True, timeout=SECONDS
        )
        if done.returncode:
            raise CommandFailed(f"{what} exited with {done.returncode} ({self.root})\n{done.stdout}\n{done.stderr}")
        return done.stdout
