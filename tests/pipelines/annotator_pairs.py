"""The shared real data as one large dataset: one preference per person and pair, in that person's context.

Every row is one human judgement that somebody really made; nothing is repeated or invented. What a person prefers is
conditional on the person, so the same two responses judged by three people are three preferences, told apart by
`context` and `user_id`, and the judgements of everybody on the two responses are the votes.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl


def annotator_pairs(folder: Path) -> pl.DataFrame:
    """One row per human judgement in the files of `folder`; about 107,000.

    Columns: prompt (text, or messages as JSON), response_a, response_b, label (a, b or tie: what the person said),
    context, user_id, human_labels, human_annotators, kind (the file).
    """
    frames = []
    for file in sorted(folder.glob("*.parquet")):
        person = pl.format("{}/{}", pl.lit(file.stem), pl.col("user_id"))
        documents = pl.when(pl.col("context").is_null()).then(pl.lit("")).otherwise(pl.format("{}\n\n", "context"))
        frames.append(
            pl.read_parquet(file)
            .with_columns(label="human_labels", user_id="human_annotators")
            .explode("label", "user_id")
            .select(
                *("prompt", "response_a", "response_b", "label", "human_labels", "human_annotators"),
                context=pl.format("{}As {} sees it.", documents, person),
                user_id=person,
                kind=pl.lit(file.stem),
            )
        )
    return pl.concat(frames)
