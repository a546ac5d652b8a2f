"""Reward models: a conversation to one number, higher is better."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas.errors import EngineError, MissingExtra, UsageError
from schemas.ids import hash_bytes, hash_json
from schemas.messages import Message, chat_messages, text_of
from transforms.scorers._embedding import VectorCache

Array = NDArray[np.float64]


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

    def rewards(self, conversations: Sequence[Conversation]) -> Array:
        """One reward per conversation, shape (n,)."""
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

    def rewards(self, conversations: Sequence[Conversation]) -> Array:
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
        return out

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

    Each conversation is one POST to `<url>/pooling` with the messages; the server renders its own chat template.
    The reward is the last number of the reply's `data` (models that pool every token give one per token), raw.
    """

    def __init__(self, url: str, model: str, api_key_env: str | None, concurrency: int, timeout_s: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout_s = timeout_s

    @property
    def identity(self) -> Any:
        """The model's name: where it is served does not change its rewards."""
        return ["endpoint", self.model]

    def rewards(self, conversations: Sequence[Conversation]) -> Array:
        """Rewards, `concurrency` requests at a time.

        Raises:
            EngineError: the server is away, refuses, or answers something that is no number.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            return np.array(list(pool.map(self._reward, conversations)), dtype=np.float64)

    def _reward(self, conversation: Conversation) -> float:
        body = {
            "model": self.model,
            "messages": [*conversation.prompt, *conversation.response],
            "add_generation_prompt": False,
            "use_activation": False,
        }
        headers = {"Content-Type": "application/json"}
        if self.api_key_env:
            if self.api_key_env not in os.environ:
                raise UsageError(f"{self.url} wants a key: set the environment variable {self.api_key_env}")
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        request = urllib.request.Request(f"{self.url}/pooling", orjson.dumps(body), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:  # noqa: S310
                answer = orjson.loads(reply.read())
            values = np.asarray(answer["data"][0]["data"], dtype=np.float64).ravel()
            return float(values[-1])
        except urllib.error.HTTPError as error:
            raise EngineError(f"{self.url}/pooling answers {error.code}: {error.read()[:300]!r}") from error
        except OSError as error:
            raise EngineError(f"no reward model answers at {self.url}/pooling: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{self.url}/pooling did not answer with a reward for {self.model}: {error!r}") from error


def memoised_rewards(model: RewardModel, conversations: Sequence[Conversation], cache: VectorCache) -> Array:
    """Rewards (n,), buying only those the cache lacks; a reward is kept as a vector of length 1."""
    ids = [hash_json(["reward", model.identity, conversation.key]) for conversation in conversations]
    wanted = dict(zip(ids, conversations, strict=True))
    known = {i: float(vector[0]) for i, vector in cache.get(list(wanted)).items()}
    missing = sorted(i for i in wanted if i not in known)
    if missing:
        bought = model.rewards([wanted[i] for i in missing]).astype(np.float32)
        cache.put(missing, bought[:, None])
        known.update((i, float(value)) for i, value in zip(missing, bought, strict=True))
    return np.array([known[i] for i in ids], dtype=np.float64)
