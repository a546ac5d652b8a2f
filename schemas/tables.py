"""The tables of a workspace, each declared once.

A column's meaning stands beside its declaration. `polars_schema(Table)` gives the Polars dtypes,
`conform(df, Table)` brings a frame to exactly these columns.
"""

from __future__ import annotations

from typing import Any

import dataframely as dy
import polars as pl

from schemas.ids import ID_PATTERN
from schemas.messages import MESSAGE_FIELDS

CONTEXT_KINDS = ("criterion", "persona", "documents", "history", "principles")
PREFERENCES = ("a", "b", "tie")
VOTE_LABELS = ("a", "b", "tie", "invalid", "refused", "error")
VOTE_KINDS = ("source", "judge", "reward", "rule", "human")
ORDERS = ("ab", "ba", "none")
ACTIONS = ("keep", "flip", "soften", "drop", "tie", "route")
SPLITS = ("train", "validation", "test")

Row = dict[str, Any]  # a row of a table as a dict of its columns


def _id(primary_key: bool = False, nullable: bool = False) -> dy.String:
    return dy.String(primary_key=primary_key, nullable=nullable, regex=ID_PATTERN)


def _one_of(values: tuple[str, ...], nullable: bool = False) -> dy.String:
    return dy.String(nullable=nullable, regex=f"^({'|'.join(values)})$")


def _messages() -> dy.List:
    return dy.List(dy.Struct(MESSAGE_FIELDS), min_length=1, nullable=False)


def _probability(nullable: bool = True) -> dy.Float64:
    return dy.Float64(nullable=nullable, min=0.0, max=1.0)


class Prompts(dy.Schema):
    """What generators start from."""

    prompt_id = _id(primary_key=True)
    prompt = _messages()
    kind = dy.String(nullable=True)  # task kind, e.g. "arithmetic"; a slice for reports and pooling
    checks = dy.String(nullable=True)  # JSON list of checkable constraints (transforms/scorers/checks/vocabulary.py)
    reference = dy.String(nullable=True)  # a reference answer
    documents = dy.List(dy.String(), nullable=True)  # passages an answer may rest on
    language = dy.String(nullable=True)  # ISO 639-1
    group_id = dy.String(nullable=True)  # prompts that must share a split
    user_id = dy.String(nullable=True)
    tags = dy.List(dy.String(nullable=False), nullable=True)
    meta = dy.String(nullable=True)  # JSON object: everything else the source row had


class Pairs(dy.Schema):
    """Two responses to one prompt. `response_a` is always the one with the smaller hash."""

    pair_id = _id(primary_key=True)
    prompt_id = _id()
    prompt = _messages()
    context = dy.String(nullable=True)  # what the pair is to be judged under
    context_kind = _one_of(CONTEXT_KINDS, nullable=True)
    response_a = _messages()
    response_b = _messages()
    model_a = dy.String(nullable=True)
    model_b = dy.String(nullable=True)
    origin = dy.String(nullable=False)  # source name, or generator name
    origin_ref = dy.String(nullable=True)  # row of the source, or how the generator made it (JSON)
    source_label = _one_of(PREFERENCES, nullable=True)
    source_strength = dy.Float64(nullable=True)  # > 0, in the source's own unit
    user_id = dy.String(nullable=True)
    group_id = dy.String(nullable=True)  # pairs that must share a split (twins, clusters)
    language = dy.String(nullable=True)
    kind = dy.String(nullable=True)  # task kind
    checks = dy.String(nullable=True)  # JSON list of checkable constraints
    reference = dy.String(nullable=True)
    tags = dy.List(dy.String(nullable=False), nullable=True)
    meta = dy.String(nullable=True)  # JSON object


