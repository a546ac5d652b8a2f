import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from schemas.errors import UsageError
from schemas.messages import message, messages_id, text_of
from schemas.pairs import make_pair
from schemas.tables import Pairs, Prompts, Rejects, Votes, rows_frame
from transforms.hygiene.clean import Outcome, drop, examine_pairs, examine_prompts, reject
from transforms.hygiene.config import HygieneConfig
from transforms.hygiene.duplicates import pair_keys, resolve
from transforms.hygiene.masking import votes_on_masked

GOOD = "The moon pulls the sea towards itself, and so there are two high tides on nearly every day of the year."
OTHER = "Tides come from wind over the open ocean, which pushes the water to the coast and lets it fall back."
REFUSAL = "I'm sorry, but I can't help with that."


def pair(first: str = GOOD, second: str = OTHER, prompt: str = "How do tides work?", **fields: Any) -> dict[str, Any]:
    row, _ = make_pair(
        [message("user", prompt)], [message("assistant", first)], [message("assistant", second)], **fields
    )
    return {**dict.fromkeys(Pairs.columns()), "origin": "test", **row}


def parted(
    frame: pl.DataFrame, outcomes: list[Outcome], key: str, table: type[Pairs | Prompts], config: HygieneConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that stay, and rejects of those that go."""
    both = list(zip(frame.iter_rows(named=True), outcomes, strict=True))
    rejects = [reject(*found, row[key], row, config.personal) for row, found in both if not isinstance(found, dict)]
    return rows_frame([row for row in outcomes if isinstance(row, dict)], table), rows_frame(rejects, Rejects)


def clean(pairs: pl.DataFrame, config: HygieneConfig, **more: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    return parted(pairs, examine_pairs(pairs, config, **more), "pair_id", Pairs, config)


def cleaned(config: dict[str, Any], *rows: dict[str, Any], **more: Any) -> tuple[list[dict[str, Any]], list[str]]:
    frame = rows_frame(list(rows), Pairs)
    kept, rejects = clean(frame, HygieneConfig.model_validate(config), **more)
    Pairs.validate(kept)
    Rejects.validate(rejects)
    assert len(kept) + len(rejects) == len(frame)
    assert set(rejects["record_id"]) <= set(frame["pair_id"])
    return kept.to_dicts(), rejects["reason"].to_list()


EVERYTHING: dict[str, Any] = {"sanity": {}, "language": {}, "personal": {}}


def test_sound_pairs_pass_unchanged_but_for_their_language() -> None:
    row = pair(first_label="a")
    [kept], reasons = cleaned(EVERYTHING, row)
    assert reasons == []
    assert kept == {**rows_frame([row], Pairs).to_dicts()[0], "language": "en"}


def test_absent_parts_do_nothing() -> None:
    kept, reasons = cleaned({}, pair(REFUSAL, "I cannot assist with this."), pair("", "ada@example.org 8.8.8.8"))
    assert reasons == []
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("...", "empty_response"),
        ("Tell me how the tides of the sea work. Tell me now. They work.", "echo"),
        ("The moon.<|im_end|>", "template_residue"),
        ("on and on it goes " * 30, "degenerate"),
    ],
)
def test_insane_responses_are_rejects(bad: str, reason: str) -> None:
    prompt = "Tell me how the tides of the sea work. Tell me now."
    assert cleaned({"sanity": {}}, pair(GOOD, bad, prompt))[1] == [reason]


@pytest.mark.parametrize(("policy", "one", "both"), [("keep", 0, 0), ("drop_both", 0, 1), ("drop_any", 1, 1)])
def test_refusal_policies(policy: str, one: int, both: int) -> None:
    config = {"sanity": {"refusals": policy}}
    assert len(cleaned(config, pair(GOOD, REFUSAL))[1]) == one
    assert len(cleaned(config, pair(REFUSAL, "I cannot assist with this request."))[1]) == both


def test_trajectory_that_ends_in_a_call_is_not_empty() -> None:
    row = pair()
    calls = '[{"type":"function","function":{"name":"f"}}]'
    rebuilt, _ = make_pair(row["prompt"], [message("assistant", "", tool_calls=calls)], row["response_b"])
    assert cleaned({"sanity": {}}, {**row, **rebuilt})[1] == []


def test_languages() -> None:
    german = "Der Mond zieht das Wasser der Meere an, deshalb gibt es zweimal am Tag eine Flut an der Küste."
    [kept], _ = cleaned({"language": {}}, pair(german, german.replace("Mond", "Erdtrabant"), "Warum?"))
    assert kept["language"] == "de"
    assert cleaned({"language": {"same": True}}, pair(GOOD, german))[1] == ["mixed_languages"]
    assert cleaned({"language": {"allowed": ["de"]}}, pair())[1] == ["language_not_allowed"]
    assert cleaned({"language": {"allowed": ["de"]}}, pair("Yes.", "No.", "Wet?"))[1] == []
    [given], _ = cleaned({"language": {}}, pair(language="fr"))
    assert given["language"] == "fr"


def test_masking_rebuilds_the_pair_and_keeps_the_winner() -> None:
    for label in ("a", "b"):
        row = pair(f"{GOOD} Write to ada@example.org.", OTHER, first_label=label, model_first="m1", model_second="m2")
        [kept], _ = cleaned({"personal": {}}, row)
        fresh, _ = make_pair(kept["prompt"], kept["response_a"], kept["response_b"])
        assert kept["pair_id"] == fresh["pair_id"] != row["pair_id"]
        winner = kept["source_label"]
        was_good = label == "a"
        assert ("moon" in text_of(kept[f"response_{winner}"])) == was_good
        assert kept[f"model_{winner}"] == ("m1" if was_good else "m2")
        assert "[EMAIL]" in text_of(kept["response_a"]) + text_of(kept["response_b"])
        assert "ada@" not in json.dumps(kept)
        assert json.loads(kept["meta"])["masked_from"] == row["pair_id"]
        assert kept["tags"] == ["pii:email"]


def test_what_stands_beside_the_texts_is_masked_too() -> None:
    meta = json.dumps({"asked_by": {"mail": ["ada@example.org"]}, "rank": 3})
    row = {**pair(reference="Ask ada@example.org."), "meta": meta}
    [kept], _ = cleaned({"personal": {}}, row)
    assert "ada@" not in json.dumps(kept)
    assert kept["pair_id"] == row["pair_id"]
    assert json.loads(kept["meta"]) == {"asked_by": {"mail": ["[EMAIL]"]}, "rank": 3}
    assert kept["tags"] == ["pii:email"]


def test_rejects_do_not_publish_what_they_were_rejected_for() -> None:
    key = "sk-proj-abcdefghijklmnop0123456789"
    row = {**pair(f"{GOOD} The key is {key}."), "meta": json.dumps({"mail": "ada@example.org"})}
    frame = rows_frame([row], Pairs)
    kept, rejects = clean(frame, HygieneConfig.model_validate({"personal": {}}))
    assert (len(kept), rejects["reason"].to_list()) == (0, ["secret"])
    assert key not in rejects["payload"][0]
    assert "ada@" not in rejects["payload"][0]
    open_ = HygieneConfig.model_validate({"personal": {"policy": "keep"}})
    assert "ada@" in clean(frame, open_)[1]["payload"][0]


def test_what_is_said_of_the_sides_follows_them_through_masking() -> None:
    turned = set()
    for n in range(12):
        row = pair(f"{GOOD} Write to ada{n}@example.org.", OTHER, first_label="a")
        good = row["source_label"]
        other = "b" if good == "a" else "a"
        row["meta"] = json.dumps({"expected": good, "sides": {good: "moon", other: "wind"}})
        row["origin_ref"] = json.dumps({"generator": "g", good: {"text": "moon"}, other: {"text": "wind"}})
        vote = {
            **dict.fromkeys(Votes.columns()),
            **{"vote_id": row["pair_id"], "pair_id": row["pair_id"], "voter": "source", "voter_group": "source"},
            **{"kind": "source", "order": "none", "sample": 0, "label": good, "p_a": 0.9 if good == "a" else 0.1},
            **{"tokens_in": 0, "tokens_out": 0, "ms": 0.0, f"score_{good}": 2.0, f"score_{other}": 1.0},
        }
        [kept], _ = cleaned({"personal": {}}, row)
        now = "a" if "moon" in text_of(kept["response_a"]) else "b"
        turned.add(now != good)
        facts = json.loads(kept["meta"])
        assert kept["source_label"] == facts["expected"] == now
        assert facts["sides"][now] == "moon"
        assert json.loads(kept["origin_ref"])[now] == {"text": "moon"}
        votes = votes_on_masked(rows_frame([vote], Votes), rows_frame([kept], Pairs))
        Votes.validate(votes)
        [moved] = votes.to_dicts()
        assert (moved["pair_id"], moved["label"]) == (kept["pair_id"], now)
        assert (moved["p_a"] > 0.5) == (now == "a")
        assert moved[f"score_{now}"] == 2.0
    assert turned == {True, False}


@pytest.mark.parametrize(("policy", "kept", "reasons"), [("keep", 1, []), ("drop", 0, ["personal_data"])])
def test_personal_data_policies(policy: str, kept: int, reasons: list[str]) -> None:
    row = pair(f"{GOOD} Write to ada@example.org.")
    rows, found = cleaned({"personal": {"policy": policy}}, row)
    assert (len(rows), found) == (kept, reasons)
    if rows:
        assert rows[0]["pair_id"] == row["pair_id"]
        assert rows[0]["tags"] == ["pii:email"]


def test_secrets_have_a_policy_of_their_own() -> None:
    row = pair(f"{GOOD} Use AKIA{'ABCDEFGH12345678'}.")
    assert cleaned({"personal": {"policy": "keep"}}, row)[1] == ["secret"]
    [kept], _ = cleaned({"personal": {"policy": "keep", "secrets": "mask"}}, row)
    assert "AKIA" not in json.dumps(kept["response_a"]) + json.dumps(kept["response_b"])


def test_pair_that_differs_only_in_what_is_masked_is_a_reject() -> None:
    row = pair("Write to ada@example.org.", "Write to bob@example.org.")
    assert cleaned({"personal": {}}, row)[1] == ["identical_responses"]


QUESTION = "A ship leaves the harbour at noon and sails north at twelve knots for three hours; how far is it?"


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    path = tmp_path / "bench.txt"
    path.write_text(QUESTION + "\n")
    return str(path)


def test_decontamination_looks_at_prompt_and_responses(benchmark: str) -> None:
    config = {"decontamination": {"benchmarks": [benchmark]}}
    in_prompt, in_response = pair(prompt=f"Solve: {QUESTION}"), pair(f"It is like this one. {QUESTION}")
    assert cleaned(config, in_prompt, in_response, pair())[1] == ["contaminated"] * 2
    config["decontamination"]["responses"] = False
    assert cleaned(config, in_prompt, in_response, pair())[1] == ["contaminated"]


def bag(texts: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
    """Letter counts as embeddings: enough for paraphrases to be close and other texts not."""
    counts = np.array([[t.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_decontamination_by_meaning_needs_an_embedding(benchmark: str) -> None:
    config = {"decontamination": {"benchmarks": [benchmark], "cosine": 0.99}}
    shuffled = " ".join(reversed(QUESTION.split()))
    assert cleaned(config, pair(prompt=shuffled), pair(), embed=bag)[1] == ["contaminated_in_meaning"]
    with pytest.raises(UsageError, match="embedding"):
        cleaned(config, pair())


def test_duplicates_are_rejects_that_name_what_stays() -> None:
    rows = [pair(), pair(GOOD.upper(), OTHER), pair("Something else altogether is said here.", OTHER)]
    frame = rows_frame(rows, Pairs)
    kept, rejects = drop(frame, resolve(pair_keys(frame)), "pair_id")
    Rejects.validate(rejects)
    assert len(kept) == 2
    [reject] = rejects.to_dicts()
    assert reject["reason"] == "exact_duplicate"
    assert any(name in reject["detail"] for name in kept["pair_id"])


def test_prompts_are_cleaned_likewise(benchmark: str) -> None:
    def row(text: str) -> dict[str, Any]:
        prompt = [message("user", text)]
        return {**dict.fromkeys(Prompts.columns()), "prompt_id": messages_id(prompt), "prompt": prompt}

    config = {"personal": {}, "language": {}, "decontamination": {"benchmarks": [benchmark]}}
    frame = rows_frame([row(QUESTION), row("Write to ada@example.org about the tides of the sea, please.")], Prompts)
    settings = HygieneConfig.model_validate(config)
    kept, rejects = parted(frame, examine_prompts(frame, settings), "prompt_id", Prompts, settings)
    assert rejects["reason"].to_list() == ["contaminated"]
    [left] = kept.to_dicts()
    assert left["prompt_id"] == messages_id(left["prompt"])
    assert "[EMAIL]" in text_of(left["prompt"])
    assert left["language"] == "en"


def test_empty_bucket() -> None:
    frame = pl.DataFrame(schema=rows_frame([], Pairs).schema)
    kept, rejects = clean(frame, HygieneConfig.model_validate(EVERYTHING))
    assert (len(kept), len(rejects)) == (0, 0)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="known"):
        HygieneConfig.model_validate({"personal": {"kinds": ["shoe_size"]}})
    with pytest.raises(ValueError, match="Extra"):
        HygieneConfig.model_validate({"sanitation": {}})
