"""Translated twins of existing pairs, in a language that is recorded and checked.

M-RewardBench (Gureja et al. 2024) translates preference data by machine and filters by hand; here the
filter is language identification and sanity, and humans see what the router sends them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import ClassVar

import yaml
from pydantic import Field

from schemas.ids import hash_fields
from schemas.messages import Message, message, text_of
from schemas.tables import Row
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Response, Tally, Yield
from transforms.hygiene.sanity import degenerate, is_refusal
from transforms.plugins.registry import register
from transforms.text.language import MIN_CHARS, language_of
from transforms.text.similarity import normalised, words

_TRANSLATE = "translate.v1"
_NO_NAME = 3  # words from which a text that stays the same is no name
_CODE = re.compile(r"(```.*?```)", re.DOTALL)
LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "tr": "Turkish",
    "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@register("translate")
class Translate(Generator):
    """A pair to the same pair in each of `languages`; label, context and split go along.

    Prose is translated piece by piece; fenced code blocks, tool calls and media stay byte for byte. A piece that is
    a refusal, a loop, a copy, or of `MIN_CHARS` characters or more and not identified as the target language makes
    the pair a reject, and so do a prompt or response that is left as it was and a pair that is in another language
    as a whole: short pieces prove nothing one by one. `group_id` is the original's, so both stay in one split.
    """

    consumes = "pairs"
    version: ClassVar[int] = 3
    templates = (_TRANSLATE,)

    class Config(OneEngine):
        """Settings of `translate`; `check_language: false` trusts the engine."""

        languages: tuple[str, ...] = Field(min_length=1)
        check_language: bool = True

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        for language in self.config.languages:
            if language == row.get("language"):
                detail = f"the pair is in {language!r} already"
                self.reject(out, "same_language", row["pair_id"], detail, {"pair_id": row["pair_id"]})
                continue
            parts = [row["prompt"], row["response_a"], row["response_b"]]
            translated = await asyncio.gather(*(self._messages(row, part, language, ask, out) for part in parts))
            context = row.get("context")
            if context:
                context = await self._text(row, context, language, ask, out)
            if any(part is None for part in translated) or (row.get("context") and context is None):
                continue
            prompt, a, b = (tuple(part or ()) for part in translated)
            texts = list(zip(map(text_of, parts), map(text_of, (prompt, a, b)), strict=True))
            fault = pair_fault(texts, language, row.get("language"), self.config.check_language)
            if fault is not None:
                payload = {"pair_id": row["pair_id"], "language": language, "texts": [text for _, text in texts]}
                self.reject(out, fault[0], row["pair_id"], fault[1], payload)
                continue
            model = self.models[self.config.engine]
            self.pair(
                row,
                out,
                Response(a, row.get("model_a"), {"translated": "a", "by": model}),
                Response(b, row.get("model_b"), {"translated": "b", "by": model}),
                prompt=prompt,
                first_label=row.get("source_label"),
                source_strength=row.get("source_strength"),
                context=context,
                language=language,
                tags=["translated"],
                ref={"pair_id": row["pair_id"], "model": [model]},
                meta={"translated_from": row["pair_id"], "source_language": row.get("language")},
            )

    async def _messages(
        self, row: Row, messages: Sequence[Message], language: str, ask: Tally, out: Yield
    ) -> list[Message] | None:
        texts = await asyncio.gather(*(self._text(row, m["content"], language, ask, out) for m in messages))
        if any(text is None for text in texts):
            return None
        return [{**m, "content": str(text)} for m, text in zip(messages, texts, strict=True)]

    async def _text(self, row: Row, text: str, language: str, ask: Tally, out: Yield) -> str | None:
        """The text with its prose translated and its code blocks as they were; None after a reject."""
        pieces = await asyncio.gather(
            *(self._piece(row, piece, language, ask, out) for piece in _CODE.split(text) if piece)
        )
        return None if any(piece is None for piece in pieces) else "".join(map(str, pieces))

    async def _piece(self, row: Row, piece: str, language: str, ask: Tally, out: Yield) -> str | None:
        core = piece.strip()
        if _CODE.fullmatch(piece) or not any(c.isalpha() for c in core):
            return piece
        name = LANGUAGES.get(language, language)
        content = render(_TRANSLATE, text=core, language=name)
        draw = (row["pair_id"], "translate", language)
        about = {"language": language, "pair_id": row["pair_id"]}
        made = await self.answer(
            self.config.engine,
            [message("user", content)],
            draw,
            self.config,
            row,
            ask,
            out,
            assumed=sample_text(language, core),
            **about,
        )
        if made is None:
            return None
        text = made.text.strip()
        fault = translation_fault(core, text, language, self.config.check_language)
        if fault is not None:
            payload = {**about, "source": core, "text": text}
            self.reject(out, fault[0], made.details["request_id"], fault[1], payload)
            return None
        start = piece.index(core)
        return piece[:start] + text + piece[start + len(core) :]


def pair_fault(
    texts: Sequence[tuple[str, str]], language: str, source_language: str | None, check_language: bool
) -> tuple[str, str] | None:
    """Why prompt and responses together are no translation: (reason, detail); None if nothing speaks against it.

    Args:
        texts: (source, translation) of the prompt and of both responses.
        source_language: the original's, if it is known.
    """
    for source, text in texts:
        if len(words(_CODE.sub(" ", source))) >= _NO_NAME and normalised(source) == normalised(text):
            return "not_translated", "the prompt or a response is the source text"
    if all(normalised(source) == normalised(text) for source, text in texts):
        return "not_translated", "the pair is the source text"
    joined = "\n".join(text for _, text in texts)
    identified = language_of(joined, 1) if check_language else None
    # Too little text to tell its language can still tell that it is the original's.
    is_short = len(joined) < MIN_CHARS
    if check_language and (identified == (source_language or "en") != language if is_short else identified != language):
        return "wrong_language", f"asked for {language!r}, identified as {identified!r} as a whole"
    return None


@cache
def _samples() -> dict[str, str]:
    text = (files("transforms.generators") / "samples.v1.yaml").read_text(encoding="utf-8")
    samples: dict[str, str] = yaml.safe_load(text)
    return samples


def sample_text(language: str, source: str) -> str:
    """Words of the language in an order that `source` decides: what a plan takes for a translation; "" if unknown."""
    text = _samples().get(language, "")
    glue = " " if " " in text else ""
    tokens = text.split() if glue else list(text)
    return glue.join(sorted(tokens, key=lambda token: hash_fields(token, source)))


def translation_fault(source: str, text: str, language: str, check_language: bool) -> tuple[str, str] | None:
    """Why a text is no translation of `source` into `language`: (reason, detail); None if nothing speaks against it."""
    if len(source) >= MIN_CHARS and normalised(source) == normalised(text):
        return "not_translated", "the reply is the source text"
    if is_refusal(text) and not is_refusal(source):
        return "refusal", "the reply declines"
    loop = degenerate(text)
    if loop and not degenerate(source):
        return "degenerate", loop
    identified = language_of(text) if check_language else None
    if check_language and identified != language and len(text) >= MIN_CHARS:
        return "wrong_language", f"asked for {language!r}, identified as {identified!r}"
    return None
