"""One source of a recipe: where the rows are and which column means what.

`SourceConfig` is the union a recipe's `sources` are validated with. A field is looked for under its own
name unless `columns` says another; a field that `constants` gives is the same for every row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from schemas.names import did_you_mean
from schemas.tables import CONTEXT_KINDS

_WHOLE = re.compile(r"^([-+]?\d+)\.0+$")
Format = Literal["chosen_rejected", "labelled", "rated", "conversations"]
Preference = Literal["a", "b", "tie"]

COMMON_FIELDS = ("prompt", "kind", "checks", "reference", "language", "user_id", "group_id", "tags", "id")
PROMPT_FIELDS = (*COMMON_FIELDS, "documents")
PAIR_FIELDS = (
    *COMMON_FIELDS,
    *("chosen", "rejected", "model_chosen", "model_rejected"),
    *("response_a", "response_b", "model_a", "model_b", "label"),
    *("responses", "scores", "models"),
    *("strength", "context", "context_kind"),
)
CONSTANT_FIELDS = ("kind", "language", "user_id", "group_id", "context", "context_kind", "tags")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HumanVotes(_Strict):
    """People's labels in a list column, with their names in another (or numbered if there is none)."""

    kind: Literal["human"]
    labels: str
    voters: str | None = None
    prefix: str | None = None  # put before each name; default "<source name>/": "h0" of two sources are two people


class JudgeVotes(_Strict):
    """Earlier verdicts of LLM judges: a column holding a list of {voter, label} structs.

    With `order_suffix`, a name ending in "|ab" or "|ba" says which response the judge saw first; the label
    must already be in terms of the row's own a and b. `probability` names a number from 0 to 1 in the same
    structs, P(the row's first response is the better) whatever the label and the order shown, which becomes
    the vote's `p_a`; a verdict with a probability and no label votes for the more probable side. `rationale`
    names a text that is kept with the vote.
    """

    kind: Literal["judge"]
    column: str
    voter: str = "judge"
    label: str = "label"
    probability: str | None = None
    rationale: str | None = None
    order_suffix: bool = False
    group_separator: str | None = None  # voters that agree up to this text share a group ("gpt-4/cot", "gpt-4/plain")
    prefix: str = ""


VoteColumns = Annotated[HumanVotes | JudgeVotes, Field(discriminator="kind")]


class _Source(_Strict):
    name: str = Field(min_length=1)
    path: str | None = None  # a file, a glob, or a folder of .parquet, .jsonl, .json, .csv files
    dataset: str | None = None  # an id of the `datasets` library, or a local folder it can load
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    columns: dict[str, str | None] = {}  # our field -> the source's column; null: this source has no such field
    constants: dict[str, str | list[str]] = {}  # our field -> its value in every row
    limit: int | None = Field(default=None, ge=1)  # read at most this many rows
    max_reject_share: float = Field(default=0.05, ge=0.0, le=1.0)
    max_chars: int = Field(default=1_000_000, ge=1)  # longest text accepted in one prompt or response

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields a source of this kind may have."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that can change what a row becomes and are not at their default (not where the rows are)."""
        elsewhere = {"path", "dataset", "split", "config", "revision", "limit", "max_reject_share"}
        return self.model_dump(mode="json", exclude=elsewhere, exclude_defaults=True)

    @model_validator(mode="after")
    def _one_place_and_known_fields(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"source {self.name!r} needs exactly one of `path` and `dataset`")
        for option, given, known in (
            ("columns", self.columns, self.fields),
            ("constants", self.constants, [f for f in CONSTANT_FIELDS if f in self.fields]),
        ):
            for field in given:
                if field not in known:
                    hint = did_you_mean(field, known)
                    raise ValueError(
                        f"source {self.name!r}: {option} has the unknown field {field!r}{hint} "
                        f"Known: {', '.join(known)}. (`{option}` maps our fields to the source's columns or values)"
                    )
        both = sorted(set(self.columns) & set(self.constants))
        if both:
            raise ValueError(f"source {self.name!r}: {', '.join(both)} is in both `columns` and `constants`")
        if self.constants.get("context_kind", CONTEXT_KINDS[0]) not in CONTEXT_KINDS:
            raise ValueError(f"source {self.name!r}: context_kind must be one of {', '.join(CONTEXT_KINDS)}")
        for field, value in self.constants.items():
            if (field == "tags") != isinstance(value, list):
                raise ValueError(
                    f"source {self.name!r}: constant {field} must be {'a list' if field == 'tags' else 'a text'}"
                )
        return self


class PromptsSource(_Source):
    """Prompts to generate from: a string or messages each, with optional checks, reference and documents."""

    kind: Literal["prompts"]

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of the `prompts` table that a source can fill."""
        return PROMPT_FIELDS


class PairsSource(_Source):
    """Pairs of responses with, usually, a label.

    Formats (found from the columns, or said by `format`):
      chosen_rejected: prompt, chosen, rejected;
      labelled: prompt, response_a, response_b, label;
      rated: prompt, responses (list), scores (list): pairs of responses labelled by their scores;
      conversations: chosen, rejected as full conversations; the prompt is their longest common beginning.
    In votes "a" is the first response of the row: `response_a`, or `chosen`.
    """

    kind: Literal["pairs"]
    format: Format | None = None
    votes: list[VoteColumns] = []
    labels: dict[str, Preference | None] = {}  # what the label column's values mean; null: no label
    pairing: Literal["all", "best_worst"] = "all"  # of rated responses
    strip_prompt: Literal["auto", "always", "never"] = "auto"  # plain-text responses that repeat the prompt

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of the `pairs` table that a source can fill, and the formats' own."""
        return PAIR_FIELDS

    @field_validator("labels", mode="before")
    @classmethod
    def _label_keys(cls, value: Any) -> Any:
        return {label_key(k): v for k, v in value.items()} if isinstance(value, Mapping) else value


SourceConfig = Annotated[PromptsSource | PairsSource, Field(discriminator="kind")]
SOURCE_ADAPTER: TypeAdapter[PromptsSource | PairsSource] = TypeAdapter(SourceConfig)


def label_key(value: Any) -> str:
    """The text under which a label value is looked up: 1, 1.0, "1" and "1.0" are one value, so are true and "True"."""
    text = str(value).strip()
    return text.lower() if text.lower() in ("true", "false") else _WHOLE.sub(r"\1", text)
