"""Do two versions of the code publish the same? `python -m tests.identity OLD NEW [--cases NAME,...] [--keep FOLDER]`.

OLD and NEW are checkouts of this repository. Frozen recipes (cases.py) run with the command line of each, in a folder
of the same path, against one stub LLM. Then, file by file and byte by byte, `datasets/` and `exports/` must be equal,
but for the code's own version (comparison.py says where), and so must what the commands said and what the LLM was
asked. Last, a workspace that OLD wrote is run again under NEW: the LLM is asked nothing, nothing is published, no file
changes.

Exit code 0: all equal; 1: something differs, and what; 2: wrong words.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.identity.cases import CASES, NOT_COVERED, Case, uncovered, used_plugins
from tests.identity.checkouts import HERE, Checkout, CommandFailed
from tests.identity.comparison import compare_folders, compare_values, files_of
from tests.identity.session import PUBLISHED, WRITTEN, Session
from tests.identity.stub import SameReplies, serve

_MOST = 40  # differences printed of one case


@dataclass
class Outcome:
    """What became of a case."""

    name: str
    files: int = 0
    versions: int = 0
    calls: int = 0
    repeated: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)


def main() -> int:
    """Run the cases and print what differs."""
    options = _options()
    old, new = Checkout(options.old.resolve()), Checkout(options.new.resolve())
    started = time.monotonic()
    try:
        left = uncovered(new.plugins)
        print(f"old: {old.root} ({old.entry})\nnew: {new.root} ({new.entry})")
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    with _folder(options.keep) as folder, ThreadPoolExecutor(options.at_once) as pool:
        outcomes = list(
            pool.map(lambda name: _attempt(CASES[name], old, new, folder / name, options.allow), options.cases)
        )
    _print_table(outcomes)
    print(f"\nplug-ins run: {', '.join(sorted(used_plugins()))}")
    print("not run: " + "; ".join(f"{name} ({why})" for name, why in NOT_COVERED.items()))
    if left:
        print(f"NOT COVERED, add a case: {', '.join(left)}")
    failed = [outcome.name for outcome in outcomes if outcome.differences]
    verdict = f"DIFFERENT: {', '.join(failed)}" if failed else "all equal"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"{verdict}; {time.monotonic() - started:.0f} s, {cpu_s:.0f} s of processor time")
    return 1 if failed or left else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.identity", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another checkout")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {','.join(CASES)}")
    parser.add_argument(
        "--allow",
        default="",
        help="fields of manifest.json that the change is meant to alter, such as recipe_hash,inputs",
    )
    parser.add_argument("--keep", type=Path, help="a new folder to keep workspaces in; default: they are removed")
    parser.add_argument("--at-once", type=int, default=2, help="cases that run side by side")
    options = parser.parse_args()
    options.cases = options.cases.split(",")
    options.allow = [name for name in options.allow.split(",") if name]
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"no case named {unknown[0]!r}; known: {', '.join(CASES)}")
    if options.keep is not None and options.keep.exists():
        parser.error(f"{options.keep} exists already; give a new folder")
    if _data() is None and any(CASES[name].needs_data for name in options.cases):
        parser.error("the shared data is not beside this checkout; set PREFINE_SHARED_DATA")
    return options


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="prefine-identity-") as folder:
        yield Path(folder)


def _data() -> Path | None:
    """The shared data, where the tests look for it too."""
    root, named = HERE.parents[1], os.environ.get("PREFINE_SHARED_DATA")
    places = [Path(named)] if named else [folder / "shared" / "data" for folder in (root.parent, root)]
    return next((path.resolve() for path in places if path.is_dir()), None)


def _attempt(case: Case, old: Checkout, new: Checkout, folder: Path, allowed: list[str]) -> Outcome:
    outcome, started = Outcome(case.name), time.monotonic()
    try:
        _compare(case, old, new, folder, allowed, outcome)
    except CommandFailed as error:
        outcome.differences.append(str(error))
    outcome.seconds = time.monotonic() - started
    found = outcome.differences
    lines = [f"{case.name}: {f'{len(found)} differences' if found else 'equal'}, {outcome.seconds:.0f} s"]
    lines += [f"  {difference}" for difference in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"  and {len(found) - _MOST} more")
    print("\n".join(lines), flush=True)
    return outcome


def _compare(case: Case, old: Checkout, new: Checkout, folder: Path, allowed: list[str], outcome: Outcome) -> None:
    """Run a case under both, then what the first left under the second."""
    with serve() as server:
        stub = server.stub
        assert isinstance(stub, SameReplies)
        sessions, asked = {}, {}
        for side, checkout in (("old", old), ("new", new)):
            # The same path for both: a path in a published file would else be a difference.
            session = Session(checkout, folder / "work")
            before = Counter(stub.asked)
            case.prepare(session.folder, server.url, _data())
            case.play(session)
            sessions[side], asked[side] = session, stub.asked - before
            session.folder.rename(folder / side)
        outcome.differences += published_differences(folder / "old", folder / "new", allowed)
        outcome.differences += said_differences(sessions["old"], sessions["new"])
        outcome.differences += asked_differences(asked["old"], asked["new"])
        outcome.calls = asked["old"].total()
        outcome.repeated = sum(asked[side].total() - len(asked[side]) for side in asked)
        outcome.files = sum(len(files_of(place)) for place in _published(folder / "old"))
        outcome.versions = len(_manifests(folder / "old"))
        if not outcome.versions:
            outcome.differences.append("nothing was published, so nothing was compared")
        outcome.differences += _upgrade(sessions["old"], new, folder, stub)


def published_differences(old: Path, new: Path, allowed: list[str]) -> list[str]:
    """Differences between what two runs of a case published, but those that are allowed."""
    names = {place.relative_to(root).as_posix() for root in (old, new) for place in _published(root)}
    return [f"{name}/{found}" for name in sorted(names) for found in compare_folders(old / name, new / name, allowed)]


def _published(root: Path) -> list[Path]:
    """Folders of published files in a case's folder."""
    return sorted([*(place for name in PUBLISHED for place in root.glob(f"*/{name}")), root / WRITTEN])


