"""prefine: preference-data curation, from Python.

    import prefine

    result = prefine.run("recipe.yaml", "workspace")
    workspace = prefine.open("workspace")
    workspace.verdicts()                  # a Polars frame
    workspace.explain(pair_id)            # why a pair has its label
    workspace.dataset("name").rows()      # what a trainer gets
    workspace.diff("name@1", "name@2")

Everything here the command line can do too (`prefine --help`), and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.runtime.run import RunResult
    from prefine.api import Dataset, Workspace, open, run
    from schemas.errors import PrefineError

__all__ = ["Dataset", "PrefineError", "RunResult", "Workspace", "open", "run"]

_HOMES = {"PrefineError": "schemas.errors", "RunResult": "pipelines.runtime.run"}
_ROOMS = ("schemas", "transforms", "pipelines")  # top-level names of ours that other folders may have too


def _check_rooms() -> None:
    """Raise if a folder of the caller's stands in the way of ours.

    Raises:
        ImportError: names the folder.
    """
    home = Path(__file__).resolve().parents[1]
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        places = [] if spec is None else [*(spec.submodule_search_locations or []), *filter(None, [spec.origin])]
        if not places:
            raise ImportError(f"the installation of prefine is incomplete: {home} has no folder {room!r}")
        if not any(Path(place).resolve().is_relative_to(home / room) for place in places):
            theirs = Path(places[0]).resolve()
            raise ImportError(
                f"{theirs.parent if theirs.suffix == '.py' else theirs} stands in the way of prefine's own {room!r}: "
                "start Python in another folder, or rename that one"
            )


def __getattr__(name: str) -> Any:
    # Polars and the rest take most of a second to import, and the command line has its own way to them.
    if name not in __all__:
        raise AttributeError(f"module 'prefine' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES.get(name, "prefine.api")), name)


def __dir__() -> list[str]:
    return __all__


_check_rooms()
