"""New prompts from seeds: deeper ones and different ones.

Operators after Evol-Instruct (Xu et al. 2023): depth makes the seed harder, breadth writes another prompt of
the same field. A new prompt must be new: not an echo of the seed or of a sibling, not a leak of the
instructions, not in a benchmark.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar

from pydantic import Field, field_validator

from schemas.ids import hash_json
from schemas.messages import message, messages_id, text_of
from schemas.tables import Row
from transforms.generators._sampling import drawer
from transforms.generators._structured import ask_object, object_schema
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Tally, Yield, group_of, json_text, read_meta
from transforms.hygiene.decontamination import index_of, read_prompts
from transforms.hygiene.sanity import is_refusal, residue
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical, words

_EVOLVE = "evolve.v1"
_REPLY = object_schema(prompt=2000)
OPERATORS = {
    "constraint": ("depth", "Add one constraint or requirement that makes it harder."),
    "deepen": ("depth", "Ask for more depth: for reasons, for consequences or for a special case."),
    "concrete": ("depth", "Replace general notions by concrete ones: names, numbers, a situation."),
    "reasoning": ("depth", "Change it so that it needs several steps of reasoning."),
    "breadth": (
        "breadth",
        "Write a different prompt of the same field and about the same difficulty, on a rarer matter.",
    ),
    "audience": (
        "breadth",
        "Write a different prompt of the same field that a quite different kind of person would ask.",
    ),
}
_LEAK = re.compile(r"\b(?:the )?(?:given|rewritten|new|evolved|original) prompt\b", re.IGNORECASE)


@register("prompt_evolve")
class PromptEvolve(Generator):
    """Prompts to further prompts (no pairs), `k` operators each; they keep the seed's group, so its split."""

    makes: ClassVar[str] = "prompts"
    version: ClassVar[int] = 4
    templates = (_EVOLVE,)

    class Config(OneEngine):
        """Settings of `prompt_evolve`; `benchmarks` are prompt sets to stay clear of (path or `datasets:ID`)."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine",)
        path_fields: ClassVar[tuple[str, ...]] = ("benchmarks",)
        operators: tuple[str, ...] = tuple(OPERATORS)
        k: int = Field(default=2, ge=1)
        min_words: int = Field(default=4, ge=1)
        near_identical: float = Field(default=0.7, gt=0.0, le=1.0)
        benchmarks: tuple[str, ...] = ()
        ngram: int = Field(default=13, ge=8)

        @field_validator("operators")
        @classmethod
        def _known(cls, operators: tuple[str, ...]) -> tuple[str, ...]:
            unknown = sorted(set(operators) - set(OPERATORS))
            if unknown or not operators:
                raise ValueError(f"operators: {unknown or 'none given'}; known: {', '.join(OPERATORS)}")
            return operators

    config: Config

    @property
    def identity(self) -> dict[str, Any]:
        """As every generator's, with the benchmarks' prompts in place of their files."""
        return {**super().identity, "files": [hash_json(read_prompts(b)) for b in self.config.benchmarks]}

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        draw = drawer(self, row)
        chosen = sorted(self.config.operators, key=draw)[: self.config.k]
        written = await asyncio.gather(*(self._evolve(row, operator, ask, out) for operator in chosen))
        seen = [text_of(row["prompt"])]
        for operator, text in zip(chosen, written, strict=True):
            if text is None:
                continue
            fault = self._fault(text, seen)
            if fault is not None:
                payload = {"prompt_id": row["prompt_id"], "operator": operator, "text": text}
                self.reject(out, fault[0], row["prompt_id"], fault[1], payload)
                continue
            seen.append(text)
            out.prompts.append(self._row(row, operator, text))

    async def _evolve(self, row: Row, operator: str, ask: Tally, out: Yield) -> str | None:
        kind, instruction = OPERATORS[operator]
        content = render(_EVOLVE, prompt=text_of(row["prompt"]), kind=kind, instruction=instruction)
        request = self.request(
            self.config.engine,
            [message("user", content)],
            (row["prompt_id"], "evolve", operator),
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            top_p=self.config.top_p,
            response_format=_REPLY,
        )
        item = await ask_object(self, request, _REPLY, row, ask, out)
        return None if item is None else item["prompt"]

    def _fault(self, text: str, seen: list[str]) -> tuple[str, str] | None:
        """Why a text is no new prompt: (reason, detail); None if it is one."""
        if len(words(text)) < self.config.min_words:
            return "too_short", f"fewer than {self.config.min_words} words"
        if is_refusal(text):
            return "refusal", "the reply declines"
        leak = _LEAK.search(text)
        left = leak.group(0) if leak else residue(text)
        if left:
            return "template_residue", f"holds {left!r}"
        if any(near_identical(text, other, self.config.near_identical) for other in seen):
            return "near_identical_prompt", "says what the seed or a sibling says"
        if self.config.benchmarks:
            overlap = index_of(self.config.benchmarks, self.config.ngram).find(text)
            if overlap:
                return "contaminated", f"shares {overlap[1]!r} with {overlap[0]}"
        return None

    def _row(self, row: Row, operator: str, text: str) -> Row:
        prompt = [message("user", text)]
        # Transcripts are answers to the seed.
        inherited = {key: value for key, value in read_meta(row).items() if key != "trajectories"}
        made = {
            "generator": self.plugin_name,
            "name": self.name,
            "prompt_version": self.prompt_version,
            "model": [self.models[self.config.engine]],
            "seed": self.seed,
            "operator": operator,
            "evolved_from": row["prompt_id"],
        }
        return {
            "prompt_id": messages_id(prompt),
            "prompt": prompt,
            "kind": row.get("kind"),
            "checks": None,
            "reference": None,
            "documents": row.get("documents"),
            "language": row.get("language"),
            "group_id": group_of(row),
            "user_id": row.get("user_id"),
            "tags": [*(row.get("tags") or []), "evolved"],
            "meta": json_text({**inherited, "evolution": made}),
        }
