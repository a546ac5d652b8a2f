"""What every strategy promises, whichever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UsageError
from schemas.messages import message
from tests.transforms.generators.harness import FakeEngine, build, failed, pair_row, prompt_row, run
from transforms.llm.request import Reply, Request
from transforms.plugins.registry import find, names

DOCUMENTS = [
    "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
    "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
    "Cape Norr lies at the mouth of the bay and is reached by a ferry.",
]
TRAJECTORIES = [
    {"messages": [message("assistant", "I booked it."), message("assistant", "Done.")], "outcome": True, "return": 1.0},
    {"messages": [message("assistant", "I gave up.")], "outcome": False, "return": 0.0},
]
META = json.dumps({"trajectories": TRAJECTORIES})
CONFIGS: dict[str, dict[str, Any]] = {
    "sample_n": {"engines": ["small", "large"], "policy": "best_worst", "rater": "large"},
    "context_reversal": {"engines": "small", "verifier": "large", "k": 3},
    "persona": {"engine": "small", "writer": "large"},
    "contrast_prompt": {"engine": "small", "k": 4},
    "corrupt": {"engine": "small", "by": ["rule", "llm"], "k": 3, "max_changed": 1.0},
    "corrupt_pairs": {"engine": "small", "by": ["rule", "llm"], "k": 3, "max_changed": 1.0},
    "rag": {"engine": "small"},
    "short_to_long": {"engine": "small", "target_chars": 100, "votes": 1},
    "tree": {"engine": "small"},
    "past_future": {"past": "old", "future": "new", "rater": "judge", "verify": False},
    "refresh": {"engine": "small", "rater": "large"},
    "translate": {"engine": "small", "languages": ["de"], "check_language": False},
    "trajectory": {"writer": "small"},
    "demonstrations": {"engines": "small"},
    "prompt_evolve": {"engine": "small"},
}


def row_for(plugin: str) -> dict[str, Any]:
    if find("generators", plugin).consumes == "pairs":
        return pair_row(first_label="a", language="en")
    reference = None if plugin == "corrupt" else "The moon pulls the sea, and the sea follows."
    return prompt_row(documents=DOCUMENTS, meta=META, reference=reference)


def test_every_registered_strategy_is_checked_here() -> None:
    assert set(CONFIGS) == set(names("generators"))


@pytest.mark.parametrize("plugin", CONFIGS)
def test_same_seed_and_replies_give_the_same_yield_whoever_answers_first(plugin: str) -> None:
    class Late(FakeEngine):
        """Answers the same, in the opposite order of arrival."""

        async def __call__(self, request: Request) -> Reply:
            import asyncio

            for _ in range(20 - len(self.requests) % 20):
                await asyncio.sleep(0)
            return await super().__call__(request)

    row = row_for(plugin)
    first = run(build(plugin, **CONFIGS[plugin]), row, FakeEngine())
    assert run(build(plugin, **CONFIGS[plugin]), row, Late()) == first
    assert first.pairs or first.prompts or first.rejects


@pytest.mark.parametrize("plugin", CONFIGS)
def test_something_comes_of_an_ordinary_row(plugin: str) -> None:
    made = [run(build(plugin, seed=seed, **CONFIGS[plugin]), row_for(plugin)) for seed in range(12)]
    assert any(m.pairs or m.prompts for m in made)
    for m in made:
        assert m.counts["valid"] == len(m.pairs) + len(m.prompts)
        assert m.counts["asked"] >= m.counts["answered"] >= m.counts["parsed"]


@pytest.mark.parametrize("plugin", CONFIGS)
@pytest.mark.parametrize("state", ["error", "refused", "empty"])
def test_an_engine_that_fails_gives_rejects_and_no_exception(plugin: str, state: str) -> None:
    engine = FakeEngine(lambda request: " " if state == "empty" else failed(request, state))
    made = run(build(plugin, **CONFIGS[plugin]), row_for(plugin), engine)
    assert not made.prompts
    assert made.rejects
    if plugin != "corrupt_pairs" and plugin != "corrupt":
        assert not made.pairs


words = st.sampled_from(
    ["A", "B", "9", "[1]", "not", "42 km", "```x```", '{"prompt": "a b c d e"}', "{", "I cannot", "é漢\0"]
)
replies = st.text(max_size=30) | st.lists(words | st.text(max_size=8), max_size=9).map(" ".join)
tokens = st.dictionaries(st.text(max_size=3) | st.sampled_from(["A", " B", "5"]), st.floats(-50, 0), max_size=4)


@given(
    plugin=st.sampled_from(sorted(CONFIGS)), said=st.lists(replies, min_size=1, max_size=4), first=st.none() | tokens
)
def test_any_reply_gives_valid_rows(plugin: str, said: list[str], first: dict[str, float] | None) -> None:
    """Whatever an engine says, by text and by probabilities: valid pairs, prompts and rejects, no exception."""

    def answer(request: Request) -> Reply:
        text = said[int(request.request_id[:6], 16) % len(said)]
        logprobs = [first] if first is not None and request.body.get("logprobs") else None
        return Reply(request.request_id, "ok", text, None, "stop", logprobs, tokens_in=1, tokens_out=1)

    run(build(plugin, **CONFIGS[plugin]), row_for(plugin), FakeEngine(answer))


@pytest.mark.parametrize("plugin", CONFIGS)
def test_everything_descends_into_the_rows_group(plugin: str) -> None:
    for group in (None, "cluster-7"):
        row = {**row_for(plugin), "group_id": group}
        made = run(build(plugin, **CONFIGS[plugin]), row)
        assert {r["group_id"] for r in [*made.pairs, *made.prompts]} <= {group or row["prompt_id"]}


@pytest.mark.parametrize("plugin", CONFIGS)
def test_identity_is_json_and_follows_seed_settings_and_models(plugin: str) -> None:
    def identity(seed: int = 7, model: str = "weights", **more: Any) -> str:
        cls = find("generators", plugin)
        generator = cls("use", cls.Config(**{**CONFIGS[plugin], **more}), seed)
        generator.bind({name: f"{name}-{model}" for name in generator.config.engine_names()})
        return json.dumps(generator.identity, sort_keys=True)

    assert identity() == identity()
    assert identity(seed=8) != identity()
    assert identity(model="other") != identity()
    field = next(f for f in ("max_tokens", "k", "n") if f in find("generators", plugin).Config.model_fields)
    assert identity(**{field: 3}) != identity(**{field: 5})


@pytest.mark.parametrize("plugin", CONFIGS)
def test_missing_engine_is_named(plugin: str) -> None:
    cls = find("generators", plugin)
    generator = cls("use", cls.Config(**CONFIGS[plugin]), 7)
    with pytest.raises(UsageError, match="no engine named"):
        generator.bind({"somebody": "weights"})


def test_templates_on_disk_are_all_used() -> None:
    folder = Path(find("generators", "rag").__module__.replace(".", "/")).parent / "templates"
    used = {name for plugin in CONFIGS for name in find("generators", plugin).templates}
    assert {path.name.removesuffix(".jinja2") for path in folder.glob("*.jinja2")} == used
