"""Which fuser and which policy are behind the verdicts of a workspace."""

from __future__ import annotations

from typing import Any

import orjson

from pipelines.runtime.stage import CURRENT
from transforms.publish.recompute import StoredPlugin
from transforms.storage.workspace import Workspace

PLUGINS = "plugins"  # artefact of a fit of stage fuse: which fuser and policy it is of
_STAGE = "fuse"


def judgement(workspace: Workspace) -> dict[str, StoredPlugin]:
    """`fuser` and `policy` behind the current verdicts, with what they learned; nothing before the first fusion."""
    current = workspace.read_artefact(_STAGE, CURRENT)
    if current is None:
        return {}

    def kept(name: str) -> Any:
        return orjson.loads(workspace.read_artefact(_STAGE, f"{current.decode()}/{name}") or b"{}")

    return {name: StoredPlugin(**plugin, model=kept(name)) for name, plugin in kept(PLUGINS).items()}
