"""Beam: the local settings measured fastest, whatever the user gave after `--`, and a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from schemas.recipe import BeamSection

_BY_MODULE = {"DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner"}  # Beam does not know it by its name

_LOCAL = ("FnApiRunner", "DirectRunner", "BundleBasedDirectRunner")


def beam_flags(section: BeamSection, given: Sequence[str] = ()) -> list[str]:
    """Flags for PipelineOptions; a flag the user gives wins over ours.

    The runner is named because `DirectRunner` first tries to download another runner, which hangs
    behind a proxy.
    """
    ours = {
        "--runner": "FnApiRunner",
        "--direct_num_workers": str(section.workers),
        "--direct_running_mode": section.mode,
    }
    names = {flag.split("=", 1)[0] for flag in given}
    theirs = [_full_name(flag) for flag in given]
    return [f"{name}={value}" for name, value in ours.items() if name not in names] + theirs


def is_local(flags: Sequence[str]) -> bool:
    """Whether the workers are threads and processes of this machine, by the flags of `beam_flags`."""
    runners = [flag.partition("=")[2] for flag in flags if flag.startswith("--runner=")]
    return not runners or runners[-1] in _LOCAL


def _full_name(flag: str) -> str:
    name, _, value = flag.partition("=")
    return f"{name}={_BY_MODULE[value]}" if name == "--runner" and value in _BY_MODULE else flag


def run(work: Callable[[Any], str], elements: Iterable[Any], flags: Sequence[str]) -> None:
    """Run `work` for all elements with Beam; see `pipelines.runtime.beam.run`.

    Beam takes a second to import, and commands that only read should not wait for it.
    """
    with _quiet_import():
        from pipelines.runtime.beam import run as run_with_beam

    run_with_beam(work, elements, flags)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Beam warns through the root logger of what it could import besides, and on every run of what it runs with."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what a worker raises reaches us as an exception
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
