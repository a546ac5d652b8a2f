"""Responses that are no responses: empty, refusing, echoing the prompt, template residue, repeating themselves."""

from __future__ import annotations

import re
import zlib
from collections import Counter

from transforms.text.similarity import normalised, words

_CANNOT = r"(?:can(?:no|['’])t|can not|cannot|won['’]t|will not|am unable to|['’]m unable to|(?:am|['’]m) not able to)"
_DECLINE = rf"(?:{_CANNOT}|(?:must|have to|will have to) decline(?: to)?|decline to)"
_SERVE = (
    r"(?:help|assist|answer|provide|comply|fulfill?|do that|discuss|engage|create|write|generate|support|continue|"
    r"respond|offer|share|give|participate|recommend|describe|explain|tell|teach|show|advise|encourage)"
)
_REFUSAL = re.compile(
    rf"^(?:(?:i['’]?m|i am)\s+(?:\w+ )?(?:sorry|afraid)\b[^.!?\n]{{0,40}}?\bi\s*{_DECLINE}"
    rf"|(?:sorry|apologies|unfortunately)\b[^.!?\n]{{0,20}}?\bi\s*{_DECLINE}"
    rf"|i\s*{_DECLINE}\s+{_SERVE}\b"
    rf"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.!?\n]{{0,60}}"
    rf"\bi\s*(?:{_DECLINE}|do not|don['’]t))",
    re.IGNORECASE,
)
_RESIDUE = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end_of_text|eot_id|start_header_id|end_header_id|begin_of_text|assistant|user|"
    r"system|end|eom_id)\|>|\[/?INST\]|<</?SYS>>|\A\s*<s>|</s>\s*\Z|<(?:start|end)_of_turn>|<pad>|<unk>|"
    r"^###\s*(?:Instruction|Response|Input|Human|Assistant)\s*:|^(?:Human|Assistant|ASSISTANT|USER)\s*:|"
    r"\{\{\s*[\w.]+\s*\}\}|\{%.*?%\}",
    re.MULTILINE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def is_empty(text: str) -> bool:
    """No letter, digit or symbol in it: white space and punctuation alone are no answer."""
    return not any(not c.isspace() and (c.isalnum() or ord(c) > 127) for c in text) and not _has_symbol(text)


def _has_symbol(text: str) -> bool:
    return any(c in "+*/=<>%^~$#@&|" for c in text)


def is_refusal(text: str) -> bool:
    """Whether the text begins by declining (English). A polite "sorry" before an answer is not a refusal."""
    return bool(_REFUSAL.match(text.strip()))


def residue(text: str) -> str | None:
    """The first mark of a chat or prompt template left in the text outside code, or None."""
    match = _RESIDUE.search(_CODE.sub("", text))
    return match.group(0).strip() if match else None


def echoes(prompt: str, response: str, min_words: int = 8, share: float = 0.8) -> bool:
    """Whether the response is the prompt, begins with all of it, or says little but the prompt over again.

    The last holds if the prompt's first word 5-gram is in the response and at least `share` of the response's
    5-grams are the prompt's. Without its beginning it is no echo: who is asked to correct or to shorten a text
    repeats the text, but not the request. Responses below `min_words` are compared whole: to answer "yes or
    no?" with "no" is no echo.
    """
    asked, answered = words(prompt), words(response)
    if not answered:
        return False
    if normalised(prompt) == normalised(response):
        return True
    if len(answered) < min_words or len(asked) < min_words:
        return False
    if answered[: len(asked)] == asked:
        return True
    known = [tuple(asked[i : i + 5]) for i in range(len(asked) - 4)]
    grams = [tuple(answered[i : i + 5]) for i in range(len(answered) - 4)]
    return known[0] in grams and sum(map(set(known).__contains__, grams)) >= share * len(grams)


def repetition(text: str, size: int = 4) -> float:
    """Share of the text's word `size`-grams that repeat an earlier one, in [0, 1); 0 for texts shorter than that."""
    tokens = words(text)
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def degenerate(text: str, max_repetition: float = 0.6, max_compression: float = 10.0, max_run: int = 60) -> str | None:
    """Why the text is a loop, or None.

    `repeats`: more than `max_repetition` of its word 4-grams are repeats (texts of 30 words or more);
    `one_line`: one line makes up half of 8 lines or more; `compresses`: zlib shrinks it by more than
    `max_compression` (texts of 400 bytes or more); `run`: one character `max_run` times on end.
    Rules of line and n-gram repetition follow Rae et al. 2021 (Gopher), section A1.1.
    """
    run = re.search(rf"([^\s\-=_*#.~])\1{{{max_run - 1},}}", text)
    if run:
        return f"run of {run.group(1)!r}"
    if len(words(text)) >= 30 and repetition(text) > max_repetition:
        return f"repeats {repetition(text):.0%} of its word 4-grams"
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) >= 8:
        line, count = Counter(lines).most_common(1)[0]
        if count * 2 >= len(lines) and any(c.isalnum() for c in line):
            return f"one line makes up {count} of {len(lines)}"
    data = text.encode("utf-8", "surrogatepass")
    if len(data) >= 400 and len(data) / len(zlib.compress(data)) > max_compression:
        return f"compresses {len(data) / len(zlib.compress(data)):.0f}-fold"
    return None
