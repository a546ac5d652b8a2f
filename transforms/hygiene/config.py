"""What to clean and how: the recipe's `hygiene` section."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator

from transforms.hygiene.personal import KINDS
from transforms.plugins.base import PluginConfig


class SanityConfig(PluginConfig):
    """Responses that are no responses.

    `refusals`: `drop_both` drops a pair only if both responses decline, since answer against refusal is a
    preference like any other; `drop_any` and `keep` do what they say.
    """

    empty: bool = True
    echo: bool = True
    residue: bool = True
    degenerate: bool = True
    refusals: Literal["keep", "drop_both", "drop_any"] = "drop_both"
    max_repetition: float = Field(default=0.6, gt=0.0, le=1.0)


class LanguageConfig(PluginConfig):
    """Language identification; null languages are filled if the text is long and clear enough.

    `allowed`: pairs identified as another language are dropped (null: none is). `same`: a pair is dropped
    if its responses are identified as two languages.
    """

    allowed: tuple[str, ...] | None = None
    same: bool = False
    min_chars: int = Field(default=40, ge=1)
    min_confidence: float = Field(default=0.5, gt=0.0, le=1.0)


class PersonalConfig(PluginConfig):
    """Personal data and secrets. `keep` tags the row `pii:<kind>`, `mask` replaces what is found, `drop` rejects."""

    policy: Literal["keep", "mask", "drop"] = "mask"
    secrets: Literal["keep", "mask", "drop"] = "drop"
    kinds: tuple[str, ...] = KINDS

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"kinds: {unknown[0]!r} is unknown; known: {', '.join(KINDS)}")
        return kinds


class DecontaminationConfig(PluginConfig):
    """Overlap with benchmark prompts (`benchmarks`: paths, or `datasets:ID[:SPLIT[:COLUMN]]`).

    A pair goes when its prompt, or with `responses` one of its responses, shares an `ngram`-word run with a
    benchmark prompt, or when its prompt's embedding has `cosine` or more with one (null: not compared).
    """

    path_fields: ClassVar[tuple[str, ...]] = ("benchmarks",)

    benchmarks: tuple[str, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=8)
    responses: bool = True
    cosine: float | None = Field(default=None, gt=0.0, le=1.0)


class DuplicatesConfig(PluginConfig):
    """Near-duplicates across the whole workspace, by estimated Jaccard similarity of word trigrams."""

    threshold: float = Field(default=0.8, gt=0.0, le=1.0)
    other_prompt: Literal["keep", "drop"] = "keep"
    cosine: float | None = Field(default=None, gt=0.0, le=1.0)


class HygieneConfig(PluginConfig):
    """Everything optional: an absent part is not done."""

    sanity: SanityConfig | None = None
    language: LanguageConfig | None = None
    personal: PersonalConfig | None = None
    decontamination: DecontaminationConfig | None = None
    duplicates: DuplicatesConfig | None = None

    def with_paths_from(self, folder: Path) -> Self:
        """The settings with relative paths starting from `folder`."""
        part = self.decontamination
        return self.model_copy(update={"decontamination": None if part is None else part.with_paths_from(folder)})
