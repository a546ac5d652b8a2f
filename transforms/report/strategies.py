"""What each strategy yields: the figures a user chooses a strategy by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from transforms.generators.preferences.views import population_spread
from transforms.text.similarity import words

COUNTS = ("asked", "answered", "parsed", "valid", "tokens_in", "tokens_out")
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct word n-grams over all word n-grams of the texts, in (0, 1] (Li et al. 2016); None without any."""
    grams = [tuple(tokens[i : i + n]) for tokens in map(words, texts) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def embedding_spread(vectors: npt.NDArray[np.floating]) -> float | None:
    """Mean cosine distance between two of the texts, in [0, 2]; None for fewer than two.

    Args:
        vectors: (n, d) embeddings of unit length; the sum over all pairs follows from that of all vectors.
    """
    n = len(vectors)
    if n < 2:
        return None
    total = np.asarray(vectors, dtype=np.float64).sum(axis=0)
    return float(1.0 - (total @ total - n) / (n * (n - 1)))


def yield_table(
    counts: Mapping[str, Mapping[str, int]],
    kept: pl.DataFrame,
    verdicts: pl.DataFrame | None = None,
    vectors: Mapping[str, npt.NDArray[np.floating]] | None = None,
    sample: int = 1000,
    prompts: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """One row a generator use, sorted by name.

    Args:
        counts: per generator use (its name is the pairs' `origin`) the sums of `Yield.counts`.
        kept: `pairs` rows that survived hygiene; pairs of other origins are left aside.
        verdicts: `verdicts` rows; gives quantiles of the judged |margin|.
        vectors: per generator use the embeddings of responses it made, rows of unit length.
        sample: pairs with the lowest ids that the distinct-n are computed on (ids are hashes, so this is a random
            sample): distinct-n falls as a text grows, so only equal numbers of responses can be compared.
        prompts: per generator use how many prompts of its making survived hygiene.

    Returns:
        generator; the sums of `COUNTS`; kept (pairs and prompts); kept_share (of valid) in [0, 1]; tokens_per_kept
        (prompt and reply tokens over what was kept); distinct_1, distinct_2 over the sampled responses; spread;
        judged (pairs with a verdict) and margin_p10 ... margin_p90 of |log-odds|; personas (different ones) and
        persona_spread, the mean share of attributes and views in which two of them differ. What cannot be computed
        is null.
    """
    rows = []
    for name in sorted(counts):
        own = kept.filter(pl.col("origin") == name)
        texts = sampled_texts(kept, name, sample)
        kept_rows = len(own) + (prompts or {}).get(name, 0)
        figures = {key: int(counts[name].get(key, 0)) for key in COUNTS}
        tokens = figures["tokens_in"] + figures["tokens_out"]
        row: dict[str, object] = {
            "generator": name,
            **figures,
            "kept": kept_rows,
            "kept_share": kept_rows / figures["valid"] if figures["valid"] else None,
            "tokens_per_kept": tokens / kept_rows if kept_rows else None,
            "distinct_1": distinct_n(texts, 1),
            "distinct_2": distinct_n(texts, 2),
            "spread": embedding_spread(vectors[name]) if vectors and name in vectors else None,
        }
        rows.append(row | _margins(own, verdicts) | _personas(own))
    schema = pl.Schema(
        {
            "generator": pl.String,
            **dict.fromkeys(COUNTS, pl.Int64),
            "kept": pl.Int64,
            **dict.fromkeys(("kept_share", "tokens_per_kept", "distinct_1", "distinct_2", "spread"), pl.Float64),
            "judged": pl.Int64,
            **{f"margin_p{round(100 * q)}": pl.Float64 for q in QUANTILES},
            "personas": pl.Int64,
            "persona_spread": pl.Float64,
        }
    )
    return pl.DataFrame(rows, schema=schema)


def sampled_texts(kept: pl.DataFrame, generator: str, sample: int) -> list[str]:
    """Both responses of the generator's pairs with the lowest ids, `sample` pairs at most."""
    shown = kept.filter(pl.col("origin") == generator).sort("pair_id").head(sample)
    return [text for side in ("response_a", "response_b") for text in _texts(shown[side])]


def _margins(own: pl.DataFrame, verdicts: pl.DataFrame | None) -> dict[str, object]:
    names = [f"margin_p{round(100 * q)}" for q in QUANTILES]
    if verdicts is None:
        return {"judged": None, **dict.fromkeys(names)}
    margins = own.select("pair_id").join(verdicts.select("pair_id", "margin"), on="pair_id")["margin"].abs()
    values = [margins.quantile(q, "linear") if len(margins) else None for q in QUANTILES]
    return {"judged": len(margins), **dict(zip(names, values, strict=True))}


def _personas(own: pl.DataFrame) -> dict[str, object]:
    """How many personas the pairs have, and how much these differ, from what generator `persona` wrote in meta."""
    people = own.filter(pl.col("context_kind") == "persona", pl.col("user_id").is_not_null()).unique("user_id")
    metas = [orjson.loads(meta) for meta in people["meta"].drop_nulls()]
    facts = [[*m["attributes"].items(), *map(tuple, m["views"])] for m in metas if "attributes" in m and "views" in m]
    return {"personas": len(people) or None, "persona_spread": population_spread(facts)}


def _texts(messages: pl.Series) -> list[str]:
    return ["\n\n".join(m["content"] for m in row) for row in messages.to_list()]
