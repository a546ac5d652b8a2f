"""`prefine` in a process of its own that is forked off one that has all imported.

Starting the interpreter and importing Beam, Polars, SciPy and matplotlib takes longer than most commands of the tests
do. What a test sees is the same as of `python -m prefine.cli.main`: arguments, folder, environment, exit status,
output.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
# There is one such process for all that fork in a test run, so what any of them needs is named here.
FORKS.set_forkserver_preload(["tests.forked_imports", "tests.transforms.publish.test_version"])


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def prefine(*words: str, folder: Path, environment: Mapping[str, str], timeout_s: float = 900) -> Done:
    """Run a command in a folder to its end."""
    with tempfile.TemporaryDirectory(prefix="forked-") as kept:
        out, err = Path(kept, "out"), Path(kept, "err")
        process = FORKS.Process(target=_run, args=(words, str(folder), dict(environment), str(out), str(err)))
        process.start()
        process.join(timeout_s)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        texts = [path.read_text() if path.exists() else "" for path in (out, err)]
        if late or process.exitcode is None:
            raise TimeoutError(f"prefine {' '.join(words)} took over {timeout_s} s\n{texts[0]}\n{texts[1]}")
        return Done(process.exitcode, *texts)


def _run(words: tuple[str, ...], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    """In the child: be what `python -m prefine.cli.main WORDS` is."""
    os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["prefine", *words]
    from prefine.cli.main import main

    try:
        main()
    except Exception:
        traceback.print_exc()  # multiprocessing would tell it in other words
        raise SystemExit(1) from None
    finally:
        logging.shutdown()
