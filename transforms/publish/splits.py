"""Train, validation and test: by cluster of prompts, stratified, and stable while the dataset grows.

A cluster is a connected component of prompts that share a `group_id` or a similarity key
(`transforms.publish.prompt_keys`). A prompt that was in an earlier version keeps its split forever. A new
prompt near an old one takes the old one's split; a new prompt near old ones of different splits
can have none without a leak, so it is left out with reason `bridges_splits`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from transforms.publish.assign import Parts, assign
from transforms.publish.prompt_keys import canonical_texts, key_lists, similarity_keys
from transforms.publish.rows import PUBLISHED
from transforms.stats.minhash import text_hashes

Split = Literal["train", "validation", "test"]
KEYS_SCHEMA = pl.Schema(
    [("prompt_id", pl.String), ("slice", pl.String), ("n_rows", pl.Int64), ("keys", pl.List(pl.UInt64))]
)
SPLITS_SCHEMA = pl.Schema(
    [*KEYS_SCHEMA.items(), ("cluster_id", pl.String()), ("split", pl.String()), ("reason", pl.String())]
)


class SplitsConfig(BaseModel):
    """Fractions of the rows and what counts as one cluster.

    `stratify` names columns of pairs; every combination of their values gets the fractions by itself.
    `bands`, `rows_per_band` and `shingle` set the MinHash keys; `bands: 0` keeps only identical texts together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fractions: dict[Split, float] = Field(default={"train": 0.9, "validation": 0.05, "test": 0.05})
    stratify: tuple[Literal["kind", "language", "origin", "user_id"], ...] = ("kind",)
    bands: int = Field(default=20, ge=0, le=64)
    rows_per_band: int = Field(default=10, ge=1, le=64)
    shingle: int = Field(default=3, ge=1, le=16)

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitsConfig:
        total = sum(self.fractions.values())
        if abs(total - 1) > 1e-9 or any(f < 0 for f in self.fractions.values()):
            raise ValueError(f"fractions must be at least 0 and sum to 1; they sum to {total:g}")
        return self


def key_columns(config: SplitsConfig) -> tuple[str, ...]:
    """Columns of `pairs` that splits depend on."""
    return tuple(dict.fromkeys(["pair_id", "prompt_id", "prompt", "group_id", *config.stratify]))


def prompt_keys(pairs: pl.DataFrame, verdicts: pl.DataFrame, config: SplitsConfig) -> pl.DataFrame:
    """What the split of a bucket's prompts depends on.

    Args:
        pairs: `pairs` rows; columns `key_columns` are enough.
        verdicts: `verdicts` rows; pair_id and action are enough.
        config: what is stratified and what is alike.

    Returns:
        `KEYS_SCHEMA`, one row per prompt, sorted by prompt_id: its slice, how many of its pairs the verdicts
        publish, and its keys (similarity keys and hashes of its group ids).
    """
    if pairs.is_empty():
        return pl.DataFrame(schema=KEYS_SCHEMA)
    published = verdicts.filter(pl.col("action").is_in(PUBLISHED)).select("pair_id", published=pl.lit(1, pl.Int64))
    slice_ = pl.concat_str([pl.col(c).fill_null("") for c in config.stratify] or [pl.lit("")], separator="|")
    # What was generated from an ungrouped prompt names that prompt as its group.
    group = pl.col("group_id").fill_null(pl.col("prompt_id"))
    rows = pairs.select("prompt_id", "pair_id", slice=slice_, group=group)
    prompts = (
        rows.join(published, on="pair_id", how="left")
        .sort("prompt_id", "pair_id")
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.col("slice").first(), n_rows=pl.col("published").sum())
    )
    groups = rows.select("prompt_id", "group").unique().sort("prompt_id", "group")
    hashed = groups.with_columns(key=pl.Series(text_hashes("group:" + groups["group"]), dtype=pl.UInt64))
    shared = hashed.group_by("prompt_id", maintain_order=True).agg("key")["key"]
    texts = canonical_texts(pairs.select("prompt_id", "prompt").unique("prompt_id").sort("prompt_id")["prompt"])
    similar = similarity_keys(texts, config.bands, config.rows_per_band, config.shingle)
    keyed = prompts.with_columns(keys=key_lists(similar).list.concat(shared))
    return keyed.select(KEYS_SCHEMA.names())


def assign_parts(parts: Parts, config: SplitsConfig, seed: int) -> Iterator[pl.DataFrame]:
    """Give every prompt its cluster and its split.

    Args:
        parts: gives the parts anew whenever it is called, in the same order; no prompt is in two. Each is the result
            of `remembered`: `prompt_keys`, and the splits of the parent version, which are obeyed.
        config: fractions and strata.
        seed: the recipe's seed; it names the order in which clusters choose.

    Yields:
        Of each part `SPLITS_SCHEMA`, sorted by prompt_id; `split` is null where `reason` says why.
    """
    for part in assign(parts, config.fractions, seed):
        yield part.select(SPLITS_SCHEMA.names())


def remembered(keys: pl.DataFrame, memory: pl.DataFrame | None) -> pl.DataFrame:
    """Old and new prompts, one row each, sorted by id; keys of the same prompt united.

    Args:
        keys: `prompt_keys` of some prompts.
        memory: `SPLITS_SCHEMA`, the same prompts in the parent version, and those that have left since.
    """
    columns = ["prompt_id", "slice", "n_rows", "keys", "old_split"]
    if memory is None:
        return keys.sort("prompt_id").with_columns(old_split=pl.lit(None, pl.String)).select(columns)
    kept = memory.filter(pl.col("split").is_not_null())
    old = kept.select("prompt_id", old_split="split", old_slice="slice", old_rows="n_rows", old_keys="keys")
    joined = keys.join(old, on="prompt_id", how="full", coalesce=True).with_columns(
        slice=pl.coalesce("slice", "old_slice"), n_rows=pl.coalesce("n_rows", pl.lit(0))
    )
    # Most prompts have the keys they had: only the others need the union, which copies.
    moved = pl.col("keys").ne_missing(pl.col("old_keys"))
    union = pl.coalesce(pl.col("keys").list.set_union("old_keys"), "keys", "old_keys")
    parts = [joined.filter(~moved), joined.filter(moved).with_columns(keys=union)]
    return pl.concat([part.select(columns) for part in parts]).sort("prompt_id")
