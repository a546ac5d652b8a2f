"""Prompt templates of judges: versioned Jinja2 files, and hygiene of what is put into them.

A template file `templates/<name>.v<N>.jinja2` has the blocks `system` and `user`. Its identity is the hash of its
text and of all it includes: a changed template asks anew and is never served an old answer.

Texts under judgement are material, not instructions. They stand between fences that carry a hash of the pair,
which a response cannot know, and what a chat template or a verdict parser would take for its own marks
(`<|im_start|>`, `[INST]`, `[[A]]`, ...) is broken with a zero-width space: the text stays readable and
the request's form cannot change. Servers offer no way to send text that is never read as special tokens.

Templates put the context last: what comes before it is a prefix that the next request shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateSyntaxError

from schemas.errors import UsageError
from schemas.ids import hash_fields, hash_json
from schemas.messages import text_of
from schemas.tables import Row

FOLDER = Path(__file__).parent / "templates"
_ZERO_WIDTH = "\u200b"
_MARKS = re.compile(
    # A look-ahead, so that marks which overlap (`[[[A]]]`, `<|>`) are all found.
    r"(?=<[|｜]|[|｜]>"  # <|im_start|>, <|eot_id|>, <｜User｜>
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|gMASK|BOS|EOS)\]|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|mask|sop|eop|eod|start_of_turn|end_of_turn|think|thinking|verdict|answer|tool_call"
    r"|tool_response|(?:unused|extra_id_|reserved_)_?\d+)>"
    r"|\]~!?[be]|</?text\b|\[\[|\]\])(.)",
    re.IGNORECASE | re.DOTALL,
)
_INCLUDE = re.compile(r"""\{%\s*include\s+["']([^"']+)["']\s*%\}""")
_SUSPECT = re.compile(r"[<>|｜\[\]]")


def harmless(text: str) -> str:
    """The text with every control mark broken after its first character."""
    if not _SUSPECT.search(text):
        return text
    return _MARKS.sub(rf"\1{_ZERO_WIDTH}", text)


def fence(text: str, nonce: str) -> str:
    """The text, made harmless, between fences that only the template's author can write."""
    return f"<text id={nonce}>\n{harmless(text)}\n</text id={nonce}>"


class JudgeTemplate:
    """A template with its identity, which is the hash of its text with everything it includes in place.

    Args:
        name: `<name>.v<N>` of a file in `templates/`, or the path of a `.jinja2` file.

    Raises:
        UsageError: there is no such template, it has no `user` block, or its syntax is wrong.
    """

    def __init__(self, name: str) -> None:
        path = Path(name)
        folder, file = (path.parent, path.name) if path.suffix == ".jinja2" else (FOLDER, f"{name}.jinja2")
        text = _text(file, (folder, FOLDER))
        self.hash = hash_json(text)
        # Prompts are plain text: escaping for HTML would change what is judged.
        environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
        try:
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise UsageError(f"{file}, line {error.lineno}: {error.message}") from None
        if "user" not in self._template.blocks:
            raise UsageError(f"template {name!r} has no block named user")

    def messages(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The chat messages of a request: the blocks rendered with `values`, empty ones left out."""
        context = self._template.new_context(dict(values))
        rendered = [
            (role, "".join(self._template.blocks[role](context)).strip())
            for role in ("system", "user")
            if role in self._template.blocks
        ]
        return [{"role": role, "content": text} for role, text in rendered if text]


def nonce_of(pair: Row) -> str:
    """Five letters from the prompt and both responses: none of the texts can know them, and pairs that differ in their
    context alone share them, and with them the prefix of their requests. Letters cost fewer tokens than digits."""
    digest = hash_fields(*(text_of(pair[part]) for part in ("prompt", "response_a", "response_b")))
    return "".join(chr(ord("a") + int(digest[2 * i : 2 * i + 2], 16) % 26) for i in range(5))


def case(pair: Row, order: str, with_context: bool = True) -> dict[str, Any]:
    """What every template is given of a pair: fenced texts, the responses in the order shown."""
    nonce = nonce_of(pair)
    first, second = ("response_a", "response_b") if order == "ab" else ("response_b", "response_a")
    context = pair.get("context") if with_context else None
    return {
        "prompt": fence(text_of(pair["prompt"]), nonce),
        "context": fence(context, nonce) if context else None,
        "context_kind": pair.get("context_kind") or "criterion",
        "first": fence(text_of(pair[first]), nonce),
        "second": fence(text_of(pair[second]), nonce),
        "nonce": nonce,
    }


def shown_exemplar(exemplar: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled example as templates show it: texts harmless, the label as its letter."""
    letters = {"a": "A", "b": "B", "tie": "C"}
    texts = {key: harmless(str(exemplar[key])) for key in ("prompt", "response_a", "response_b")}
    return {**texts, "verdict": letters[exemplar["label"]], "note": harmless(str(exemplar.get("note") or ""))}


def _text(file: str, folders: Sequence[Path], within: tuple[str, ...] = ()) -> str:
    """The text of a template with the texts it includes in place: rendering then opens no further template."""
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None or file in within:
        known = sorted(p.stem for p in FOLDER.glob("[!_]*.jinja2"))
        problem = "includes itself" if file in within else f"does not exist; known: {', '.join(known)}"
        raise UsageError(f"judge template {file!r} {problem}")
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    return _INCLUDE.sub(lambda match: _text(match[1], folders, (*within, file)), text)
