import pytest

from schemas.messages import message, text_of
from schemas.pairs import mirrored
from tests.transforms.generators.harness import FakeEngine, build, meta, pair_row, run, text
from transforms.generators.translate import translation_fault
from transforms.llm.request import Request

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


SHORT = ("What is two plus two?", "It is four.", "It is five.")
FRENCH = {"What is": "Combien font deux et deux ?", "It is four": "Cela fait quatre.", "It is five": "Cela fait cinq."}


def french(request: Request) -> str:
    content = request.body["messages"][-1]["content"].split("[Text]")[1].strip()
    return next(v for k, v in FRENCH.items() if content.startswith(k))


def echo(request: Request) -> str:
    return str(request.body["messages"][-1]["content"]).split("[Text]")[1].split("[End of text]")[0].strip()


@pytest.mark.parametrize("check", [True, False])
def test_short_texts_are_checked_together(check: bool) -> None:
    row = pair_row(*SHORT, language="en")
    generator = build("translate", engine="small", languages=["fr"], check_language=check)
    [pair] = run(generator, row, FakeEngine(french)).pairs
    assert pair["language"] == "fr"
    copied = run(generator, row, FakeEngine(echo))
    assert not copied.pairs
    assert [r["reason"] for r in copied.rejects] == ["not_translated"]


def test_one_response_left_as_it_was_is_no_translation() -> None:
    def half(request: Request) -> str:
        return echo(request) if echo(request) == SHORT[2] else french(request)

    made = run(build("translate", engine="small", languages=["fr"]), pair_row(*SHORT, language="en"), FakeEngine(half))
    assert [r["reason"] for r in made.rejects] == ["not_translated"]


def test_names_may_stay_as_they_are() -> None:
    def named(request: Request) -> str:
        text = echo(request)
        return text if text in ("Paris", "Lyon") else "Quelle est la capitale de la France, et pourquoi ?"

    row = pair_row("What is the capital of France, and why?", "Paris", "Lyon", language="en")
    assert len(run(build("translate", engine="small", languages=["fr"]), row, FakeEngine(named)).pairs) == 1


def test_short_pieces_in_another_language_are_found_together() -> None:
    spanish = {"What": "¿Cuánto es dos más dos, por favor?", "It is four": "Son cuatro.", "It is five": "Son cinco."}

    def answer(request: Request) -> str:
        return next(v for k, v in spanish.items() if echo(request).startswith(k))

    made = run(
        build("translate", engine="small", languages=["fr"]), pair_row(*SHORT, language="en"), FakeEngine(answer)
    )
    assert [r["reason"] for r in made.rejects] == ["wrong_language"]
