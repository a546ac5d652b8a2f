import pytest

from schemas.messages import message, text_of
from schemas.pairs import mirrored
from tests.transforms.generators.harness import FakeEngine, build, meta, pair_row, run, text
from transforms.generators.translate import translation_fault
from transforms.plugins import Request

GERMAN = {
    "How do tides work?": "Wie funktionieren eigentlich die Gezeiten an der Nordsee?",
    "The moon pulls": "Der Mond zieht das Wasser der Meere an, deshalb gibt es zweimal am Tag eine Flut.",
    "Because of wind": "Das kommt hauptsächlich vom Wind, der über das offene Meer weht.",
}


def german(request: Request) -> str:
    content = request.body["messages"][-1]["content"].split("[Text]")[1].strip()
    return next((v for k, v in GERMAN.items() if content.startswith(k)), "Hier steht ein ganz anderer deutscher Satz.")


@pytest.mark.parametrize("label", ["a", "b", "tie", None])
def test_label_and_group_go_along(label: str | None) -> None:
    row = pair_row(first_label=label, language="en")
    [pair] = run(build("translate", engine="small", languages=["de"]), row, FakeEngine(german)).pairs
    assert pair["language"] == "de"
    assert pair["group_id"] == row["prompt_id"]
    assert meta(pair)["translated_from"] == row["pair_id"]
    moon_is_a = text(pair["response_a"]).startswith("Der Mond")
    expected = label if moon_is_a or label is None else mirrored(label)
    assert pair["source_label"] == expected


def test_code_blocks_stay_byte_for_byte() -> None:
    code = "```python\nprint('tides')  # not prose\n```"
    row = pair_row(first=f"The moon pulls the sea, see here:\n\n{code}\n\nBecause of wind, mostly.")
    [pair] = run(build("translate", engine="small", languages=["de"]), row, FakeEngine(german)).pairs
    texts = [text(pair[f"response_{s}"]) for s in "ab"]
    assert sum(code in t for t in texts) == 1
    [with_code] = [t for t in texts if code in t]
    assert with_code == f"{GERMAN['The moon pulls']}\n\n{code}\n\n{GERMAN['Because of wind']}"


def test_context_is_translated_too() -> None:
    row = pair_row(context="Prefer the shorter response, please.", context_kind="criterion")
    [pair] = run(build("translate", engine="small", languages=["de"]), row, FakeEngine(german)).pairs
    assert pair["context"] == "Hier steht ein ganz anderer deutscher Satz."
    assert pair["context_kind"] == "criterion"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("This is plainly an English sentence and by no means a German one.", "wrong_language"),
        ("I'm sorry, but I cannot translate this text for you.", "refusal"),
        ("ja ja ja " * 60, "degenerate"),
    ],
)
def test_what_is_no_translation_is_a_reject(reply: str, reason: str) -> None:
    result = run(build("translate", engine="small", languages=["de"]), pair_row(), FakeEngine(lambda r: reply))
    assert not result.pairs
    assert {r["reason"] for r in result.rejects} == {reason}


def test_copy_is_no_translation() -> None:
    source = "The moon pulls the sea, and the sea follows it around the earth."
    fault = translation_fault(source, source, "de", check_language=False)
    assert fault is not None
    assert fault[0] == "not_translated"


def test_pair_in_the_target_language_is_a_reject(engine: FakeEngine) -> None:
    result = run(build("translate", engine="small", languages=["en"]), pair_row(language="en"), engine)
    assert [r["reason"] for r in result.rejects] == ["same_language"]
    assert engine.requests == []


def test_roles_and_tool_calls_survive() -> None:
    row = pair_row()
    calls = '[{"function":{"arguments":"{}","name":"clock"},"type":"function"}]'
    row["response_a"] = [
        message("assistant", "", tool_calls=calls),
        message("tool", "12:00", name="clock"),
        *row["response_a"],
    ]
    [pair] = run(build("translate", engine="small", languages=["de"]), row, FakeEngine(german)).pairs
    [long] = [pair[f"response_{s}"] for s in "ab" if len(pair[f"response_{s}"]) == 3]
    assert [m["role"] for m in long] == ["assistant", "tool", "assistant"]
    assert long[0]["tool_calls"] == calls
    assert long[1]["content"] == "12:00"
    assert text_of(long[2:]) in GERMAN.values()
