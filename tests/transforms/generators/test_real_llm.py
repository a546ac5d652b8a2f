"""Every strategy against the embedded LLM: valid pairs, and the strategy's law, whatever the model's talent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import messages_id, text_of
from schemas.pairs import mirrored
from tests.transforms.generators.harness import check_yield, meta, pair_row, prompt_row
from transforms.generators.base import Yield
from transforms.llm.window import Caller
from transforms.plugins.registry import find
from transforms.storage.memo import Memo
from transforms.text.language import language_of

pytestmark = pytest.mark.slow

PROMPTS = ["Name three uses of salt and explain each.", "Why do we see lightning before we hear thunder?"]
REFERENCE = (
    "Light travels at about 300000 kilometres per second and sound at about 340 metres per second. "
    "So the flash arrives at once, and the thunder arrives 3 seconds later for each kilometre of distance."
)
DOCUMENTS = [
    "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
    "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
    "Cape Norr lies at the mouth of the bay and is reached by a ferry from Lund.",
]
Run = Callable[..., Yield]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a strategy on rows with a real engine named `llm`; the result is checked like every yield."""
    cls = find("engines", "llamacpp")
    engine = cls("llm", cls.Config(context=2048, slots=4, threads=1), 7)
    memo = Memo(tmp_path_factory.mktemp("memo"))
    with engine.serve() as urls:

        def run(plugin: str, rows: list[dict[str, Any]], **config: Any) -> Yield:
            plug = find("generators", plugin)
            generator = plug(plugin, plug.Config(**config), 7)
            generator.bind({"llm": engine.model})

            async def answered() -> list[Yield]:
                async with engine.connect(urls) as client:
                    ask = Caller({"llm": client}).asker(memo)
                    return await asyncio.gather(*(generator.pairs(row, ask) for row in rows))

            total, counts = Yield(), Counter[str]()
            for made in asyncio.run(answered()):
                check_yield(made, generator)
                total.pairs += made.pairs
                total.prompts += made.prompts
                total.rejects += made.rejects
                counts.update(made.counts)
            total.counts = dict(counts)
            print(f"{plugin}: {total.counts}, rejects {dict(Counter(r['reason'] for r in total.rejects))}")
            return total

        yield run


def rows(**fields: Any) -> list[dict[str, Any]]:
    return [prompt_row(prompt, **fields) for prompt in PROMPTS]


def winner(pair: dict[str, Any]) -> str:
    return text_of(pair[f"response_{pair['source_label']}"])


def loser(pair: dict[str, Any]) -> str:
    return text_of(pair[f"response_{mirrored(pair['source_label'])}"])


def test_sample_n(run: Run) -> None:
    made = run("sample_n", rows(), engines="llm", n=3, max_tokens=20, temperatures=[1.0], policy="all")
    assert made.pairs
    again = run("sample_n", rows(), engines="llm", n=3, max_tokens=20, temperatures=[1.0], policy="all")
    assert [p["pair_id"] for p in made.pairs] == [p["pair_id"] for p in again.pairs]


def test_sample_n_best_worst(run: Run) -> None:
    config = {"engines": "llm", "rater": "llm", "n": 4, "max_tokens": 20, "temperatures": [1.2]}
    made = run("sample_n", rows(), policy="best_worst", **config)
    for pair in made.pairs:
        sides = meta(pair)["sides"]
        assert sides["a"] != sides["b"]
    assert made.pairs


def test_context_reversal(run: Run) -> None:
    """The model is asked under both contexts in both orders: what it sees reverse stays, all else is a reject.

    Whether this model sees anything reverse is chance, so the pairs themselves are those it is not asked about.
    """
    config = {"engines": "llm", "n": 3, "max_tokens": 20, "temperatures": [1.0], "k": 3, "contrasts_per_pair": 4}
    trusted = run("context_reversal", rows(), verify=False, **config)
    assert trusted.pairs
    labels = [p["source_label"] for p in trusted.pairs if p["source_label"]]
    assert labels.count("a") == labels.count("b") > 0
    assert len({p["group_id"] for p in trusted.pairs}) == len(PROMPTS)
    made = run("context_reversal", rows(), **config)
    assert {p["pair_id"] for p in made.pairs} <= {p["pair_id"] for p in trusted.pairs}
    assert len(made.pairs) + 2 * sum(r["reason"] == "no_reversal" for r in made.rejects) == len(trusted.pairs)
    for pair in made.pairs:
        assert meta(pair)["judged_p_first"] not in (None, 0.5)


