"""Masking personal data in a pair, and what has to move with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import polars as pl

from schemas.ids import hash_fields
from schemas.messages import Message
from schemas.pairs import make_pair
from schemas.pairs import mirrored as mirrored_label
from schemas.tables import Row
from transforms.hygiene import personal
from transforms.hygiene.config import PersonalConfig

_BUILT = ("pair_id", "prompt_id", "prompt", "context", "response_a", "response_b", "model_a", "model_b", "source_label")
SECRETS = ("private_key", "token", "secret")
Fault = tuple[str, str]  # reason code, one sentence


def mask_pair(row: Row, config: PersonalConfig) -> tuple[Fault | None, Row]:
    """The pair as the policies want it, or why it must go; a pair whose text changes gets new ids.

    What is published beside the texts counts too: the reference, and every text in `meta`.
    """
    texts = [m["content"] for part in ("prompt", "response_a", "response_b") for m in row[part]]
    kinds = kinds_in([*texts, row["context"] or "", *other_texts(row)], config)
    fault = forbidden(kinds, config)
    if fault or not kinds:
        return fault, row
    tagged = {**row, "tags": with_tags(row, kinds), **masked_other_texts(row, config)}
    parts: dict[str, Any] = {name: mask_messages(row[name], config) for name in ("prompt", "response_a", "response_b")}
    context = _masked_text(row["context"], config) if row["context"] else row["context"]
    if context == row["context"] and all(parts[name] == row[name] for name in parts):
        return None, tagged
    meta = orjson.loads(tagged["meta"]) if tagged["meta"] else {}
    fields = {name: value for name, value in tagged.items() if name not in (*_BUILT, "meta")}
    try:
        masked, mirrored = make_pair(
            parts["prompt"],
            parts["response_a"],
            parts["response_b"],
            first_label=row["source_label"],
            model_first=row["model_a"],
            model_second=row["model_b"],
            context=context,
            **fields,
        )
    except ValueError:
        return ("identical_responses", "the responses differ only in what is masked"), row
    if mirrored:
        meta = _turned(meta)
        masked["origin_ref"] = _turned_text(row["origin_ref"])
    masked["meta"] = orjson.dumps({**meta, "masked_from": row["pair_id"], "mirrored": mirrored}).decode()
    return None, masked


def _turned(facts: dict[str, Any]) -> dict[str, Any]:
    """What generators wrote about a pair's sides, after a and b changed places."""
    out = {**facts, **{new: facts[old] for old, new in (("a", "b"), ("b", "a")) if old in facts and new in facts}}
    if isinstance(facts.get("sides"), dict):
        out["sides"] = _turned(facts["sides"])
    if isinstance(facts.get("expected"), str):
        out["expected"] = mirrored_label(facts["expected"])
    return out


def _turned_text(text: str | None) -> str | None:
    """As `_turned`, for an `origin_ref` that is a JSON object; any other stays."""
    try:
        facts = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        return text
    return orjson.dumps(_turned(facts), option=orjson.OPT_SORT_KEYS).decode() if isinstance(facts, dict) else text


def _policy(kind: str, config: PersonalConfig) -> str:
    return config.secrets if kind in SECRETS else config.policy


def kinds_in(texts: Sequence[str], config: PersonalConfig) -> list[str]:
    """Kinds of personal data and secrets in the texts, sorted."""
    return sorted({f.kind for text in texts for f in personal.find(text, config.kinds)})


def forbidden(kinds: Sequence[str], config: PersonalConfig) -> Fault | None:
    """The fault of holding a kind whose policy is to drop, or None."""
    banned = [kind for kind in kinds if _policy(kind, config) == "drop"]
    if not banned:
        return None
    reason = "secret" if banned[0] in SECRETS else "personal_data"
    return reason, f"holds {', '.join(banned)}"


def _masked_text(text: str, config: PersonalConfig) -> str:
    findings = personal.find(text, config.kinds)
    return personal.mask(text, [f for f in findings if _policy(f.kind, config) == "mask"])


def other_texts(row: Row) -> list[str]:
    """The texts of a row that are neither prompt, response nor context: reference, documents, all of `meta`."""
    meta = orjson.loads(row["meta"]) if row["meta"] else None
    return [text for value in (row["reference"], row.get("documents"), meta) for text in _texts(value)]


def masked_other_texts(row: Row, config: PersonalConfig) -> Row:
    """The fields that `other_texts` reads, masked; `meta` stays the same text if nothing in it is masked."""
    fields = {name: _masked_value(row[name], config) for name in ("reference", "documents") if name in row}
    meta = orjson.loads(row["meta"]) if row["meta"] else None
    masked = _masked_value(meta, config)
    return fields | {"meta": row["meta"] if masked == meta else orjson.dumps(masked).decode()}


def concealed(row: Row, config: PersonalConfig) -> Row:
    """The row as far as it may be shown: everything that is not kept is masked, wherever it stands."""
    masking = {"drop": "mask", "mask": "mask", "keep": "keep"}
    policies = {name: masking[getattr(config, name)] for name in ("policy", "secrets")}
    meta = orjson.loads(row["meta"]) if row["meta"] else None
    shown: Row = _masked_value({**row, "meta": meta}, config.model_copy(update=policies))
    return shown | {"meta": None if meta is None else orjson.dumps(shown["meta"]).decode()}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _masked_value(value: Any, config: PersonalConfig) -> Any:
    if isinstance(value, str):
        return _masked_text(value, config)
    if isinstance(value, dict):
        return {key: _masked_value(item, config) for key, item in value.items()}
    return [_masked_value(item, config) for item in value] if isinstance(value, list) else value


def mask_messages(messages: Sequence[Message], config: PersonalConfig) -> list[Message]:
    """The messages with what the policies mask replaced by its kind."""
    return [{**m, "content": _masked_text(m["content"], config)} for m in messages]


def with_tags(row: Row, kinds: Sequence[str]) -> list[str]:
    """The row's tags and one `pii:<kind>` for each kind."""
    return list(dict.fromkeys([*(row["tags"] or []), *(f"pii:{kind}" for kind in kinds)]))


def votes_on_masked(votes: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """The votes on pairs that `examine_pairs` masked, moved to their new ids; the votes of other pairs are left out."""
    masked = kept.select(
        pl.col("meta").str.json_path_match("$.masked_from").alias("old"),
        pl.col("meta").str.json_path_match("$.mirrored").eq("true").alias("mirrored"),
        pl.col("pair_id").alias("new"),
    ).drop_nulls("old")
    moved = votes.join(masked, left_on="pair_id", right_on="old", maintain_order="left")
    turned = {"a": "b", "b": "a"}
    orders = {"ab": "ba", "ba": "ab"}
    mirrored = moved.with_columns(
        label=pl.when("mirrored").then(pl.col("label").replace(turned)).otherwise("label"),
        order=pl.when("mirrored").then(pl.col("order").replace(orders)).otherwise("order"),
        p_a=pl.when("mirrored").then(1 - pl.col("p_a")).otherwise("p_a"),
        score_a=pl.when("mirrored").then("score_b").otherwise("score_a"),
        score_b=pl.when("mirrored").then("score_a").otherwise("score_b"),
        pair_id=pl.col("new"),
    )
    ids = [hash_fields("masked", old, new) for old, new in mirrored.select("vote_id", "pair_id").iter_rows()]
    return mirrored.with_columns(pl.Series("vote_id", ids, dtype=pl.String)).select(votes.columns)
