"""Cleaning a bucket: every row that goes is a reject with its reason, every row that stays is a valid row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.errors import UsageError
from schemas.ids import canonical_json
from schemas.messages import Message, messages_id, text_of
from schemas.rows import reject_row
from schemas.tables import Rejects, Row, rows_frame
from transforms.hygiene import sanity
from transforms.hygiene.config import HygieneConfig, LanguageConfig, PersonalConfig, SanityConfig
from transforms.hygiene.decontamination import index_of, nearest, read_prompts
from transforms.hygiene.masking import (
    Fault,
    concealed,
    forbidden,
    kinds_in,
    mask_messages,
    mask_pair,
    masked_other_texts,
    other_texts,
    with_tags,
)
from transforms.text.language import language_of

STAGE = "hygiene"
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


Outcome = Fault | Row  # why a row goes, or the row as it stays


def examine_pairs(pairs: pl.DataFrame, config: HygieneConfig, embed: Embed | None = None) -> list[Outcome]:
    """What becomes of each row of a `pairs` frame, in order: all that can be said of a row alone.

    Duplicates need every bucket (duplicates.resolve, then `drop`). Masking changes texts and with them prompt_id and
    pair_id: meta `masked_from` keeps the old pair_id and `mirrored` says whether a and b changed places, which
    `votes_on_masked` needs.

    Args:
        pairs: rows of the `pairs` table.
        config: what to do.
        embed: texts to embeddings of unit length; needed for decontamination by `cosine`.

    Raises:
        UsageError: `cosine` is set and `embed` is not given.
    """
    close = _contaminated_by_meaning(pairs, config, embed)
    outcomes: list[Outcome] = []
    for row in pairs.to_dicts():
        fault = close.get(row["pair_id"])
        if fault is None and config.sanity is not None:
            fault = pair_sanity(row, config.sanity)
        if fault is None and config.decontamination is not None:
            fault = _contaminated(row, config)
        if fault is None and config.language is not None:
            fault, row = _language(row, config.language)
        if fault is None and config.personal is not None:
            fault, row = mask_pair(row, config.personal)
        outcomes.append(row if fault is None else fault)
    return outcomes


def examine_prompts(prompts: pl.DataFrame, config: HygieneConfig, embed: Embed | None = None) -> list[Outcome]:
    """As `examine_pairs`, for rows of the `prompts` table; sanity and `responses` do not apply to prompts."""
    close = _contaminated_by_meaning(prompts, config, embed)
    outcomes: list[Outcome] = []
    for row in prompts.to_dicts():
        text = text_of(row["prompt"])
        fault = close.get(row["prompt_id"])
        if fault is None and config.decontamination is not None:
            overlap = index_of(config.decontamination.benchmarks, config.decontamination.ngram).find(text)
            fault = ("contaminated", f"the prompt shares {overlap[1]!r} with {overlap[0]}") if overlap else None
        if fault is None and config.language is not None:
            language = row["language"] or language_of(text, config.language.min_chars, config.language.min_confidence)
            fault = _not_allowed(language, config.language)
            row = {**row, "language": language}
        if fault is None and config.personal is not None:
            found_kinds = kinds_in([text, *other_texts(row)], config.personal)
            fault = forbidden(found_kinds, config.personal)
            if fault is None and found_kinds:
                prompt = mask_messages(row["prompt"], config.personal)
                row |= {"prompt": prompt, "prompt_id": messages_id(prompt), "tags": with_tags(row, found_kinds)}
                row |= masked_other_texts(row, config.personal)
        outcomes.append(row if fault is None else fault)
    return outcomes


def drop(
    frame: pl.DataFrame,
    drops: pl.DataFrame,
    id_column: str,
    personal: PersonalConfig | None = None,
    by: str | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A bucket without the rows that `duplicates.resolve` or `semantic_duplicates` named, and their rejects.

    Args:
        by: the column that holds what `drops` calls a row, where that is not its id; it is no part of the rejects.
    """
    by = by or id_column
    going = frame.join(drops.select("id"), left_on=by, right_on="id", how="semi")
    named = {d["id"]: d for d in drops.to_dicts()}
    rejects = []
    for row in going.to_dicts():
        dropped = named[row[by]]
        shown = {name: value for name, value in row.items() if name == id_column or name != by}
        detail = duplicate_detail(dropped["kept_id"], dropped["similarity"])
        rejects.append(reject(dropped["reason"], detail, row[id_column], shown, personal))
    return frame.join(drops.select("id"), left_on=by, right_on="id", how="anti"), rows_frame(rejects, Rejects)