def test_context_reversal_with_written_contrasts(run: Run) -> None:
    config = {"engines": "llm", "n": 3, "max_tokens": 20, "temperatures": [1.0], "k": 4, "verify": False}
    made = run("context_reversal", rows(), source="written", writer="llm", **config)
    assert made.pairs
    twins = [(p["prompt_id"], *sorted(text_of(p[f"response_{s}"]) for s in "ab"), p["context"]) for p in made.pairs]
    assert len(set(twins)) == len(twins)


def test_persona(run: Run) -> None:
    made = run("persona", rows(), engine="llm", max_tokens=20, personas_per_prompt=1, writer="llm")
    assert made.pairs
    assert all(p["source_label"] == meta(p)["expected"] and p["user_id"] for p in made.pairs)


def test_contrast_prompt(run: Run) -> None:
    made = run("contrast_prompt", rows(), engine="llm", max_tokens=20, k=5)
    assert all(meta(p)["p_better"] > 0.5 for p in made.pairs)
    assert made.pairs


# The tiny model begins a copy and does not end it: of all flaws it is good at breaking off, if it is cut in time.
@pytest.mark.parametrize(
    ("by", "kinds", "max_tokens"),
    [("rule", ["wrong_number", "negation"], 64), ("llm", ["truncation"], 3)],
)
def test_corrupt(run: Run, by: str, kinds: list[str], max_tokens: int) -> None:
    config = {"kinds": kinds, "max_tokens": max_tokens, "k": 2, "max_changed": 1.0, "temperature": 0.0}
    made = run("corrupt", rows(reference=REFERENCE), engine="llm", by=[by], **config)
    for pair in made.pairs:
        facts = meta(pair)["corruption"]
        start, end = facts["span"]
        bad = loser(pair)
        assert bad[start:end] == facts["inserted"]
        assert bad[:start] + facts["removed"] + bad[end:] == winner(pair) == REFERENCE
    assert made.pairs


def test_rag(run: Run) -> None:
    row = prompt_row("How high is the lighthouse of Cape Norr, and who was its keeper?", documents=DOCUMENTS)
    made = run("rag", [row], engine="llm", max_tokens=28)
    assert {meta(p)["scenario"] for p in made.pairs} & {"multi_hop", "citation", "abstain", "conflict"}
    assert all(p["context_kind"] == "documents" for p in made.pairs)


def test_short_to_long(run: Run, tmp_path: Path) -> None:
    distractors = tmp_path / "others.txt"
    distractors.write_text("\n\n".join(f"Paragraph {i} speaks of other things at some length." for i in range(80)))
    questions = ["How high is the lighthouse?", "When was the lighthouse of Cape Norr built, and how high is it?"]
    asked = [prompt_row(question, documents=DOCUMENTS) for question in questions]
    config = {"engine": "llm", "max_tokens": 20, "votes": 1, "temperature": 1.2, "target_chars": 3000}
    made = run("short_to_long", asked, distractors=str(distractors), **config)
    for pair in made.pairs:
        assert len(pair["context"]) >= 3000
        assert [pair["context"][s:e] for s, e in meta(pair)["critical_spans"]] == DOCUMENTS[:1]
    assert made.pairs
    assert len(made.pairs) + len(made.rejects) == len(asked)


def test_tree(run: Run) -> None:
    made = run("tree", rows(), engine="llm", depth=2, branching=2, segment_tokens=12, max_tokens=24, temperature=1.2)
    assert any(meta(p)["prefix_chars"] for p in made.pairs)
    for pair in made.pairs:
        n = meta(pair)["prefix_chars"]
        assert text_of(pair["response_a"])[:n] == text_of(pair["response_b"])[:n]


