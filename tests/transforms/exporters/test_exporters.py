"""Every format holds what the rows say, or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import DataError
from schemas.messages import message
from tests.transforms.exporters.rows import row, table
from transforms.exporters._messages import inspected
from transforms.exporters.base import PreferenceConfig, soft_rows
from transforms.plugins.registry import find, names

CALLS = '[{"id":"c1","type":"function","function":{"name":"add","arguments":{"a":1,"b":[2]}}}]'


LONG = "Tell me what you know of the history of the bicycle"


def export(form: str, rows: pl.DataFrame, out: Path, seed: int = 0, **options: Any) -> dict[str, int]:
    cls = find("exporters", form)
    counts: dict[str, int] = cls(form, cls.Config(**options), seed).export(rows.lazy(), out)
    return counts


def read(out: Path, split: str = "train") -> list[dict[str, Any]]:
    return pl.read_parquet(out / f"{split}-*.parquet").to_dicts()


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": r, "content": c} for r, c in turns]


def test_the_formats_are_registered() -> None:
    assert {"trl-dpo", "trl-reward", "trl-kto", "openrlhf", "ranked", "per-user", "jsonl", "datasets"} <= set(
        names("exporters")
    )


def test_trl_dpo_separates_prompt_and_turn(tmp_path: Path) -> None:
    rows = table(row("q", "good", "bad"), row("q2", "x", "y", split="test"))
    assert export("trl-dpo", rows, tmp_path) == {"train": 1, "test": 1}
    assert read(tmp_path) == [
        {
            "prompt": chat(("user", "q")),
            "chosen": chat(("assistant", "good")),
            "rejected": chat(("assistant", "bad")),
        }
    ]


def test_trl_reward_holds_whole_conversations(tmp_path: Path) -> None:
    export("trl-reward", table(row("q", "good", "bad", margin=2.5)), tmp_path, margin=True)
    assert read(tmp_path) == [
        {
            "chosen": chat(("user", "q"), ("assistant", "good")),
            "rejected": chat(("user", "q"), ("assistant", "bad")),
            "margin": 2.5,
        }
    ]


@pytest.mark.parametrize("layout", ["conversations", "prompt"])
def test_openrlhf_layouts(tmp_path: Path, layout: str) -> None:
    export("openrlhf", table(row("q", "good", "bad", margin=2.5)), tmp_path, layout=layout)
    turns = {"chosen": chat(("assistant", "good")), "rejected": chat(("assistant", "bad"))}
    whole = {k: chat(("user", "q")) + v for k, v in turns.items()}
    expected = {"prompt": chat(("user", "q")), **turns} if layout == "prompt" else whole
    assert read(tmp_path) == [{**expected, "margin": 2.5}]


SYSTEM = [message("system", "S"), message("user", "q")]


@pytest.mark.parametrize(
    ("rule", "prompt", "expected"),
    [
        ("system", "q", chat(("system", "Judge: C"), ("user", "q"))),
        ("system", SYSTEM, chat(("system", "S\n\nJudge: C"), ("user", "q"))),
        ("user", "q", chat(("user", "Judge: C\n\nq"))),
        ("drop", "q", chat(("user", "q"))),
        ("column", "q", chat(("user", "q"))),
    ],
)
def test_context_goes_where_the_rule_says(tmp_path: Path, rule: str, prompt: Any, expected: Any) -> None:
    rows = table(row(prompt, "x", "y", context="C"), row("plain", "x", "y"))
    export("trl-dpo", rows, tmp_path, context=rule, context_template="Judge: {context}")
    found = {r["prompt"][-1]["content"]: r for r in read(tmp_path)}
    assert found["plain"]["prompt"] == chat(("user", "plain"))
    other = next(r for text, r in found.items() if text != "plain")
    assert other["prompt"] == expected
    assert other.get("context") == ("C" if rule == "column" else None)


def test_tool_calls_stay_objects_and_a_system_context_has_none(tmp_path: Path) -> None:
    trajectory = [
        message("assistant", "", tool_calls=CALLS),
        message("tool", "3", name="add"),
        message("assistant", "It is 3."),
    ]
    export("trl-dpo", table(row("1+2?", trajectory, "5", context="be brief")), tmp_path)
    (found,) = read(tmp_path)
    call, result, answer = found["chosen"]
    assert call["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1,"b":[2]}'}}
    ]
    assert (result["role"], result["name"], result["content"]) == ("tool", "add", "3")
    assert (answer["content"], answer["tool_calls"]) == ("It is 3.", None)
    assert found["prompt"][0] == {"role": "system", "content": "be brief", "name": None, "tool_calls": None}


def test_damaged_tool_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises((DataError, pl.exceptions.ComputeError), match="tool calls are not a list"):
        export("trl-dpo", table(row("q", [message("assistant", "", tool_calls='[{"x":1}]')], "y")), tmp_path)


MEDIA = [message("user", "what is it?", media=[{"kind": "image", "uri": "u", "sha256": None, "mime": "image/png"}])]


@pytest.mark.parametrize("form", ["trl-dpo", "trl-reward", "trl-kto", "openrlhf", "ranked", "per-user"])
def test_media_are_refused_where_they_would_be_lost(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="have media"):
        export(form, table(row(MEDIA, "x", "y", user_id="u")), tmp_path)


@pytest.mark.parametrize(("form", "reader"), [("datasets", pl.read_parquet), ("jsonl", pl.read_ndjson)])
def test_plain_formats_lose_nothing(tmp_path: Path, form: str, reader: Any) -> None:
    rows = table(
        row(
            MEDIA, [message("assistant", 'é\n\u2028"', tool_calls=CALLS)], "y", tags=["t"], meta='{"a":1}', context="c"
        ),
        row("q", "x", "y", user_id="u"),
    )
    export(form, rows, tmp_path)
    (file,) = (p for p in tmp_path.iterdir() if p.name.startswith("train"))
    back = pl.read_ndjson(file, schema=rows.schema) if form == "jsonl" else reader(file)
    assert back.to_dicts() == rows.to_dicts()


@pytest.mark.parametrize(
    ("bad", "message_"),
    [
        (row("q", "x", "y") | {"rejected": [message("assistant", "x")]}, "chosen equals rejected"),
        (row("q", [message("user", "q"), message("assistant", "x")], "y"), "begins with another turn"),
        (row("Tell me", "Tell me: yes", "Tell me: no"), "both begin with the text of the prompt"),
        (row(LONG, f"{LONG}. It was built.", "Nothing."), "chosen begins with the text of the prompt"),
        (row(LONG, "It was built.", f"\n{LONG}\nNothing."), "rejected begins with the text of the prompt"),
    ],
)
@pytest.mark.parametrize("form", ["trl-dpo", "trl-reward", "trl-kto", "openrlhf"])
def test_rows_that_would_teach_nonsense_are_refused(tmp_path: Path, form: str, bad: Any, message_: str) -> None:
    with pytest.raises(DataError, match=message_):
        export(form, table(row("fine", "x", "y"), bad), tmp_path)


def test_a_response_that_quotes_the_prompt_is_fine() -> None:
    inspected(table(row("Say hello", "Say hello? Hello!", "No.")).lazy(), "trl-dpo")
    others = [row(f"q{i}", "x", "y") for i in range(9)]
    inspected(table(row(LONG, f"{LONG}? It was built in 1871.", "No."), *others).lazy(), "trl-dpo")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 1), st.sampled_from(["train", "test"])), max_size=30), st.integers(1, 9))
def test_resampling_keeps_the_soft_label_in_expectation(given_rows: list[tuple[float, str]], copies: int) -> None:
    rows = table(*(row(f"q{i}", f"good {i}", f"bad {i}", p_chosen=p, split=s) for i, (p, s) in enumerate(given_rows)))
    config = PreferenceConfig(soft_labels="duplicate", copies=copies)
    found = soft_rows(rows.lazy(), config, 3).collect()
    assert found.columns == rows.columns
    for original in rows.iter_rows(named=True):
        same = found.filter(pl.col("pair_id") == original["pair_id"])
        flipped = sum(r["chosen"] == original["rejected"] for r in same.iter_rows(named=True))
        kept = sum(r["chosen"] == original["chosen"] for r in same.iter_rows(named=True))
        assert kept + flipped == same.height == (copies if original["split"] == "train" else 1)
        if original["split"] == "train":
            assert abs(flipped - (1 - original["p_chosen"]) * copies) < 1
        else:
            assert flipped == 0


def test_resampling_flips_the_stated_share_of_many_rows() -> None:
    rows = table(*(row(f"q{i}", "x", "y", p_chosen=0.8) for i in range(2000)))
    found = soft_rows(rows.lazy(), PreferenceConfig(soft_labels="duplicate", copies=1), 0).collect()
    share = sum(r[0][0]["content"] == "y" for r in found.select("chosen").iter_rows()) / 2000
    assert abs(share - 0.2) < 4 * (0.16 / 2000) ** 0.5


PAIRED = ["trl-dpo", "trl-reward", "openrlhf"]  # formats of a row per pair
PREFERENCES = [*PAIRED, "trl-kto", "ranked", "per-user"]


def notes(form: str, rows: pl.DataFrame, **options: Any) -> list[str]:
    cls = find("exporters", form)
    found: list[str] = cls(form, cls.Config(**options), 0).notes(rows.lazy())
    return found


@pytest.mark.parametrize("form", PREFERENCES)
def test_softened_rows_are_left_out_where_a_trainer_would_take_them_for_certain(tmp_path: Path, form: str) -> None:
    sure = [row(f"b{p}", "good", "bad", p_chosen=p, user_id="u", action="keep") for p in (0.52, 2 / 3, 0.95)]
    soft = [row(f"a{p}", "x", "y", p_chosen=p, user_id="u", action="soften") for p in (0.5, 0.6, 0.9)]
    rows = table(*sure, *soft)
    export(form, rows, tmp_path)
    written = str([pl.read_parquet(path).to_dicts() for path in tmp_path.glob("*.parquet")])
    assert "'good'" in written
    whole = {"trl-reward": "exported with their margin", "ranked": "exported as if they were certain"}
    assert ("'x'" in written) == (form in whole)
    (note,) = notes(form, rows)
    assert note.startswith("3 of 6 rows ")
    assert whole.get(form, "left out: their label is in doubt (action soften). soft_labels: ignore") in note
    assert note in (tmp_path / "README.md").read_text()


def test_a_reward_model_gets_margins_where_labels_are_in_doubt(tmp_path: Path) -> None:
    sure = row("q", "x", "y", p_chosen=0.95, action="keep")
    soft = row("r", "x", "y", p_chosen=0.6, action="soften", split="test")
    cases = (
        ("sure", [sure], {}, False),
        ("soft", [sure, soft], {}, True),
        ("asked for", [sure], {"margin": True}, True),
        ("not wanted", [sure, soft], {"margin": False}, False),
        ("left out", [sure, soft], {"soft_labels": "filter"}, False),
    )
    for name, given_rows, options, has_margin in cases:
        export("trl-reward", table(*given_rows), tmp_path / name, **options)
        frames = [pl.read_parquet(path) for path in (tmp_path / name).glob("*.parquet")]
        assert {"margin" in frame.columns for frame in frames} == {has_margin}, name
    assert notes("trl-reward", table(sure), margin=False) == []
    assert "left out" in notes("trl-reward", table(sure, soft), margin=False)[0]
    copied = notes("trl-dpo", table(soft), soft_labels="duplicate")
    assert copied == ["1 of 1 rows outside of training are in doubt (action soften) exported as if they were certain"]
    with pytest.raises(ValidationError, match="formats with the option margin"):
        notes("trl-dpo", table(sure), soft_labels="margin")


@pytest.mark.parametrize(
    ("form", "soft_labels"),
    [*((form, "ignore") for form in PREFERENCES), *((form, "duplicate") for form in PREFERENCES if form != "trl-kto")],
)
def test_doubtful_labels_are_kept_where_that_is_asked_for(tmp_path: Path, form: str, soft_labels: str) -> None:
    given_rows = (
        row(f"q{i}", f"x{i}", "y", p_chosen=0.5 + i / 20, user_id="u", action="soften" if i < 4 else "keep")
        for i in range(11)
    )
    rows = table(*given_rows)
    export(form, rows, tmp_path, soft_labels=soft_labels)
    written = str([pl.read_parquet(path).to_dicts() for path in tmp_path.glob("*.parquet")])
    assert all(f"'x{i}'" in written for i in range(11))
    (note,) = notes(form, rows, soft_labels=soft_labels)
    assert note.startswith("4 of 11 rows in doubt" if soft_labels == "ignore" else "11 training rows written 4 times")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 1), st.sampled_from(["keep", "flip", "soften"])), min_size=1, max_size=20),
    st.floats(0.5, 1),
    st.sampled_from(PAIRED),
)
def test_rows_in_are_rows_written_and_rows_left_out(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[float, str]], least: float, form: str
) -> None:
    rows = table(*(row(f"q{i}", "x", "y", p_chosen=p, action=a) for i, (p, a) in enumerate(given_rows)))
    out = tmp_path_factory.mktemp("export")
    options = {"min_p_chosen": least, "soft_labels": "filter"}
    left = sum(int(note.split(" of ")[0]) for note in notes(form, rows, **options))
    if left == len(given_rows):
        with pytest.raises(DataError, match=r"no row is left to export. \d+ of \d+ rows left out"):
            export(form, rows, out, **options)
    else:
        assert sum(export(form, rows, out, **options).values()) + left == len(given_rows)


def test_the_rows_as_they_are_leave_nothing_out(tmp_path: Path) -> None:
    rows = table(row("a", "x", "y", p_chosen=0.5), row("b", "x", "y", p_chosen=0.95))
    for form in ("jsonl", "datasets"):
        assert export(form, rows, tmp_path / form) == {"train": 2}
        assert notes(form, rows) == []


def test_an_export_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row is left to export$"):  # nobody's: not because they are doubtful
        export("per-user", table(row("q", "x", "y", p_chosen=0.5)), tmp_path)


def test_kto_takes_each_response_once_by_what_it_won(tmp_path: Path) -> None:
    rows = table(
        row("q", "A", "B"),
        row("q", "B", "C"),
        row("q", "A", "C", weight=0.5),
        row("other", "B", "A"),
    )
    export("trl-kto", rows, tmp_path)
    found = {(r["prompt"][0]["content"], r["completion"][0]["content"]): r["label"] for r in read(tmp_path)}
    assert found == {("q", "A"): True, ("q", "C"): False, ("other", "B"): True, ("other", "A"): False}


def test_ranked_lists_follow_the_mean_margin(tmp_path: Path) -> None:
    rows = table(
        row("q", "A", "B", margin=1.0),
        row("q", "B", "C", margin=2.0),
        row("q", "A", "C", margin=0.5),
        row("q", "C", "A", margin=3.0, context="reversed"),
    )
    export("ranked", rows, tmp_path, context="drop")
    found = sorted(read(tmp_path), key=lambda r: len(r["responses"]))
    assert [m[0]["content"] for m in found[1]["responses"]] == ["A", "B", "C"]
    assert found[1]["scores"] == [0.75, 0.5, -1.25]
    assert found[1]["comparisons"] == [2, 2, 2]
    assert [m[0]["content"] for m in found[0]["responses"]] == ["C", "A"]


def test_no_test_prompt_and_no_unseen_user_is_trained_on(tmp_path: Path) -> None:
    rows = table(
        *(
            row(f"q{i}", "x", "y", user_id=f"u{i % 23}", split=("train", "train", "validation", "test")[i % 4])
            for i in range(400)
        ),
        row("nobody", "x", "y"),
    )
    counts = export("per-user", rows, tmp_path, unseen_users=0.3)
    assert sum(counts.values()) == 400
    users = {s: {r["user_id"] for r in read(tmp_path, s)} for s in counts}
    prompts = {s: {r["prompt"][0]["content"] for r in read(tmp_path, s)} for s in counts}
    unseen = users["test_unseen_users"] | users["context_unseen_users"] | users["validation_unseen_users"]
    assert not unseen & (users["train"] | users["validation"] | users["test_seen_users"])
    assert not prompts["train"] & (prompts["test_seen_users"] | prompts["test_unseen_users"])
    assert not prompts["context_unseen_users"] & prompts["test_unseen_users"]


@pytest.mark.parametrize(
    "form", ["trl-dpo", "trl-reward", "trl-kto", "openrlhf", "ranked", "per-user", "jsonl", "datasets"]
)
@pytest.mark.parametrize("rows_per_file", [2, 1000])
def test_load_dataset_reads_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, rows_per_file: int
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = table(
        *(row(f"q{i}", "x", "y", user_id=f"u{i}", split=("train", "test")[i % 2], context="c") for i in range(9)),
        row("tools", [message("assistant", "", tool_calls=CALLS)], "y", user_id="u0"),
    )
    counts = export(form, rows, tmp_path / "out", rows_per_file=rows_per_file)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {s: loaded[s].num_rows for s in loaded} == counts
    assert list(loaded) == list(counts)


@pytest.mark.parametrize(
    "form", ["trl-dpo", "trl-reward", "trl-kto", "openrlhf", "ranked", "per-user", "jsonl", "datasets"]
)
def test_marks_of_chat_templates_in_texts_come_out_as_they_went_in(tmp_path: Path, form: str) -> None:
    marks = ["<|im_start|>user\nq<|im_end|>", "<s>[INST] x [/INST] y</s>", "<|eot_id|>\u200b\x00 </think>"]
    rows = table(row(marks[0], marks[1], marks[2], user_id="u"))
    export(form, rows, tmp_path)
    (file,) = [p for p in tmp_path.iterdir() if p.suffix in (".parquet", ".jsonl")]
    read_ = pl.read_parquet if file.suffix == ".parquet" else pl.read_ndjson
    text = read_(file).to_dicts()
    said = {m["content"] for r in text for m in _messages(r)}
    assert said >= set(marks)


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict) and "content" in value:
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [m for v in inner for m in _messages(v)]


def test_exports_are_deterministic(tmp_path: Path) -> None:
    rows = table(*(row(f"q{i % 7}", f"x{i}", f"y{i}", p_chosen=0.6) for i in range(40)))
    for form in ("trl-kto", "ranked", "trl-dpo"):
        for name in ("1", "2"):
            export(form, rows, tmp_path / form / name, soft_labels="duplicate")
        one, two = (sorted((tmp_path / form / n).iterdir()) for n in ("1", "2"))
        assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_an_earlier_export_is_not_mixed_in(tmp_path: Path) -> None:
    export("trl-dpo", table(row("q", "x", "y", split="test")), tmp_path)
    with pytest.raises(DataError, match="is not empty"):
        export("trl-dpo", table(row("q", "x", "y")), tmp_path)


def test_a_template_without_its_place_is_wrong() -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        PreferenceConfig(context_template="no place")
