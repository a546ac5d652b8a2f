"""Overlap with benchmark prompts, by word n-grams and by embeddings.

The n-gram rule is the usual one (13 words; Brown et al. 2020, appendix C; used for preference data by
Skywork-Reward-V2): a text that shares one n-gram with a benchmark prompt is contaminated. Benchmark prompts
shorter than n words are matched whole, as a run of words, when they have `MIN_WORDS` words or more, and as
the entire text below that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from schemas.errors import DataError
from schemas.messages import MessageError, text_of, to_messages
from transforms.text.similarity import words

MIN_WORDS = 8
_COLUMNS = ("prompt", "question", "instruction", "query", "text", "input", "problem", "messages")
Vectors = npt.NDArray[np.float32]


class NgramIndex:
    """Which word n-grams of benchmark prompts a text holds."""

    def __init__(self, benchmarks: Mapping[str, Iterable[str]], n: int = 13) -> None:
        """Index prompts.

        Args:
            benchmarks: prompts by benchmark name.
            n: words in an n-gram, at least `MIN_WORDS`.
        """
        self.n = max(n, MIN_WORDS)
        self._whole: dict[tuple[str, ...], str] = {}
        self._grams: dict[int, dict[tuple[str, ...], str]] = {}
        for name in sorted(benchmarks):
            for prompt in benchmarks[name]:
                tokens = tuple(words(prompt))
                if len(tokens) < MIN_WORDS:
                    if tokens:
                        self._whole.setdefault(tokens, name)
                    continue
                size = min(self.n, len(tokens))
                grams = self._grams.setdefault(size, {})
                for i in range(len(tokens) - size + 1):
                    grams.setdefault(tokens[i : i + size], name)
        # Most texts share no run of words with any benchmark: the set of first words rules out nearly all places.
        self._starts = {size: {gram[0] for gram in grams} for size, grams in self._grams.items()}
        self._known = {word for grams in self._grams.values() for gram in grams for word in gram}

    def find(self, text: str) -> tuple[str, str] | None:
        """(benchmark, the shared words) of the first overlap, or None."""
        tokens = words(text)
        whole = self._whole.get(tuple(tokens))
        if whole is not None:
            return whole, " ".join(tokens)
        if not self._grams:
            return None
        run = 0  # how many known words end here
        for end, token in enumerate(tokens, start=1):
            run = run + 1 if token in self._known else 0
            for size, grams in self._grams.items():
                if run >= size and tokens[end - size] in self._starts[size]:
                    gram = tuple(tokens[end - size : end])
                    if gram in grams:
                        return grams[gram], " ".join(gram)
        return None


def nearest(texts: Vectors, benchmarks: Vectors, threshold: float, block: int = 4096) -> list[tuple[int, float] | None]:
    """For each text the index and cosine of the closest benchmark prompt, None below `threshold`.

    Args:
        texts: (n, d) embeddings, rows of unit length.
        benchmarks: (m, d) embeddings of the benchmark prompts, rows of unit length.
        threshold: cosine in [-1, 1].
        block: texts compared at a time; memory is `block` x m floats.
    """
    if not len(benchmarks):
        return [None] * len(texts)
    neighbours: list[tuple[int, float] | None] = []
    for start in range(0, len(texts), block):
        cosines = texts[start : start + block] @ benchmarks.T
        best = cosines.argmax(axis=1)
        top = cosines[np.arange(len(best)), best]
        neighbours += [(int(i), float(c)) if c >= threshold else None for i, c in zip(best, top, strict=True)]
    return neighbours


def read_prompts(where: str) -> list[str]:
    """Prompts of a benchmark.

    Args:
        where: a path to .txt (a prompt a line), .jsonl, .json (a list), .csv or .parquet with a column named
            prompt, question, instruction, query, text, input, problem or messages; or
            `datasets:ID[:SPLIT[:COLUMN]]` for a data set of the `datasets` library.

    Raises:
        DataError: nothing can be read there; the text says what is missing.
    """
    if where.startswith("datasets:"):
        return _read_datasets(where)
    path = Path(where)
    if not path.is_file():
        raise DataError(f"benchmark {where}: no such file")
    try:
        if path.suffix == ".txt":
            return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            rows: list[Any] = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
        elif path.suffix == ".json":
            rows = orjson.loads(path.read_bytes())
        elif path.suffix in (".csv", ".parquet"):
            rows = (pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)).to_dicts()
        else:
            raise DataError(f"benchmark {where}: unknown kind of file; known: .txt .jsonl .json .csv .parquet")
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"benchmark {where}: cannot be read: {error}") from error
    return [_prompt_of(row, f"benchmark {where}, row {i}") for i, row in enumerate(rows, start=1)]


@cache
def index_of(paths: tuple[str, ...], n: int) -> NgramIndex:
    """The index of benchmark files, built once a process; a benchmark is called by its file's name alone."""
    prompts: dict[str, list[str]] = {}
    for path in paths:
        prompts.setdefault(path if path.startswith("datasets:") else Path(path).name, []).extend(read_prompts(path))
    return NgramIndex(prompts, n)


def _read_datasets(where: str) -> list[str]:
    name, split, column = ([*where.removeprefix("datasets:").split(":"), "", ""])[:3]
    import datasets

    try:
        table = datasets.load_dataset(name, split=split or "test")
    except Exception as error:  # the library raises many kinds, none of them documented
        raise DataError(f"benchmark {where}: cannot be loaded: {error}") from error
    return [_prompt_of({column: row[column]} if column else row, f"{where}, row {i}") for i, row in enumerate(table)]


def _prompt_of(row: Any, place: str) -> str:
    if isinstance(row, Mapping):
        present: Sequence[str] = [c for c in _COLUMNS if row.get(c)] or (list(row) if len(row) == 1 else [])
        if not present:
            raise DataError(f"{place}: no prompt; expected a column named {', '.join(_COLUMNS)}")
        row = row[present[0]]
    try:
        return text_of([m for m in to_messages(row, "user") if m["role"] == "user"]) or text_of(
            to_messages(row, "user")
        )
    except MessageError as error:
        raise DataError(f"{place}: the prompt {error}") from error
