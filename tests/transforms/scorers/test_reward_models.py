"""Reward models: a tiny random transformers model, a stub of vLLM's pooling endpoint, and CREAM over both."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy.special import expit

from schemas.errors import DataError, EngineError, UsageError
from schemas.messages import message
from schemas.tables import Votes
from tests.transforms.scorers.pair_rows import frame, no_votes, pair_row, swapped
from transforms.plugins.registry import find
from transforms.scorers._reward_models import CHUNK, Conversation, Reward, memoised_rewards
from transforms.text.embedding import MemoryCache

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "cat", "dog", "why"]


def tiny_model(folder: Path, seed: int, labels: int = 1) -> str:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def scorer(name: str, **config: Any) -> Any:
    cls = find("scorers", name)
    return cls(name, cls.Config(**config), seed=0)


PAIRS = frame([pair_row("why cat", "good cat", "bad dog dog"), pair_row("why dog", "dog", "cat bad good")])


def test_local_ensemble_votes_with_mean_probability(tmp_path: Path) -> None:
    models = [tiny_model(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    plugin = scorer("hf_reward", models=models)
    votes = plugin.votes(PAIRS, plugin.fit(PAIRS, no_votes()))
    Votes.validate(votes)
    for row in votes.iter_rows(named=True):
        aspects = json.loads(row["aspects"])
        assert len(aspects["heads"]) == 3
        assert aspects["sees_label"] is False
        assert aspects["sigma"] > 0
        assert row["p_a"] == pytest.approx(np.mean(expit(aspects["heads"])))
        assert row["score_a"] - row["score_b"] == pytest.approx(aspects["mu"], abs=1e-5)
    mirror = plugin.votes(swapped(PAIRS), b"")
    assert np.allclose(votes["p_a"], 1 - mirror["p_a"], atol=1e-6)


def test_local_rewards_are_the_models_logits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tiny_model(tmp_path / "m", 5, labels=2)
    row = scorer("hf_reward", models=[folder], batch_size=1).votes(PAIRS, b"").row(0, named=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**tokenizer("why cat", "good cat", return_tensors="pt")).logits[0]
    assert row["score_a"] == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)


def test_batches_do_not_change_rewards(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", 6)
    one, many = (scorer("hf_reward", models=[folder], batch_size=n).votes(PAIRS, b"") for n in (1, 8))
    assert np.allclose(one["score_a"], many["score_a"], atol=1e-5)


def test_rewards_are_bought_once(tmp_path: Path) -> None:
    plugin = scorer("hf_reward", models=[tiny_model(tmp_path / "m", 7)])
    first = plugin.votes(PAIRS, b"")
    plugin._models[0].rewards = lambda conversations: pytest.fail("asked again")
    assert plugin.votes(PAIRS, b"").equals(first)


def test_wrong_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/no/such"):
        _ = scorer("hf_reward", models=["/no/such"]).identity
    with pytest.raises(UsageError, match="not a reward model"):
        scorer("hf_reward", models=[tiny_model(tmp_path / "m", 8, labels=3)]).votes(PAIRS, b"")
    with pytest.raises(ValidationError, match="at least one reward model"):
        find("scorers", "hf_reward").Config()


class PoolingStub(http.server.BaseHTTPRequestHandler):
    """Rewards the number of times "good" occurs in the last message.

    Turns away the model "away"; "busy" fails on every text twice before it answers; "short" takes 8 tokens and says so
    as vLLM does; every model refuses a text with "forbidden" and fails for ever on one with "cursed".
    """

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/pooling"
        assert [m["role"] for m in body["messages"]] == ["user", "assistant"]
        text = body["messages"][-1]["content"]
        self.asked.append(body)
        reward = text.count("good") + 0.5
        data: Any = {"tokens": [[9.0], [reward]], "other": "nonsense"}.get(body["model"], [reward])
        status, answer = 200, {"data": [{"index": 0, "data": data}]}
        times = sum(b["messages"] == body["messages"] and b["model"] == body["model"] for b in self.asked)
        if body["model"] == "away":
            status = 404
        elif "forbidden" in text:
            status, answer = 400, {"error": {"message": "this text is refused"}}
        elif "cursed" in text or (body["model"] == "busy" and times <= 2):
            status = 503
        elif body["model"] == "short" and body["truncate_prompt_tokens"] > 8:
            message = (
                "truncate_prompt_tokens=2048 cannot be greater than max_model_len=8. Please request a smaller size."
            )
            status, answer = 400, {"error": {"message": message}}
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def pooling_url() -> Iterator[str]:
    PoolingStub.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PoolingStub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("model", ["one", "tokens", "busy", "short"])
def test_endpoint_rewards(pooling_url: str, model: str) -> None:
    plugin = scorer("hf_reward", endpoints=[{"url": pooling_url, "model": model}])
    votes = plugin.votes(PAIRS, b"")
    assert votes["label"].to_list() == ["a", "b"]
    assert votes["score_a"].to_list() == [1.5, 0.5]
    assert votes["voter_group"].to_list() == ["reward_models"] * 2
    asked = len(PoolingStub.asked)
    assert plugin.votes(PAIRS, b"").equals(votes)
    assert len(PoolingStub.asked) == asked


def test_long_texts_are_cut_by_the_server(pooling_url: str) -> None:
    scorer("hf_reward", endpoints=[{"url": pooling_url, "model": "one"}], max_tokens=77).votes(PAIRS, b"")
    assert {body["truncate_prompt_tokens"] for body in PoolingStub.asked} == {77}
    assert {body["truncation_side"] for body in PoolingStub.asked} == {"right"}
    longer, shorter = (scorer("hf_reward", endpoints=[{"url": "u", "model": "m"}], max_tokens=n) for n in (77, 78))
    assert longer.identity != shorter.identity


def test_an_ensemble_of_endpoints_and_local_models_mixes_all(pooling_url: str, tmp_path: Path) -> None:
    endpoints = [{"url": pooling_url, "model": model} for model in ("one", "tokens")]
    local = [tiny_model(tmp_path / str(seed), seed) for seed in (1, 2)]
    votes = scorer("hf_reward", endpoints=endpoints, models=local).votes(PAIRS, b"")
    alone = [scorer("hf_reward", models=[folder]).votes(PAIRS, b"") for folder in local]
    for i, row in enumerate(votes.iter_rows(named=True)):
        heads = json.loads(row["aspects"])["heads"]
        assert heads[2:] == [(1.0, -1.0)[i]] * 2
        assert heads[:2] == pytest.approx([a["score_a"][i] - a["score_b"][i] for a in alone], abs=1e-6)
        assert row["p_a"] == pytest.approx(np.mean(expit(heads)))


@pytest.mark.parametrize(("word", "says", "transient"), [("forbidden", "refused", False), ("cursed", "503", True)])
def test_a_text_that_fails_is_an_error_of_its_pair_alone(
    pooling_url: str, word: str, says: str, transient: bool
) -> None:
    pairs = pl.concat([PAIRS, frame([pair_row("why", "good", word)])])
    endpoints = [{"url": pooling_url, "model": m, "retries": 1} for m in ("one", "tokens")]
    votes = scorer("hf_reward", endpoints=endpoints).votes(pairs, b"")
    Votes.validate(votes)
    assert sorted(votes["label"]) == ["a", "b", "error"]
    failed = votes.filter(pl.col("label") == "error").row(0, named=True)
    assert says in failed["detail"]
    assert json.loads(failed["aspects"]) == {"transient": transient}
    assert failed["p_a"] is None
    tries = [b for b in PoolingStub.asked if b["messages"][-1]["content"] == word and b["model"] == "one"]
    assert len(tries) == (2 if transient else 1)


def test_what_was_bought_before_a_kill_is_kept() -> None:
    bought: list[int] = []

    class Killed:
        identity = "model"

        def rewards(self, conversations: Sequence[Conversation]) -> list[Reward]:
            if len(bought) == 2:
                raise KeyboardInterrupt
            bought.append(len(conversations))
            return [1.0] * len(conversations)

    many = [Conversation([message("user", "q")], [message("assistant", str(i))]) for i in range(3 * CHUNK)]
    cache = MemoryCache()
    with pytest.raises(KeyboardInterrupt):
        memoised_rewards(Killed(), many, cache)
    assert sum(bought) == 2 * CHUNK
    bought.clear()
    memoised_rewards(Killed(), many, cache)
    assert sum(bought) == CHUNK


@pytest.mark.parametrize(("model", "says"), [("away", "404"), ("other", "no number")])
def test_an_endpoint_that_rewards_nothing_stops_the_run(pooling_url: str, model: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        scorer("hf_reward", endpoints=[{"url": pooling_url, "model": model, "retries": 0}]).votes(PAIRS, b"")


def test_unreachable_endpoint_is_named() -> None:
    with pytest.raises(EngineError, match=r"nothing answers at http://127\.0\.0\.1:9"):
        scorer("hf_reward", endpoints=[{"url": "http://127.0.0.1:9", "model": "m", "outage_s": 0.2}]).votes(PAIRS, b"")


def test_missing_key_is_named(pooling_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_KEY", raising=False)
    endpoint = {"url": pooling_url, "model": "one", "api_key_env": "REWARD_KEY"}
    with pytest.raises(UsageError, match="REWARD_KEY"):
        scorer("hf_reward", endpoints=[endpoint]).votes(PAIRS, b"")


def test_context_joins_the_system_message() -> None:
    prompt = [message("system", "Be brief."), message("user", "Why?")]
    got = Conversation(prompt, [message("assistant", "Because.")], "Prefer rhymes.")
    assert [m["role"] for m in got.prompt] == ["system", "user"]
    assert got.prompt[0]["content"] == "Prefer rhymes.\n\nBe brief."
    assert Conversation(prompt[1:], prompt[1:], "x").prompt[0] == {"role": "system", "content": "x"}
    assert got.key != Conversation(prompt, [message("assistant", "Because.")]).key


def scored(a: str, b: str, now: list[float], before: list[float] | None) -> dict[str, Any]:
    return pair_row("p", a, b, meta=json.dumps({"now": now, "before": before}))


def test_cream_trusts_the_ranking_as_far_as_snapshots_agree() -> None:
    now, before = {"x": 3.0, "y": 2.0, "z": 1.0}, {"x": 2.0, "y": 3.0, "z": 1.0}
    rows = [scored(a, b, [now[a], now[b]], [before[a], before[b]]) for a, b in (("x", "y"), ("y", "z"), ("z", "x"))]
    votes = scorer("cream", current="meta:now", previous="meta:before").votes(frame(rows), b"")
    # Two of three pairs are ranked alike: tau = 1/3, C = 2/3.
    assert votes["p_a"].to_list() == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert votes["label"].to_list() == ["a", "a", "b"]
    assert json.loads(votes["aspects"][0])["n_responses"] == 3


def test_cream_is_silent_without_scores_and_names_wrong_ones() -> None:
    plugin = scorer("cream", current="meta:now", previous="meta:before")
    assert plugin.votes(frame([pair_row("p", "x", "y"), scored("v", "w", [1, 2], None)]), b"").height == 0
    with pytest.raises(DataError, match="not \\[score_a, score_b\\]"):
        plugin.votes(frame([scored("x", "y", [1.0], [1.0, 2.0])]), b"")


def test_cream_over_two_saved_models(tmp_path: Path) -> None:
    current, previous = (tiny_model(tmp_path / str(seed), seed) for seed in (11, 12))
    same = scorer("cream", current=current, previous=current).votes(PAIRS, b"")
    assert same["p_a"].is_in([0.0, 1.0]).all()
    both = scorer("cream", current=current, previous=previous)
    assert both.votes(PAIRS, b"").height == 2
    assert both.identity != scorer("cream", current=previous, previous=current).identity
