"""Beam options: the local settings measured fastest, and whatever the user gave after `--`."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.recipe import BeamSection


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
    return [f"{name}={value}" for name, value in ours.items() if name not in names] + list(given)
