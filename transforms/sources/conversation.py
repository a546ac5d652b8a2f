"""Finding the prompt in conversations: transcripts, common beginnings, prompts repeated in the response.

Datasets disagree on where the prompt lives: in its own column, at the head of both responses (TRL's
"implicit prompt", HH-RLHF's "\\n\\nHuman: ...\\n\\nAssistant: ..." text), or in both places at once.
"""

from __future__ import annotations

import re
from typing import Any

from schemas.messages import Message, MessageError, Role, message, to_messages

_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")
_TRANSCRIPT_START = "\n\nHuman:"
MIN_ECHO = 16  # a shorter prompt ("Hi") may well begin two honest answers ("Hi there")


class PromptError(ValueError):
    """The conversation and its prompt do not fit together; the text says how."""


def is_transcript(text: str) -> bool:
    """Whether the text is a conversation in HH-RLHF's notation."""
    return text.startswith(_TRANSCRIPT_START)


def transcript_messages(text: str) -> list[Message]:
    """The turns of a transcript; an empty last "Assistant:" is a cue to answer and no turn."""
    parts = _TURN.split(text)[1:]
    turns = [
        message("user" if speaker == "Human" else "assistant", content)
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns.pop()
    if not any(turn["content"].strip() for turn in turns):
        raise MessageError("is empty")
    return turns


def read_messages(value: Any, role: Role) -> list[Message]:
    """A column's value as messages, transcripts included.

    Raises:
        MessageError: it is neither text nor messages, or it is empty.
    """
    if isinstance(value, str) and is_transcript(value):
        return transcript_messages(value)
    return to_messages(value, role)


def strip_echo(prompt: str, first: str, second: str, mode: str) -> tuple[str, str] | None:
    """Two plain-text responses without the prompt they both repeat, or None if they do not.

    Args:
        mode: "always" strips any common echo, "auto" only one of `MIN_ECHO` characters or more, "never" none.
    """
    if mode == "never" or not prompt or (mode == "auto" and len(prompt) < MIN_ECHO):
        return None
    if not (first.startswith(prompt) and second.startswith(prompt)):
        return None
    rest = first[len(prompt) :].lstrip(), second[len(prompt) :].lstrip()
    return rest if all(rest) else None


def split_conversations(
    first: list[Message], second: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and the two responses of two full conversations.

    The prompt is the longest common beginning after which both continue with an assistant's turn.

    Raises:
        PromptError: they have no such beginning.
    """
    common = 0
    while common < min(len(first), len(second)) - 1 and first[common] == second[common]:
        common += 1
    while common and not (first[common]["role"] == second[common]["role"] == "assistant"):
        common -= 1
    if not common:
        raise PromptError("the two conversations have no common beginning that an assistant answers")
    return first[:common], first[common:], second[common:]


def split_texts(first: str, second: str) -> tuple[str, str, str]:
    """Prompt and the two completions of two plain texts: the common beginning up to a word's end.

    Raises:
        PromptError: the texts have no common beginning, or one is the beginning of the other.
    """
    shortest = min(len(first), len(second))
    end = next((i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), shortest)
    if end == shortest:
        raise PromptError("one text is the beginning of the other, so nothing is left as a response")
    while end and not first[end - 1].isspace():
        end -= 1
    prompt = first[:end].rstrip()
    if not prompt:
        raise PromptError("the two texts have no common beginning to take as the prompt")
    return prompt, first[len(prompt) :].lstrip(), second[len(prompt) :].lstrip()


def with_given_prompt(
    prompt: list[Message], first: list[Message], second: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and responses if a prompt is given and responses may be whole conversations that repeat it.

    Raises:
        PromptError: the responses are conversations that do not contain the given prompt.
    """
    first, second = _without(prompt, first), _without(prompt, second)
    asked = [m for m in (first[0], second[0]) if m["role"] in ("user", "system", "developer")]
    if not asked:
        return prompt, first, second
    if len(asked) == 1:
        raise PromptError("one response is a conversation from its start and the other is not")
    split_prompt, first, second = split_conversations(first, second)
    if prompt[-1]["content"].strip() != split_prompt[-1]["content"].strip():
        raise PromptError("the conversations in the responses do not contain the given prompt")
    return split_prompt, first, second


def _without(prompt: list[Message], response: list[Message]) -> list[Message]:
    n = len(prompt)
    return response[n:] if len(response) > n and response[:n] == prompt else response
