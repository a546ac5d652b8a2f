"""What a source's label values mean.

Only the words a, b and tie (any case) are understood without being told. Numbers are refused: 1 is the
first response if labels are 1/2 and the second if they are 0/1, and a silent guess would flip
a whole dataset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from schemas.errors import DataError
from transforms.sources.config import label_key

_WORDS = {"a": "a", "b": "b", "tie": "tie"}


class UnknownLabel(ValueError):
    """A label value that neither the recipe nor the default words explain."""


def read_label(value: Any, labels: Mapping[str, str | None], where: str) -> str | None:
    """The label a, b or tie; None if the row has none (null, empty text, NaN, or mapped to null).

    Raises:
        UnknownLabel: the value means nothing known.
        DataError: the value is a number or truth value and `labels` is empty, so every row is a guess.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (str, int, float)):
        key = label_key(value)
        if key in labels:
            return labels[key]
        word = _WORDS.get(key.lower())
        if word:
            return word
        if not labels and _is_number(key):
            raise DataError(
                f"{where}: the label is {value!r}, which may mean either response. "
                "Say what the values mean, e.g. `labels: {1: a, 2: b, 0: tie}`."
            )
    known = ", ".join([*labels, *(w for w in _WORDS if w not in labels)])
    raise UnknownLabel(f"is {value!r:.80}; known labels: {known}. Add it to `labels` or correct the row.")


def _is_number(key: str) -> bool:
    if key in ("true", "false"):
        return True
    try:
        float(key)
    except ValueError:
        return False
    return True
