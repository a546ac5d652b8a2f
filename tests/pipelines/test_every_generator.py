"""Every generator in one recipe, against the embedded LLM: each makes something, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import run_recipe
from schemas.tables import Pairs, Prompts
from transforms.plugins.registry import names
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

REFERENCE = (
    "Light travels at about 300000 kilometres per second and sound at about 340 metres per second. "
    "So the flash arrives at once, and the thunder arrives 3 seconds later for each kilometre of distance."
)
CALLS = json.dumps([{"type": "function", "function": {"name": "search", "arguments": "{}"}}])


def transcript(end: str, outcome: bool) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": CALLS},
            {"role": "tool", "content": "2 tables free at 19:00", "name": "search"},
            {"role": "assistant", "content": end},
        ],
        "outcome": outcome,
    }


LOGS = {"trajectories": [transcript("I booked a table at 19:00.", True), transcript("I could not book it.", False)]}
PROMPTS = [
    {"prompt": "Why do we see lightning before we hear thunder?", "reference": REFERENCE},
    {
        "prompt": "How high is the lighthouse of Cape Norr, and who was its keeper?",
        "documents": [
            "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
            "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
        ],
    },
    {"prompt": "Agent log 17", "meta": LOGS},
]
PAIR = {
    "prompt": "How do tides work?",
    "chosen": "The moon pulls the sea towards itself, and so there are two high tides on nearly every day.",
    "rejected": "Tides come from wind over the open ocean, 3 times a day.",
    "language": "en",
}
PAIRS = [PAIR, {**PAIR, "prompt": "Why are there two tides a day?"}, {**PAIR, "prompt": "What makes the sea rise?"}]
SHORT: dict[str, Any] = {"max_tokens": 20}
USES: list[dict[str, Any]] = [
    {"plugin": "sample_n", "engines": ["llm"], "n": 2, **SHORT},
    {"plugin": "context_reversal", "engines": ["llm"], "n": 2, "k": 2, "verify": False, **SHORT},
    {"plugin": "persona", "engine": "llm", "personas_per_prompt": 1, **SHORT},
    {"plugin": "contrast_prompt", "engine": "llm", "k": 4, **SHORT},
    {"plugin": "corrupt", "k": 1},
    {"plugin": "corrupt_pairs", "k": 1},
    {"plugin": "rag", "engine": "llm", **SHORT},
    {"plugin": "short_to_long", "engine": "llm", "votes": 1, "target_chars": 600, "distractors": "others.txt", **SHORT},
    {"plugin": "tree", "engine": "llm", "depth": 2, "branching": 2, "segment_tokens": 8, "max_tokens": 16},
    {
        "plugin": "past_future",
        "past": "llm",
        "future": "llm",
        "rater": "llm",
        "n": 5,
        "temperature": 1.2,
        "verify": False,
        **SHORT,
    },
    {"plugin": "refresh", "engine": "llm", "rater": "llm", "n": 4, "rating_samples": 1, **SHORT},
    {"plugin": "translate", "engine": "llm", "languages": ["fr"], "max_tokens": 48, "check_language": False},
    {"plugin": "trajectory"},
    {"plugin": "demonstrations", "engines": ["llm"], "n": 1, **SHORT},
    {"plugin": "prompt_evolve", "engine": "llm", "k": 3, "temperature": 1.0, "max_tokens": 60},
]


def test_every_generator_runs_from_a_recipe(tmp_path: Path) -> None:
    assert sorted(use["plugin"] for use in USES) == sorted(names("generators"))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (tmp_path / "others.txt").write_text("\n\n".join(f"Paragraph {i} speaks of other things." for i in range(80)))
    for use in USES:
        if "distractors" in use:
            use["distractors"] = str(tmp_path / "others.txt")
    recipe = {
        "name": "all",
        "seed": 7,
        "buckets": 2,
        "sources": [
            {"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"},
            {"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"},
        ],
        "engines": {"llm": {"plugin": "llamacpp", "context": 2048, "slots": 4, "threads": 1}},
        "generate": {"generators": USES},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run_recipe(tmp_path / "recipe.yaml", str(tmp_path / "w"), "clean", None, (), quiet=True)
    for stage in result.stages:
        assert stage.rows_in == stage.rows_out + sum(stage.rejects.values()), stage
    workspace = Workspace.open(str(tmp_path / "w"))
    pairs = table_frame(workspace, "pairs").collect()
    assert Pairs.is_valid(pairs)
    assert Prompts.is_valid(table_frame(workspace, "prompts").collect())
    evolved = sum(stage.counts["prompts"] for stage in result.stages if stage.stage == "evolve")
    assert set(pairs["origin"]) | ({"prompt_evolve"} if evolved else set()) >= set(names("generators"))