class Votes(dy.Schema):
    """One voter's opinion of one pair. `invalid`, `refused`, `error` are states, never numbers."""

    vote_id = _id(primary_key=True)
    pair_id = _id()
    voter = dy.String(nullable=False)
    voter_group = dy.String(nullable=False)  # voters that share errors count as one group
    kind = _one_of(VOTE_KINDS)
    order = _one_of(ORDERS)  # in which order this voter saw the responses
    sample_ = dy.Int32(nullable=False, min=0, alias="sample")  # 0, 1, ... for repeated samples of one voter
    label = _one_of(VOTE_LABELS)  # always in terms of the stored a and b, whatever the order shown
    p_a = _probability()  # P(a better) by this voter alone, if it says so
    score_a = dy.Float64(nullable=True)
    score_b = dy.Float64(nullable=True)
    aspects = dy.String(nullable=True)  # JSON object: per-aspect scores, ensemble mu and sigma, ...
    rationale = dy.String(nullable=True)
    raw = dy.String(nullable=True)  # the reply as received
    detail = dy.String(nullable=True)  # why the label is invalid, refused or error
    tokens_in = dy.Int64(nullable=False, min=0)
    tokens_out = dy.Int64(nullable=False, min=0)
    ms = dy.Float64(nullable=False, min=0.0)


CONTRIBUTION_FIELDS: dict[str, dy.Column] = {
    "voter": dy.String(nullable=False),
    "n_votes": dy.Int32(nullable=False),
    "label": dy.String(nullable=False),  # this voter's votes on the pair, joined by "+"
    "log_odds": dy.Float64(nullable=False),  # added to the log-odds of "a is better"
}


class Verdicts(dy.Schema):
    """The fused opinion of a pair: logit(p_a) = prior + sum of the contributions' log_odds."""

    pair_id = _id(primary_key=True)
    prompt_id = _id()
    p_a = _probability(nullable=False)  # P(a is better | one is better)
    p_tie = _probability(nullable=False)  # P(neither is better)
    label = _one_of(PREFERENCES)  # the most probable of a, b, tie
    margin = dy.Float64(nullable=False)  # log-odds of a against b, clipped to [-8, 8]
    certainty = _probability(nullable=False)  # probability of `label`
    disagreement = _probability(nullable=False)  # entropy in bits of the valid votes' labels over log2(3)
    noise = _probability()  # P(source_label is wrong); null if there is no source label
    action = _one_of(ACTIONS)
    reasons = dy.List(dy.String(nullable=False), nullable=False)
    n_votes = dy.Int32(nullable=False, min=0)
    n_human = dy.Int32(nullable=False, min=0)
    prior = dy.Float64(nullable=False)  # log-odds that no voter adds: what the lengths of the responses say
    contributions = dy.List(dy.Struct(CONTRIBUTION_FIELDS), nullable=False)


class Queue(dy.Schema):
    """Pairs to be shown to humans, best first."""

    pair_id = _id(primary_key=True)
    rank = dy.Int64(nullable=False, min=0)
    value = dy.Float64(nullable=False)  # the router's score: what a label is expected to buy
    overlap = dy.Int32(nullable=False, min=1)  # how many annotators are asked
    held_out = dy.Int32(nullable=False, min=0)  # how many of the answers serve the audit alone and are never fused
    purpose = _one_of(("audit", "control", "value"))
    shown = _one_of(("ab", "ba"))  # order on the page, a seeded coin
    known_label = _one_of(PREFERENCES, nullable=True)  # the answer of a control


class Annotations(dy.Schema):
    """A human's answer as it came home, validated and mapped back to the stored a and b."""

    annotation_id = _id(primary_key=True)
    task_id = dy.String(nullable=False)
    pair_id = _id()
    annotator = dy.String(nullable=False)
    label = _one_of(("a", "b", "tie", "both_bad"), nullable=True)  # null where cancelled
    strength = dy.Int32(nullable=True, min=1, max=4)
    aspects = dy.String(nullable=True)  # JSON: {"a": {aspect: 1..5}, "b": {...}}
    spans = dy.String(nullable=True)  # JSON list of {response, start, end, text, kind}; code points
    rationale = dy.String(nullable=True)
    seconds = dy.Float64(nullable=True, min=0.0)
    control = dy.Bool(nullable=False)
    cancelled = dy.Bool(nullable=False)
    updated_at = dy.String(nullable=False)  # RFC 3339, UTC