def _manifests(root: Path) -> list[Path]:
    return sorted(root.glob("*/datasets/*/v*/manifest.json"))


def said_differences(old: Session, new: Session) -> list[str]:
    """Differences between what the commands printed."""
    found = []
    for (words, ours), (_, theirs) in zip(old.said, new.said, strict=True):
        for where, a, b in compare_values(ours, theirs):
            found.append(f"prefine {words}: {where}\n    old: {a}\n    new: {b}")
    return found


def asked_differences(old: Counter[str], new: Counter[str]) -> list[str]:
    """A line where the LLM was not asked the same things.

    How often is no matter: two lanes that need one answer at the same moment both ask for it (`repeated` counts them).
    """
    lost, gained = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    return [f"requests: {lost} of {len(old)} were asked by old alone, {gained} by new alone"] * bool(lost or gained)


def _upgrade(session: Session, new: Checkout, folder: Path, stub: SameReplies) -> list[str]:
    """Run a copy of a workspace again under other code: nothing may be asked, published or changed."""
    shutil.copytree(folder / "old", folder / "work")
    again, found, before = Session(new, folder / "work"), [], stub.calls
    for (recipe, workspace), options in session.runs.items():
        summary = again.run(recipe, *options, workspace=workspace)
        if summary["published"]:
            found.append(f"run again under new, {recipe} published {summary['version']}")
    if stub.calls != before:
        found.append(f"run again under new, the memo did not know {stub.calls - before} requests")
    for place in _published(folder / "old"):
        name = place.relative_to(folder / "old")
        ours, theirs = (
            {file: (root / name / file).read_bytes() for file in files_of(root / name)}
            for root in (folder / "old", folder / "work")
        )
        changed = sorted(file for file in {*ours, *theirs} if ours.get(file) != theirs.get(file))
        found += [f"run again under new, {name}/{file} changed" for file in changed]
    (folder / "work").rename(folder / "again")
    return found


def _print_table(outcomes: list[Outcome]) -> None:
    columns = ("case", "versions", "files", "LLM calls", "repeated", "seconds", "differences")
    rows = [
        (o.name, o.versions, o.files, o.calls, o.repeated, round(o.seconds), len(o.differences) or "none")
        for o in outcomes
    ]
    print()
    for row in (columns, *rows):
        print(f"{row[0]:<14}" + "".join(f"{value!s:>12}" for value in row[1:]))


if __name__ == "__main__":
    sys.exit(main())
