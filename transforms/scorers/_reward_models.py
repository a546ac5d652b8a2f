"""Reward models: a conversation to one number, higher is better.

A model that fails on a text fails on that pair: a vote `error` with the reason, asked again in the next run if that may
help. Endpoints go through the engines' client, so what is retried and what stops a run is the same for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EngineError, MissingExtra, UsageError
from schemas.ids import hash_bytes, hash_json
from schemas.messages import Message, chat_messages, text_of
from schemas.secrets import secret
from transforms.llm.client import Client, Patience
from transforms.llm.request import Request
from transforms.text.embedding import VectorCache

Array = NDArray[np.float64]
FAMILY = "reward_models"  # group of what such models vote


CHUNK = 512  # rewards bought before they are kept


@dataclass(frozen=True)
class Failure:
    """Why a conversation got no reward, and whether asking again may cure it."""

    reason: str
    transient: bool


Reward = float | Failure


class Conversation:
    """A prompt and one response to it; a context goes into the system message, before what that may hold."""

    def __init__(self, prompt: Sequence[Message], response: Sequence[Message], context: str | None = None) -> None:
        self.prompt = chat_messages(prompt)
        if context:
            has_system = bool(self.prompt) and self.prompt[0]["role"] == "system"
            own = self.prompt.pop(0)["content"] if has_system else ""
            self.prompt.insert(0, {"role": "system", "content": "\n\n".join(part for part in (context, own) if part)})
        self.response = chat_messages(response)
        self.prompt_text = "\n\n".join(part for part in (context or "", text_of(prompt)) if part)
        self.response_text = text_of(response)

    @cached_property
    def key(self) -> str:
        """Content hash."""
        return hash_json([self.prompt, self.response])


class RewardModel(Protocol):
    """Gives rewards; `identity` is everything that determines them."""

    @property
    def identity(self) -> Any:
        """JSON-serialisable."""
        ...

    def rewards(self, conversations: Sequence[Conversation]) -> Sequence[Reward]:
        """One reward, or why there is none, per conversation."""
        ...


class LocalRewardModel:
    """A sequence-classification model through transformers, on the GPU when torch sees one.

    The conversation is rendered by the tokenizer's chat template; without one, prompt and response are encoded
    as a text pair. One logit is the reward; of two, the second minus the first. Longer inputs are truncated to
    `max_tokens` by the tokenizer.
    """

    def __init__(self, model: str, batch_size: int, max_tokens: int) -> None:
        self.model = model
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._loaded: tuple[Any, Any, Any] | None = None

    @cached_property
    def identity(self) -> Any:
        """Content of the folder, or the hub id."""
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            if self.model.startswith(("/", ".", "~")):
                raise UsageError(f"no reward model at {self.model}: give the folder of a saved transformers model")
            return ["hub", self.model, self.max_tokens]
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in {".safetensors", ".bin", ".json"})
        return ["content", [hash_bytes(p.read_bytes()) for p in files], self.max_tokens]

    def rewards(self, conversations: Sequence[Conversation]) -> list[Reward]:
        """Rewards in batches of similar length.

        Raises:
            MissingExtra: torch or transformers is not installed.
            UsageError: the model cannot be loaded or has more than two outputs.
        """
        tokenizer, model, torch = self._load()
        order = sorted(range(len(conversations)), key=lambda i: len(conversations[i].response_text))
        out = np.zeros(len(conversations))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            encoded = self._encode(tokenizer, [conversations[i] for i in rows]).to(model.device)
            with torch.inference_mode():
                logits = model(**encoded).logits.float().cpu().numpy()
            if logits.ndim != 2 or logits.shape[1] not in (1, 2):
                raise UsageError(
                    f"{self.model} gives logits of shape {logits.shape}: not a reward model (1 or 2 labels)"
                )
            out[rows] = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0.0)
        return [float(value) for value in out]

    def _encode(self, tokenizer: Any, batch: Sequence[Conversation]) -> Any:
        options = {"padding": True, "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        if tokenizer.chat_template:
            texts = [tokenizer.apply_chat_template([*c.prompt, *c.response], tokenize=False) for c in batch]
            return tokenizer(texts, add_special_tokens=False, **options)
        return tokenizer([c.prompt_text for c in batch], [c.response_text for c in batch], **options)

    def _load(self) -> tuple[Any, Any, Any]:
        if self._loaded is None:
            try:
                import torch
                from transformers import AutoModelForSequenceClassification, AutoTokenizer
            except ImportError:
                raise MissingExtra("reward models need transformers: pip install 'prefine[embed]'") from None
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model)
                model = AutoModelForSequenceClassification.from_pretrained(self.model).eval()
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot load the reward model {self.model!r}: {error}") from error
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id
            self._loaded = tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu"), torch
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "batch_size": self.batch_size, "max_tokens": self.max_tokens, "_loaded": None}


class EndpointRewardModel:
    """A reward model behind vLLM's pooling endpoint (`vllm serve MODEL --runner pooling`).

    Each conversation is one POST to `<url>/pooling` with the messages; the server renders its own chat template and
    keeps the first `max_tokens` tokens, or as many as its model takes if that is less. The reward is the last
    number of the reply (models that pool every token give one per token), raw. What is retried, and what stops the
    run, is the engines' rule: see `transforms.llm.client`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str | None,
        concurrency: int,
        timeout_s: float,
        retries: int,
        outage_s: float,
        max_tokens: int,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.patience = Patience(timeout_s, (retries + 1) * timeout_s, retries, backoff_max_s=8.0, outage_s=outage_s)
        self.max_tokens = max_tokens
        self._takes_less = False  # the server's model takes fewer than `max_tokens`

    @property
    def identity(self) -> Any:
        """The model's name and what it is shown: where it is served does not change its rewards."""
        return ["endpoint", self.model, self.max_tokens]

    def rewards(self, conversations: Sequence[Conversation]) -> list[Reward]:
        """Rewards, `concurrency` requests at a time; a `Failure` if the server refuses or fails on one text.

        Raises:
            EngineError: the server is away, turns every request away, or gives no reward for any text.
            UsageError: the key's environment variable is not set, or holds no key.
        """
        rewards = asyncio.run(self._asked(conversations))
        first = next((f for f in rewards if isinstance(f, Failure)), None)
        if first is not None and len(rewards) > 1 and all(isinstance(f, Failure) for f in rewards):
            raise EngineError(f"{self.url}/pooling gave no reward for any of {len(rewards)} texts: {first.reason}")
        return rewards

    async def _asked(self, conversations: Sequence[Conversation]) -> list[Reward]:
        headers = {}
        if self.api_key_env:
            headers["Authorization"] = f"Bearer {secret(self.api_key_env)}"
        client = Client(self.model, [f"{self.url}/v1"], self.model, self.concurrency, self.patience, headers)
        async with client:
            return list(await asyncio.gather(*(self._reward(client, c) for c in conversations)))

    async def _reward(self, client: Client, conversation: Conversation) -> Reward:
        request = self._request(conversation)
        reply = await client.send(request)
        if "truncate_prompt_tokens" in (reply.error or "") and request.body["truncate_prompt_tokens"] > 0:
            self._takes_less = True
            reply = await client.send(self._request(conversation))
        if reply.state != "ok":
            return Failure(f"{self.model}: {reply.error}", reply.transient)
        return float(reply.text)

    def _request(self, conversation: Conversation) -> Request:
        body = {
            "messages": [*conversation.prompt, *conversation.response],
            "add_generation_prompt": False,
            "use_activation": False,
            "truncate_prompt_tokens": -1 if self._takes_less else self.max_tokens,
            "truncation_side": "right",
        }
        return Request(self.model, self.model, body, path="pooling", purpose="reward")


def memoised_rewards(model: RewardModel, conversations: Sequence[Conversation], cache: VectorCache) -> list[Reward]:
    """Rewards, buying only those the cache lacks; a reward is kept as a vector of length 1, a failure is not.

    They are bought and kept `CHUNK` at a time: what a killed run loses is at most that.
    """
    ids = [hash_json(["reward", model.identity, conversation.key]) for conversation in conversations]
    wanted = dict(zip(ids, conversations, strict=True))
    known: dict[str, Reward] = {i: float(vector[0]) for i, vector in cache.get(list(wanted)).items()}
    missing = sorted(i for i in wanted if i not in known)
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        bought = dict(zip(chunk, model.rewards([wanted[i] for i in chunk]), strict=True))
        kept = {i: np.float32(reward) for i, reward in bought.items() if not isinstance(reward, Failure)}
        if kept:
            cache.put(list(kept), np.array(list(kept.values()), dtype=np.float32)[:, None])
        known.update(bought | {i: float(reward) for i, reward in kept.items()})
    return [known[i] for i in ids]
