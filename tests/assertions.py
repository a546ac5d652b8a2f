"""Compare what the tests claim with an older revision: `python -m tests.assertions REV` fails where it became less.

It counts, by syntax, `assert` statements, `pytest.raises` and `pytest.warns`, test functions, and the cases in the
lists of `parametrize`, so that a faster suite can be shown to be the whole suite. Assertions at the end of a helper
count once however often it is called: the numbers say that nothing was dropped, not that something was checked.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("assert", "raises", "warns", "test", "case")


def counted(source: str) -> Counter[str]:
    """How much of each kind a file has."""
    return Counter(kind for node in ast.walk(ast.parse(source)) for kind in kinds_of(node))


def kinds_of(node: ast.AST) -> Iterator[str]:
    """What a node of the syntax tree counts as."""
    if isinstance(node, ast.Assert):
        yield "assert"
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
        yield "test"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("raises", "warns"):
            yield node.func.attr
        if node.func.attr == "parametrize" and len(node.args) > 1 and isinstance(node.args[1], ast.List | ast.Tuple):
            yield from ["case"] * len(node.args[1].elts)


def at(revision: str) -> dict[str, Counter[str]]:
    """Every Python file below tests/ at a revision."""
    listed = git("ls-tree", "-r", "--name-only", revision, "tests")
    return {name: counted(git("show", f"{revision}:{name}")) for name in listed.splitlines() if name.endswith(".py")}


def here() -> dict[str, Counter[str]]:
    """Every Python file below tests/ in this working tree."""
    paths = (ROOT / "tests").rglob("*.py")
    return {str(path.relative_to(ROOT)): counted(path.read_text()) for path in paths}


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(revision: str) -> int:
    """Print the files that differ and the sums; 1 where any sum is less."""
    before, after = at(revision), here()
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, Counter()), after.get(name, Counter())
        if was != now:
            print(f"{name}: " + ", ".join(f"{kind} {was[kind]} -> {now[kind]}" for kind in KINDS))
    was, now = sum(before.values(), Counter()), sum(after.values(), Counter())
    for kind in KINDS:
        print(f"{kind:8}{was[kind]:6} -> {now[kind]:6}")
    return int(any(now[kind] < was[kind] for kind in KINDS))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.assertions REVISION")
    sys.exit(main(sys.argv[1]))
