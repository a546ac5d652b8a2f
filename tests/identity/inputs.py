"""What the cases read: rows that are the same in every run of every version of this tool."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.identity.stub import babble
from tests.stub_llm import draw

Rows = list[dict[str, Any]]

REFERENCE = (
    "Light travels at about 300000 kilometres per second and sound at about 340 metres per second. "
    "So the flash arrives at once, and the thunder arrives 3 seconds later for each kilometre of distance."
)
DOCUMENTS = [
    "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
    "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
    "The lamp was turned by a clockwork that had to be wound every 4 hours.",
]
BENCHMARK = "A ship leaves the harbour at noon and sails north at twelve knots for three hours; how far has it come?"
_CALLS = json.dumps([{"type": "function", "function": {"name": "search", "arguments": "{}"}}])
_CONTEXTS = (
    ("The reader is a child of nine years.", "persona"),
    ("Prefer the response with more figures.", "criterion"),
    (None, None),
)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table with the first row's fields."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def prompts(n: int) -> Rows:
    """Plain prompts of two kinds."""
    kinds = ("instruction", "chat")
    return [{"prompt": f"Explain item {i} of the list in a few words.", "kind": kinds[i % 2]} for i in range(n)]


def rich_prompts() -> Rows:
    """Prompts with whatever a generator may start from: a reference, documents, transcripts."""
    rows: Rows = []
    for i in range(6):
        rows.append({"prompt": f"Question {i}: why do we see lightning before thunder?", "reference": REFERENCE})
        rows.append({"prompt": f"Question {i}: how high is the lighthouse of Cape Norr?", "documents": DOCUMENTS})
    logs = [_transcript("I booked a table at 19:00.", True, 0.9), _transcript("I could not book it.", False, 0.1)]
    return [*rows, {"prompt": "Agent log 17", "meta": {"trajectories": logs}}]


def _transcript(end: str, outcome: bool, gain: float) -> dict[str, Any]:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": _CALLS},
        {"role": "tool", "content": "2 tables free at 19:00", "name": "search"},
        {"role": "assistant", "content": end},
    ]
    return {"messages": messages, "outcome": outcome, "return": gain}


def pairs(n: int, per_prompt: int = 2) -> Rows:
    """Labelled pairs with contexts, users, references, facts, checks and two models' scores."""
    rows: Rows = []
    for i in range(n):
        question = i // per_prompt
        context, kind = _CONTEXTS[question % 3]
        row = {
            "prompt": f"What should a careful reader know of item {question}, and in how many words?",
            "chosen": f"Item {question} has {question + 2} sides. {babble('chosen', str(i))}",
            "rejected": f"Perhaps. {babble('rejected', str(i))}" + (" (see" if i % 5 == 0 else ""),
            "model_chosen": f"model-{i % 3}",
            "model_rejected": f"model-{(i + 1) % 3}",
            "kind": ("chat", "instruction", "reasoning")[question % 3],
            "language": "en",
            "user_id": f"user-{i % 7}" if i % 4 else None,
            "reference": f"Item {question} has {question + 2} sides and one name." if question % 2 else None,
            "checks": [{"type": "max_words", "n": 30}, {"type": "contains", "text": "sides"}] if i % 3 else [],
            "strength": 1 + i % 4,
            "nuggets": [f"Item {question} has {question + 2} sides.", {"text": "Readers count.", "weight": 2}],
            "now": [draw("now a", str(i)), draw("now b", str(i))],
            "before": [draw("before a", str(i)), draw("before b", str(i))],
        }
        rows.append(row | ({"context": context, "context_kind": kind} if context else {}))
    return rows


def labelled(n: int) -> Rows:
    """Rows with a label of their own words; some cannot be read, some have two equal responses."""
    labels = ("first", "second", "neither", "no idea")
    rows: Rows = [
        {
            "question": f"Which word goes with number {i}?",
            "one": babble("one", str(i)),
            "two": babble("two", str(i)),
            "winner": labels[i % 4],
        }
        for i in range(n)
    ]
    return [*rows, {**rows[0], "question": "Which is which?", "two": rows[0]["one"]}, {**rows[1], "winner": "maybe"}]


def rated(n: int) -> Rows:
    """Several responses to a prompt, with scores."""
    return [
        {
            "prompt": f"Describe the harbour on day {i} of the year.",
            "responses": [babble("rated", str(i), str(j)) for j in range(4)],
            "scores": [1 + int(draw("score", str(i), str(j)) * 5) for j in range(4)],
            "models": [f"model-{j}" for j in range(4)],
        }
        for i in range(n)
    ]


def conversations(n: int) -> Rows:
    """Two conversations with the same beginning."""
    rows: Rows = []
    for i in range(n):
        start = [
            {"role": "user", "content": f"I have {i} boats."},
            {"role": "assistant", "content": "That is a fleet."},
            {"role": "user", "content": "What do they need in the winter?"},
        ]
        ends = [[{"role": "assistant", "content": babble("end", side, str(i))}] for side in ("chosen", "rejected")]
        rows.append({"chosen": start + ends[0], "rejected": start + ends[1]})
    return rows


def to_be_cleaned() -> Rows:
    """Pairs that hygiene has something to say about: doubles, personal data, refusals, loops, another language."""
    good = {"chosen": babble("good"), "rejected": babble("bad")}
    tides = "Explain to a child in simple words why the sea at our harbour rises and falls twice on almost every day."
    german = "Das Meer steigt und fällt zweimal am Tag, weil der Mond das Wasser an sich zieht und die Erde sich dreht."
    return [
        {"prompt": tides, **good},
        {"prompt": tides, **good},
        {"prompt": f"{tides} Please.", **good},
        {"prompt": tides, "chosen": f"{good['chosen']} So.", "rejected": good["rejected"]},
        {"prompt": f"Solve this. {BENCHMARK} Show your steps.", **good},
        {"prompt": "Write to anna@example.org about it, or call +49 30 1234567.", **good},
        {
            "prompt": "Who is there?",
            "chosen": "I am sorry, but I cannot help with that.",
            "rejected": "I can't answer.",
        },
        {"prompt": "Count to ten.", "chosen": "one two three four five", "rejected": "one one one one one one " * 20},
        {"prompt": "Warum gibt es Ebbe und Flut?", "chosen": german, "rejected": german.replace("Mond", "Wind")},
        {"prompt": "Repeat this.", "chosen": "Repeat this.", "rejected": "That was said before, I think."},
        {"prompt": "What is the key?", "chosen": "It is AKIAIOSFODNN7EXAMPLE, keep it.", "rejected": "I lost it."},
    ]
