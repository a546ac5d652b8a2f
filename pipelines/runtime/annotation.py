"""What push and pull share: the server, the ledger, and the pairs that were asked."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import polars as pl

from pipelines.runtime.stage import PAIR_STAGES
from schemas.recipe import AnnotateSection, Recipe
from schemas.secrets import secret
from schemas.tables import Queue, Row, polars_schema
from transforms.annotate.label_studio import LabelStudioServer
from transforms.annotate.page import PageConfig
from transforms.annotate.ranking import RANKINGS
from transforms.annotate.tasks import empty_ledger
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Workspace

LEDGER = "ledger.parquet"
ASKED = "asked.parquet"
RANKED = "rankings.parquet"
OWNER = "owner"


def server(section: AnnotateSection) -> LabelStudioServer:
    """The Label Studio of the recipe.

    Raises:
        UsageError: the token's variable is not set, or holds no token.
    """
    return LabelStudioServer(section.url, secret(section.token_env))


def owner(workspace: Workspace) -> str:
    """Who this workspace is on servers that it shares with others; chosen once and kept.

    Drawn at random: two workspaces of one recipe are alike in everything else. It is in no table and no version.
    """
    name = workspace.read_artefact("push", OWNER)
    if name is None:
        name = uuid.uuid4().hex.encode()
        workspace.write_artefact("push", OWNER, name)
    return name.decode()


def page_config(recipe: Recipe) -> PageConfig:
    """What the page asks for."""
    section = recipe.annotate
    return PageConfig(
        aspects=section.aspects, span_kinds=section.span_kinds, rationale_required=section.rationale_required
    )


def stored_frame(workspace: Workspace, name: str, empty: pl.DataFrame) -> pl.DataFrame:
    """A frame that push keeps beside the tables."""
    frame = workspace.read_frame("push", name)
    return empty if frame is None else frame


def store_frame(workspace: Workspace, name: str, frame: pl.DataFrame) -> None:
    """Keep a frame of push, durably."""
    workspace.write_artefact("push", name, parquet_bytes(frame))


def ledger(workspace: Workspace) -> pl.DataFrame:
    """Which pair is which task."""
    return stored_frame(workspace, LEDGER, empty_ledger())


def rankings(workspace: Workspace) -> pl.DataFrame:
    """Which pairs are asked together, as rankings."""
    return stored_frame(workspace, RANKED, pl.DataFrame(schema=RANKINGS))


def asked(workspace: Workspace) -> pl.DataFrame:
    """The queue as last offered to people."""
    return stored_frame(workspace, ASKED, pl.DataFrame(schema=polars_schema(Queue)))


def queue(workspace: Workspace) -> pl.DataFrame:
    """The whole queue as route made it, best first."""
    frames = [workspace.read("queue", bucket, ("route",)) for bucket in workspace.buckets]
    return pl.concat(frames).sort("rank")


def pairs_by_id(workspace: Workspace, pair_ids: Iterable[str]) -> dict[str, Row]:
    """`pairs` rows by id, for the ids given."""
    wanted = set(pair_ids)
    by_id: dict[str, Row] = {}
    if wanted:
        for bucket in workspace.buckets:
            pairs = workspace.read("pairs", bucket, PAIR_STAGES)
            rows = pairs.filter(pl.col("pair_id").is_in(list(wanted)))
            by_id.update({row["pair_id"]: row for row in rows.iter_rows(named=True)})
    return by_id
