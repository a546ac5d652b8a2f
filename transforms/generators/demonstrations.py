"""Reference answers against the policy's own samples."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from schemas.tables import Row
from transforms.generators._rating import COMPARE, RatingConfig, prefer_each
from transforms.generators._sampling import SamplingConfig, sample
from transforms.generators.base import Generator, Tally, Yield, written
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical


@register("demonstrations")
class Demonstrations(Generator):
    """Each sample against the prompt's reference, which is labelled the better one (SPIN, Chen et al. 2024).

    Samples nearly identical to the reference say nothing and are rejects. With `verifier`, a pair whose
    sample is judged at least as good as the reference is a reject (`reference_not_better`).
    """

    templates = (COMPARE,)

    class Config(RatingConfig, SamplingConfig):
        """Settings of `demonstrations`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engines", "verifier")
        n: int = Field(default=2, ge=1, le=256)
        verifier: str | None = None

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        if not (row.get("reference") or "").strip():
            detail = "the prompt has no reference answer"
            self.reject(out, "no_reference", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
            return
        reference = written(str(row["reference"]), "reference", source="reference")
        rivals = []
        for candidate in await sample(self, self.config, row, ask, out):
            if near_identical(reference.text, candidate.text, self.config.near_identical):
                payload = {"prompt_id": row["prompt_id"], "text": candidate.text, **candidate.details}
                record = str(candidate.details["request_id"])
                self.reject(out, "sample_is_reference", record, "the sample says what the reference says", payload)
            else:
                rivals.append(candidate)
        judged: list[float | None] = [None] * len(rivals)
        if self.config.verifier is not None:
            judged = await prefer_each(self, self.config.verifier, row, [(reference, r) for r in rivals], ask)
        for rival, p_reference in zip(rivals, judged, strict=True):
            if self.config.verifier is not None and (p_reference is None or p_reference <= 0.5):
                payload = {"prompt_id": row["prompt_id"], "text": rival.text, "p_reference": p_reference}
                detail = ask.why(p_reference, "the reference wins with probability {p}")
                self.reject(out, "reference_not_better", str(rival.details["request_id"]), detail, payload)
                continue
            meta = {"p_reference": p_reference} if p_reference is not None else None
            self.pair(row, out, reference, rival, first_label="a", tags=["demonstration"], meta=meta)