def test_past_future(run: Run) -> None:
    made = run("past_future", rows(), past="llm", future="llm", rater="llm", n=3, max_tokens=20, verify=False)
    for pair in made.pairs:
        sides = meta(pair)["sides"]
        assert sides[pair["source_label"]]["rating"] > sides[mirrored(pair["source_label"])]["rating"]
    assert made.pairs


def test_refresh(run: Run) -> None:
    old = [pair_row(prompt) for prompt in PROMPTS]
    made = run("refresh", old, engine="llm", rater="llm", n=4, max_tokens=20, rating_samples=2)
    for pair in made.pairs:
        assert json.loads(pair["origin_ref"])["why"] == "stale"
        assert pair["pair_id"] not in {row["pair_id"] for row in old}
    assert made.pairs


def test_translate(run: Run) -> None:
    """The model was trained on English alone: what it calls French must not pass, unless nobody checks."""
    old = {row["pair_id"]: row for row in (pair_row(prompt, first_label="a", language="en") for prompt in PROMPTS)}
    made = run("translate", list(old.values()), engine="llm", languages=["fr"], max_tokens=48)
    assert made.pairs or made.rejects
    assert all(p["language"] == "fr" and language_of(text_of(p["prompt"]), 1) == "fr" for p in made.pairs)
    assert {r["reason"] for r in made.rejects} <= {"wrong_language", "not_translated", "degenerate", "refusal"}
    trusted = run("translate", list(old.values()), engine="llm", languages=["fr"], max_tokens=48, check_language=False)
    assert trusted.pairs
    for pair in trusted.pairs:
        row = old[meta(pair)["translated_from"]]
        assert pair["pair_id"] != row["pair_id"]
        assert pair["group_id"] == row["prompt_id"]


def test_trajectory(run: Run) -> None:
    def transcript(end: str) -> list[dict[str, Any]]:
        calls = json.dumps([{"type": "function", "function": {"name": "search", "arguments": "{}"}}])
        return [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "2 tables free at 19:00", "name": "search"},
            {"role": "assistant", "content": end},
        ]

    items = [
        {"messages": transcript("I booked a table for two at 19:00."), "outcome": True},
        {"messages": transcript("I could not book it."), "outcome": False},
    ]
    # The tiny model writes an object in time in about every other log.
    logs = [prompt_row(f"Agent log {n}", meta=json.dumps({"trajectories": items})) for n in range(17, 23)]
    made = run("trajectory", logs, writer="llm", max_tokens=96)
    assert made.pairs
    for pair in made.pairs:
        log = next(row for row in logs if row["prompt_id"] == pair["group_id"])
        assert pair["prompt"] != log["prompt"]


def test_demonstrations(run: Run) -> None:
    made = run("demonstrations", rows(reference=REFERENCE), engines="llm", n=2, max_tokens=20, temperatures=[1.0])
    assert made.pairs
    assert all(winner(p) == REFERENCE for p in made.pairs)


def test_prompt_evolve(run: Run) -> None:
    made = run("prompt_evolve", rows(), engine="llm", k=2, temperature=1.0, max_tokens=60)
    seeds = {messages_id(r["prompt"]) for r in rows()}
    assert made.prompts
    assert all(p["group_id"] in seeds and p["prompt_id"] not in seeds for p in made.prompts)


def test_no_leaf_says_its_prefix_twice(run: Run) -> None:
    made = run("tree", rows()[:1], engine="llm", depth=2, segment_tokens=8, max_tokens=16, temperature=0.7)
    assert any(meta(p)["prefix_chars"] for p in made.pairs)
    for pair in made.pairs:
        n = meta(pair)["prefix_chars"]
        for side in "ab":
            text = text_of(pair[f"response_{side}"])
            assert n == 0 or not text[n:].lstrip().startswith(text[:n].strip())
