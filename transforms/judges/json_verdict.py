"""Verdict by JSON schema with reasoning: the model argues first, then names the winner.

The schema is sent as `response_format` (structured output), so a server that supports it cannot answer anything
else; the field order makes the reasoning come before the verdict it is to support.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.tables import Row
from transforms.judges._parsing import LABELS, Letter, openai_schema
from transforms.judges._verdicts import json_verdict
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, invalid
from transforms.llm.request import Reply
from transforms.plugins.registry import register


class Verdict(BaseModel):
    """The reply's schema."""

    model_config = ConfigDict(extra="forbid")

    reasoning: str
    verdict: Letter


@register("json_verdict")
class JsonVerdictJudge(TemplateJudge):
    """A reasoned verdict as a JSON object."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "json_verdict.v1"
        response_format: Literal["json_schema", "json_object", "none"] = Field(
            "json_schema", description="how the form is enforced; weaker forms for servers without json_schema"
        )

    config: Config

    def body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        """Adds the form the reply must have."""
        body = super().body(messages, sample)
        if self.config.response_format == "json_schema":
            return {**body, "response_format": openai_schema("verdict", Verdict)}
        if self.config.response_format == "json_object":
            return {**body, "response_format": {"type": "json_object"}}
        return body

    def read(self, reply: Reply, pair: Row, order: str) -> Opinion:
        """The verdict and its reasoning."""
        read = json_verdict(reply)
        if isinstance(read, str):
            return invalid(read)
        verdict, reasoning = read
        return Opinion(LABELS[verdict], rationale=reasoning)
