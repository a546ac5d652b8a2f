"""Real human-labelled preference data as the tables of a workspace.

`load(name, data_dir)` gives the `pairs` and `votes` frames of one file of the shared folder and the
humans' majority. Text and labels are upstream's; nothing is sampled. Pairs are stored in prefine's own
order (smaller hash first), so every label is mirrored where that exchanges the responses. A pair that
upstream lists several times (two systems gave the same two texts) is one pair with the votes of all.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from schemas.ids import hash_fields, hash_json
from schemas.messages import text_of, to_messages
from schemas.pairs import make_pair, mirrored
from schemas.tables import Pairs, Votes, conform, rows_frame

NAMES = (
    "finegrained_qa_dev",
    "hh_harmless_test",
    "llmbar",
    "pandalm_test",
    "tarm_webgpt_hh",
    "ukpconvarg1",
    "wmt23_mqm_sxs_ende",
)
_LANGUAGE = {"wmt23_mqm_sxs_ende": "de"}
_MAJORITY = {"pair_id": pl.String, "label": pl.String, "n_human": pl.Int32, "share_a": pl.Float64, "gold": pl.String}


def load(name: str, data_dir: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """One data set as tables.

    Args:
        name: file name without `.parquet`, one of `NAMES`.
        data_dir: folder that holds the files.

    Returns:
        pairs: the `Pairs` columns; `source_label` null, `kind` the subset where upstream has one,
            `group_id` what must not be split (debate topic, document; else null: split by `prompt_id`).
        votes: the `Votes` columns; judges (kind "judge", voter = judge without its order, voter_group = the
            model behind it) and every human annotator (kind "human").
        majority: `pair_id`, `label` (a|b|tie, what more than half of the humans said; null where none has
            that many), `gold` (upstream's own aggregate, may be null), `n_human`, `share_a` (humans' share of
            a, ties as half).
    """
    frame = pl.read_parquet(data_dir / f"{name}.parquet")
    pairs: dict[str, dict[str, Any]] = {}
    votes: list[dict[str, Any]] = []
    human: dict[str, list[str]] = {}
    gold: dict[str, str | None] = {}
    for row in frame.iter_rows(named=True):
        extra = json.loads(row["extra"])
        pair, swapped = make_pair(
            to_messages(row["prompt"], "user"),
            to_messages(row["response_a"], "assistant"),
            to_messages(row["response_b"], "assistant"),
            context=row["context"],
            context_kind="documents" if row["context"] else None,
            origin=name,
            origin_ref=row["id"],
            language=_LANGUAGE.get(name, "en"),
            kind=extra.get("subset", extra.get("app")),
            group_id=hash_json([name, group]) if (group := extra.get("topic", extra.get("doc"))) else None,
            meta=row["extra"],
        )
        pair_id = pair["pair_id"]
        if pair_id not in pairs:
            pairs[pair_id], human[pair_id], gold[pair_id] = pair, [], _seen(row["gold"], swapped)
        for vote in row["judge_labels"] or []:
            judge, _, order = vote["judge"].partition("|")
            votes.append(_vote(pair_id, "judge", judge, order or "none", vote["label"], swapped))
        for who, label in zip(row["human_annotators"], row["human_labels"], strict=True):
            votes.append(_vote(pair_id, "human", f"human:{who}", "none", label, swapped))
            human[pair_id].append(votes[-1]["label"])
    majority = [{"pair_id": key, **_majority(labels), "gold": gold[key]} for key, labels in human.items()]
    return (
        rows_frame(list(pairs.values()), Pairs),
        conform(_numbered(pl.DataFrame(votes, infer_schema_length=None)), Votes),
        pl.DataFrame(majority, schema=_MAJORITY),
    )


def fuser_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """The columns of `pairs` that a fuser sees: ids, slices, source label and the responses' lengths in characters."""
    lengths = {
        f"length_{side}": [len(text_of(response)) for response in pairs[f"response_{side}"].to_list()] for side in "ab"
    }
    columns = ("pair_id", "prompt_id", "source_label", "kind", "language", "origin")
    return pairs.select(columns).with_columns(pl.Series(name, values) for name, values in lengths.items())


def _seen(label: str | None, swapped: bool) -> str | None:
    return mirrored(label) if swapped and label else label


def _majority(labels: list[str]) -> dict[str, Any]:
    if not labels:
        return {"label": None, "n_human": 0, "share_a": None}
    label, count = Counter(labels).most_common(1)[0]
    share = (labels.count("a") + 0.5 * labels.count("tie")) / len(labels)
    return {"label": label if 2 * count > len(labels) else None, "n_human": len(labels), "share_a": share}


def _vote(pair_id: str, kind: str, voter: str, order: str, label: str, swapped: bool) -> dict[str, Any]:
    return {
        "pair_id": pair_id,
        "voter": voter,
        "voter_group": voter.partition("/")[0] if kind == "judge" else voter,
        "kind": kind,
        "order": mirrored(order) if swapped else order,
        "label": mirrored(label) if swapped else label,
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
    }


def _numbered(votes: pl.DataFrame) -> pl.DataFrame:
    """Votes with `sample` (0, 1, ... where upstream has the same pair, voter and order again) and `vote_id`."""
    sample = pl.int_range(pl.len()).over("pair_id", "voter", "order").cast(pl.Int32)
    numbered = votes.with_columns(sample.alias("sample"))
    keys = numbered.select("pair_id", "voter", "order", pl.col("sample").cast(pl.String)).iter_rows()
    return numbered.with_columns(pl.Series("vote_id", [hash_fields(*key) for key in keys]))
