"""A plan counts at least what a run then asks, for every strategy, and its made-up replies have the asked form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import dry_run as planning
from pipelines.runtime.dry_run import Plan, plan
from pipelines.runtime.dry_run_replies import fitting, invented_reply
from schemas.recipe_file import parse_recipe
from tests.transforms.generators.harness import babble, first_token, from_schema
from tests.transforms.generators.test_every_strategy import CONFIGS, DOCUMENTS, TRAJECTORIES
from transforms.generators.translate import LANGUAGES, sample_text
from transforms.llm.request import Reply, Request
from transforms.plugins.registry import find, names
from transforms.text.language import language_of

pydantic_schema = {
    "$defs": {"Side": {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}}}},
    "type": "object",
    "properties": {
        "first": {"$ref": "#/$defs/Side"},
        "all": {"type": "array", "items": {"$ref": "#/$defs/Side"}},
        "verdict": {"enum": ["A", "B"]},
        "why": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        "sure": {"type": "boolean"},
    },
}

MORE: dict[str, dict[str, Any]] = {
    "context_reversal": {"source": "written", "writer": "large"},
    "persona": {"judge": "large"},
    "demonstrations": {"verifier": "large"},
    "past_future": {"verify": True},
    "rag": {"verifiers": ["large"]},
    "short_to_long": {"judge": "large", "votes": 3},
    "translate": {"check_language": True},
    "corrupt": {"max_changed": 0.5},
    "corrupt_pairs": {"max_changed": 0.5},
}


def spoken(request: Request) -> Reply:
    """What an engine of no talent says: a draw wherever it is asked for an opinion."""
    text = from_schema(request) if "response_format" in request.body else babble(request)
    logprobs = first_token(request)
    if logprobs:
        text = max(logprobs[0], key=lambda token: logprobs[0][token])
    return Reply(request.request_id, "ok", text, None, "stop", logprobs, tokens_in=9, tokens_out=9)


def planned(folder: Path, plugin: str) -> Plan:
    reference = (
        "The moon pulls the sea. It is 42 km away from the town, was 30 metres deep in 1871, and can turn. "
        "The sea follows it for 12 hours."
    )
    prompts = [
        {"prompt": f"How do tides {verb}?", "reference": reference, "documents": DOCUMENTS}
        | {"meta": {"trajectories": TRAJECTORIES}}
        for verb in ("work", "rise", "fall", "begin", "end", "differ")
    ]
    pairs = [{"prompt": p["prompt"], "chosen": reference, "rejected": "It is wind.", "language": "en"} for p in prompts]
    for name, rows in (("prompts", prompts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = {"plugin": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    sources = [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}]
    if find("generators", plugin).consumes == "pairs":
        sources = [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}]
    uses = [{"plugin": plugin, **CONFIGS[plugin], **MORE.get(plugin, {})}]
    if plugin == "prompt_evolve":
        uses.append({"plugin": "sample_n", "engines": ["small"], "n": 2})
    recipe = {
        "name": "planned",
        "buckets": 2,
        "sources": sources,
        "engines": dict.fromkeys(("small", "large", "old", "new", "judge"), engine),
        "generate": {"generators": uses},
        "judge": {"judges": [{"plugin": "logprob", "engine": "small"}]},
    }
    file = parse_recipe(json.dumps(recipe), folder / "recipe.yaml")
    return plan(file, str(folder / "w"), None, ("--runner=FnApiRunner",))


def asked(found: Plan, stage: str) -> int:
    return sum(cost.calls for cost in found.costs if cost.stage == stage)


@pytest.mark.parametrize("plugin", sorted(names("generators")))
def test_no_strategy_asks_more_than_the_plan_says(plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned(tmp_path, plugin)
    monkeypatch.setattr(planning, "invented_reply", spoken)
    run = planned(tmp_path, plugin)
    # `corrupt` tries another kind where a rewrite is refused, which a plan's rewrites never are.
    for stage in ("evolve", "judge") if plugin.startswith("corrupt") else ("evolve", "generate", "judge"):
        assert asked(before, stage) >= asked(run, stage), stage
    assert asked(before, "judge") > 0


def test_made_up_objects_fit_their_schema() -> None:
    for draw in map(str, range(50)):
        value = fitting(pydantic_schema, pydantic_schema, draw)
        assert set(value) == set(pydantic_schema["properties"])  # type: ignore[call-overload]
        assert value["verdict"] in ("A", "B")
        assert all(1 <= side["score"] <= 10 for side in [value["first"], *value["all"]])
        assert value["all"]
        assert value["why"] is None or 0 < len(value["why"]) <= 20
        assert isinstance(value["sure"], bool)


def test_made_up_texts_differ_from_request_to_request() -> None:
    texts = {invented_reply(Request("e", "m", {"max_tokens": 40, "seed": seed})).text for seed in range(200)}
    assert len(texts) == 200


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sample_of_a_language_is_of_that_language(language: str) -> None:
    texts = [sample_text(language, str(i)) for i in range(10)]
    assert len(set(texts)) == 10
    assert {language_of(text, 1) for text in texts} == {language}
