"""Small `pairs` frames for scorer tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.ids import hash_fields
from schemas.messages import message
from schemas.pairs import mirrored
from schemas.tables import Pairs, Votes, rows_frame
from transforms.text.embedding import Embedder


def pair_row(prompt: str, a: str, b: str, label: str | None = None, **fields: Any) -> dict[str, Any]:
    """A row of `pairs` that keeps the given order of the responses."""
    return {
        "pair_id": hash_fields(prompt, str(fields.get("context")), *sorted((a, b))),
        "prompt_id": hash_fields(prompt),
        "prompt": [message("user", prompt)],
        "response_a": [message("assistant", a)],
        "response_b": [message("assistant", b)],
        "origin": "test",
        "source_label": label,
        **fields,
    }


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a `pairs` frame."""
    return rows_frame(list(rows), Pairs)


def swapped(pairs: pl.DataFrame) -> pl.DataFrame:
    """The same pairs with a and b exchanged."""
    rows = [
        row
        | {
            "response_a": row["response_b"],
            "response_b": row["response_a"],
            "source_label": row["source_label"] and mirrored(row["source_label"]),
        }
        for row in pairs.iter_rows(named=True)
    ]
    return frame(rows)


def no_votes() -> pl.DataFrame:
    """An empty `votes` frame."""
    return rows_frame([], Votes)


class LetterEmbedder(Embedder):
    """Counts letters: an embedding whose meaning a test can plan. `bought` lists the texts it was asked for."""

    def __init__(self) -> None:
        super().__init__("letters")
        self.bought: list[str] = []

    @property
    def identity(self) -> dict[str, str]:  # type: ignore[override]
        return {"test": "letters"}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.bought.extend(texts)
        counts = np.array([[t.lower().count(c) for c in "abcdefghij"] for t in texts], dtype=np.float32)
        return np.asarray(counts / np.maximum(1.0, np.linalg.norm(counts, axis=1, keepdims=True)), dtype=np.float32)


def planted(n_prompts: int, per_prompt: int = 1, flip: float = 0.0, seed: int = 0) -> tuple[pl.DataFrame, list[str]]:
    """Pairs where the response with more words "good" is better, and the true labels in the same order."""
    rng = np.random.default_rng(seed)
    rows, truth = [], []
    for p in range(n_prompts):
        merits = rng.choice(12, size=per_prompt + 1, replace=False)
        texts = [_text(int(m), rng) for m in merits]
        for i in range(per_prompt):
            label = "a" if merits[i] > merits[i + 1] else "b"
            truth.append(label)
            given = mirrored(label) if rng.random() < flip else label
            rows.append(pair_row(f"prompt {p}", texts[i], texts[i + 1], given))
    return frame(rows), truth


def _text(merit: int, rng: np.random.Generator) -> str:
    words = ["bad"] * (12 - merit) + ["good"] * merit + list(rng.choice(["hi", "cafe", "edge", "jig"], size=4))
    return " ".join(rng.permutation(words))
