"""What a model thought is told apart from what it says, wherever a server leaves the thought.

Servers put it into a field of its own (`reasoning`, `reasoning_content`) or leave it in the text between marks. A mark
that stands between quotation marks or backticks, or in a reply that is a JSON object, is a word about marks, not one.

- `<think>...</think>`: what stands between the marks is thought, wherever it stands.
- `...</think>` without an opening mark (templates that end with it, such as R1's): all before it is thought.
- `<think>...` without a closing mark: the reply was cut off, or went wrong, within a thought. All of it is thought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import orjson

from transforms.llm.request import Reply

_NAMES = r"(?:seed:)?(?:think|thinking|thought|thoughts)"
_OPEN = (
    rf"<{_NAMES}>"
    r"|\[THINK\]"  # Magistral
    r"|◁think▷"  # Kimi
    r"|<\|begin_of_thought\|>|<\|START_THINKING\|>"  # OpenThinker, Command A
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>"  # gpt-oss
)
_CLOSE = (
    rf"</{_NAMES}>"
    r"|\[/THINK\]"
    r"|◁/think▷"
    r"|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
)
_MARK = re.compile(
    rf"(?P<quote>[`'\"])(?:{_OPEN}|{_CLOSE})\\?(?P=quote)|(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE
)
_FIRST = re.compile(r"[<\[◁]")  # what every mark begins with


@dataclass(frozen=True)
class Parted:
    """A text without its thoughts.

    Attributes:
        text: what is said; the text itself, to the last blank, if it holds no mark.
        reasoning: the thoughts, in order; None if there is no mark.
        is_cut: whether a thought has no end; nothing is said then.
    """

    text: str
    reasoning: str | None = None
    is_cut: bool = False


def part(text: str) -> Parted:
    """Tell thoughts from what is said. Linear time; of what is said, nothing is changed by doing it again."""
    if not _FIRST.search(text) or _is_object(text):
        return Parted(text)
    said: list[str] = []
    thought: list[str] = []
    at, is_open, has_mark = 0, False, False
    for mark in _MARK.finditer(text):
        if mark["quote"]:
            continue
        has_mark = True
        before = text[at : mark.start()]
        at = mark.end()
        if is_open:
            thought.append(before)
            is_open = bool(mark["open"])
        elif mark["open"]:
            said.append(before)
            is_open = True
        else:  # a closing mark alone: all that seemed to be said was thought
            thought += [*said, before]
            said = []
    if not has_mark:
        return Parted(text)
    if is_open:
        return Parted("", _joined([*thought, *said, text[at:]]), is_cut=True)
    return Parted(_joined([*said, text[at:]]), _joined(thought))


def spoken(reply: Reply) -> Reply:
    """The reply with its thoughts in `reasoning` and nothing of them in `text`."""
    parted = part(reply.text)
    if parted.reasoning is None:
        return reply
    thoughts = [thought for thought in (reply.reasoning, parted.reasoning) if thought]
    return replace(reply, text=parted.text, reasoning="\n\n".join(thoughts))


def silence(reply: Reply) -> str | None:
    """Why an `ok` reply says nothing, in a sentence; None if it says something."""
    if reply.text.strip():
        return None
    ran_out = reply.finish_reason == "length"
    if reply.reasoning is None or (not reply.reasoning and not ran_out):
        if ran_out:
            return f"the reply was cut off after {reply.tokens_out} tokens; raise max_tokens"
        return f"the engine's reply is empty (finish_reason {reply.finish_reason})"
    if ran_out:
        return f"all {reply.tokens_out} tokens went into reasoning; raise max_tokens"
    return (
        f"the reply holds {len(reply.reasoning):,} characters of reasoning and no answer "
        f"(finish_reason {reply.finish_reason})"
    )


def _is_object(text: str) -> bool:
    """Whether the whole text is a JSON object: an answer, whose strings may speak of marks."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _joined(pieces: list[str]) -> str:
    # With a blank line between them, two pieces never form a mark.
    return "\n\n".join(stripped for piece in pieces if (stripped := piece.strip()))