def duplicate_detail(kept_id: str, similarity: float) -> str:
    """What a duplicate's reject says."""
    return f"like {kept_id}, which stays (similarity {similarity:.2f})"


def reject(reason: str, detail: str, record_id: str, row: Row, personal: PersonalConfig | None = None) -> Row:
    """A `rejects` row of this stage; rejects are published too, so what `personal` masks or drops is masked."""
    shown = row if personal is None else concealed(row, personal)
    return reject_row(STAGE, reason, record_id, detail, canonical_json(shown).decode())


def pair_sanity(row: Row, config: SanityConfig) -> Fault | None:
    """What is wrong with a pair's responses: (reason, detail) of the first fault, or None."""
    prompt = text_of(row["prompt"])
    texts = {side: _answer(row[f"response_{side}"]) for side in ("a", "b")}
    for side, text in texts.items():
        # A trajectory may end in a tool call: its emptiness of words is no fault.
        if config.empty and sanity.is_empty(text) and not any(m.get("tool_calls") for m in row[f"response_{side}"]):
            return "empty_response", f"response {side} says nothing"
        if config.echo and sanity.echoes(prompt, text):
            return "echo", f"response {side} repeats the prompt"
        left = sanity.residue(text) if config.residue else None
        if left:
            return "template_residue", f"response {side} holds {left!r}"
        loop = sanity.degenerate(text, config.max_repetition) if config.degenerate else None
        if loop:
            return "degenerate", f"response {side}: {loop}"
    declined = [side for side, text in texts.items() if sanity.is_refusal(text)]
    if len(declined) == 2 and config.refusals != "keep":
        return "refusal", "both responses decline"
    if declined and config.refusals == "drop_any":
        return "refusal", f"response {declined[0]} declines"
    return None


def _answer(messages: Sequence[Message]) -> str:
    """What the assistant says, over all its turns."""
    return "\n\n".join(m["content"] for m in messages if m["role"] == "assistant")


def _contaminated(row: Row, config: HygieneConfig) -> Fault | None:
    assert config.decontamination is not None
    index = index_of(config.decontamination.benchmarks, config.decontamination.ngram)
    parts = ("prompt", "response_a", "response_b") if config.decontamination.responses else ("prompt",)
    for part in parts:
        overlap = index.find(text_of(row[part]))
        if overlap:
            return "contaminated", f"{part} shares {overlap[1]!r} with {overlap[0]}"
    return None


def _contaminated_by_meaning(frame: pl.DataFrame, config: HygieneConfig, embed: Embed | None) -> dict[str, Fault]:
    """Faults by id for prompts whose embedding is close to a benchmark prompt's."""
    settings = config.decontamination
    if settings is None or settings.cosine is None or not len(frame):
        return {}
    if embed is None:
        raise UsageError("hygiene.decontamination.cosine needs an embedding model; none is configured")
    benchmark, vectors = _benchmark_vectors(settings.benchmarks, embed)
    texts = [text_of(p) for p in frame["prompt"].to_list()]
    ids = frame["pair_id" if "pair_id" in frame.columns else "prompt_id"].to_list()
    hits = nearest(np.asarray(embed(texts), dtype=np.float32), vectors, settings.cosine)
    return {
        name: ("contaminated_in_meaning", f"the prompt has cosine {hit[1]:.3f} with {benchmark[hit[0]]!r}")
        for name, hit in zip(ids, hits, strict=True)
        if hit is not None
    }


@cache
def _benchmark_vectors(benchmarks: tuple[str, ...], embed: Embed) -> tuple[list[str], Vectors]:
    prompts = [prompt for path in benchmarks for prompt in read_prompts(path)]
    return prompts, np.asarray(embed(prompts), dtype=np.float32)


def _language(row: Row, config: LanguageConfig) -> tuple[Fault | None, Row]:
    texts = [text_of(row["prompt"]), _answer(row["response_a"]), _answer(row["response_b"])]
    prompt, a, b = (language_of(text, config.min_chars, config.min_confidence) for text in texts)
    if config.same and a and b and a != b:
        return ("mixed_languages", f"response a is in {a!r}, response b in {b!r}"), row
    language = row["language"] or (a if a == b else None) or prompt
    return _not_allowed(language, config), {**row, "language": language}


def _not_allowed(language: str | None, config: LanguageConfig) -> Fault | None:
    if config.allowed is not None and language is not None and language not in config.allowed:
        return "language_not_allowed", f"in {language!r}; allowed: {', '.join(config.allowed)}"
    return None