class Rejects(dy.Schema):
    """A record that left the pipeline, with the reason and the record itself."""

    reject_id = _id(primary_key=True)
    stage = dy.String(nullable=False)
    reason = dy.String(nullable=False)  # a code, e.g. "empty_response"
    record_id = dy.String(nullable=False)  # file:row for sources, else an id
    detail = dy.String(nullable=False)  # one sentence for a person
    payload = dy.String(nullable=False)  # JSON of the record; but for materialise's cut at PAYLOAD_LIMIT characters


PAYLOAD_LIMIT = 20_000


class Generations(dy.Schema):
    """Memo of LLM replies: one row per request ever answered."""

    request_id = _id(primary_key=True)
    engine = dy.String(nullable=False)
    model = dy.String(nullable=False)
    state = _one_of(("ok", "refused", "error"))
    text = dy.String(nullable=False)
    reasoning = dy.String(nullable=True)
    finish_reason = dy.String(nullable=True)
    logprobs = dy.String(nullable=True)  # JSON: first token's {token: log-probability}, or per-token list
    error = dy.String(nullable=True)
    tokens_in = dy.Int64(nullable=False, min=0)
    tokens_cached = dy.Int64(nullable=False, min=0)
    tokens_out = dy.Int64(nullable=False, min=0)
    ms = dy.Float64(nullable=False, min=0.0)
    retries = dy.Int32(nullable=False, min=0)


class Embeddings(dy.Schema):
    """Memo of text embeddings."""

    text_id = _id(primary_key=True)  # hash of (model, text)
    vector = dy.List(dy.Float32(nullable=False), nullable=False)


class DatasetRows(dy.Schema):
    """A published preference. `meta` and the evidence files carry the rest."""

    pair_id = _id(primary_key=True)
    prompt_id = _id()
    prompt = _messages()
    context = dy.String(nullable=True)
    context_kind = _one_of(CONTEXT_KINDS, nullable=True)
    chosen = _messages()
    rejected = _messages()
    chosen_is = _one_of(("a", "b"))  # which stored response is `chosen`
    model_chosen = dy.String(nullable=True)
    model_rejected = dy.String(nullable=True)
    margin = dy.Float64(nullable=False, min=0.0)  # |log-odds|
    p_chosen = _probability(nullable=False)
    weight = _probability(nullable=False)
    split = _one_of(SPLITS)
    origin = dy.String(nullable=False)
    action = _one_of(ACTIONS)
    decided_by = dy.String(nullable=False)  # the voter with the largest contribution to the label
    reasons = dy.List(dy.String(nullable=False), nullable=False)
    user_id = dy.String(nullable=True)
    group_id = dy.String(nullable=True)
    language = dy.String(nullable=True)
    kind = dy.String(nullable=True)
    tags = dy.List(dy.String(nullable=False), nullable=True)
    meta = dy.String(nullable=True)


TABLES: dict[str, type[dy.Schema]] = {
    "prompts": Prompts,
    "pairs": Pairs,
    "votes": Votes,
    "verdicts": Verdicts,
    "queue": Queue,
    "rows": DatasetRows,
    "annotations": Annotations,
    "rejects": Rejects,
    "generations": Generations,
    "embeddings": Embeddings,
}


def polars_schema(table: type[dy.Schema]) -> pl.Schema:
    """Polars dtypes of a table, in column order."""
    return pl.Schema({name: column.dtype for name, column in table.columns().items()})


def primary_key(table: type[dy.Schema]) -> str:
    """Name of the table's id column."""
    return table.primary_key()[0]


def conform(frame: pl.DataFrame, table: type[dy.Schema]) -> pl.DataFrame:
    """Bring a frame to the table's columns, order and dtypes; absent columns become null, extra ones go."""
    schema = polars_schema(table)
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )


def rows_frame(rows: list[dict[str, Any]], table: type[dy.Schema]) -> pl.DataFrame:
    """A frame of the table from row dicts; absent keys become null."""
    schema = polars_schema(table)
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema, orient="row")
