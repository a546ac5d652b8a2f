"""Message columns as trainers want them, and what must hold of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson
import polars as pl

from schemas.errors import DataError

MESSAGE_COLUMNS = ("prompt", "chosen", "rejected")
TOOL_CALLS = pl.List(
    pl.Struct(
        [
            pl.Field("id", pl.String),
            pl.Field("type", pl.String),
            pl.Field("function", pl.Struct([pl.Field("name", pl.String), pl.Field("arguments", pl.String)])),
        ]
    )
)
REPEATED = 40  # characters from which a prompt at the beginning of a response is no coincidence
REPEATED_SHARE = 0.2  # of the rows: fewer are answers that quote the question, more are a wrong format
ContextRule = Literal["system", "user", "column", "drop"]


@dataclass(frozen=True)
class Parts:
    """Which optional message fields occur anywhere in the rows; fields that never occur are not written."""

    name: bool
    tool_calls: bool
    media: bool

    @property
    def optional_fields(self) -> list[str]:
        """Names of the optional fields that occur."""
        return [name for name, occurs in vars(self).items() if occurs]


def inspected(rows: pl.LazyFrame, format_name: str) -> Parts:
    """Look through all rows once: refuse what would teach a trainer something false, find the optional fields.

    Raises:
        DataError: `chosen` equals `rejected`; a response begins with another turn than the assistant's; or both
            responses begin with the whole text of the prompt, or one of them does, the prompt being of `REPEATED`
            characters or more, in more than `REPEATED_SHARE` of the rows (trainers do not strip it, so it would be
            trained on twice).
    """
    content, role = pl.element().struct.field("content"), pl.element().struct.field("role")
    asked = pl.col("prompt").list.eval(content).list.join("\n").str.strip_chars()

    def first(column: str, field: pl.Expr) -> pl.Expr:
        return pl.col(column).list.eval(field).list.first()

    responses = ("chosen", "rejected")
    asks = asked.str.len_bytes() > 0
    repeats = [first(c, content).str.strip_chars_start().str.starts_with(asked) & asks for c in responses]
    long = asked.str.len_chars() >= REPEATED
    rules = {
        "chosen equals rejected": pl.col("chosen") == pl.col("rejected"),
        "chosen or rejected begins with another turn than the assistant's (a prompt repeated?)": pl.any_horizontal(
            first(c, role) != "assistant" for c in responses
        ),
        "chosen and rejected both begin with the text of the prompt": repeats[0] & repeats[1],
    }
    usual = {
        "chosen begins with the text of the prompt": repeats[0] & long,
        "rejected begins with the text of the prompt": repeats[1] & long,
    }
    first_of = rules | {
        rule: pl.when(broken.sum() > REPEATED_SHARE * pl.len()).then(broken) for rule, broken in usual.items()
    }
    field = pl.element().struct.field
    optional = {
        "name": field("name").is_not_null(),
        "tool_calls": field("tool_calls").is_not_null(),
        "media": field("media").list.len().fill_null(0) > 0,
    }
    facts = rows.select(
        *(pl.col("pair_id").filter(broken).first().alias(rule) for rule, broken in first_of.items()),
        *(
            pl.any_horizontal(pl.col(c).list.eval(test).list.any().any() for c in MESSAGE_COLUMNS).alias(name)
            for name, test in optional.items()
        ),
    ).collect(engine="streaming")
    for rule in first_of:
        if facts[rule][0] is not None:
            raise DataError(
                f"cannot export {format_name}: {rule} (first: pair {facts[rule][0]}); correct the source's format in "
                "the recipe (`strip_prompt: always` takes a repeated prompt off) and publish again"
            )
    return Parts(**{name: bool(facts[name][0]) for name in optional})


def refuse_media(parts: Parts, format_name: str) -> None:
    """Raise if messages have attachments, which this format cannot hold."""
    if parts.media:
        raise DataError(
            f"cannot export {format_name}: some messages have media and this format holds text and tool calls only; "
            "use jsonl or datasets, which keep them"
        )


def messages(column: str, parts: Parts) -> pl.Expr:
    """A column of messages with role, content and the optional fields that occur; tool calls become objects."""
    field = pl.element().struct.field
    fields = [field("role"), field("content")]
    if parts.name:
        fields.append(field("name"))
    if parts.tool_calls:
        uniform = field("tool_calls").map_elements(_uniform_calls, return_dtype=pl.String, skip_nulls=True)
        fields.append(uniform.str.json_decode(TOOL_CALLS))
    if parts.media:
        fields.append(field("media"))
    return pl.col(column).list.eval(pl.struct(fields))


def with_context(rule: ContextRule, template: str, parts: Parts) -> pl.Expr:
    """The prompt under its context.

    `system`: appended to the system message, or a system message of its own before the prompt. `user`: put before
    the first message's text. `column` and `drop` leave the prompt as it is. `template` holds one `{context}`.
    """
    prompt = messages("prompt", parts)
    if rule in ("column", "drop"):
        return prompt
    first = prompt.list.first()
    role, content = first.struct.field("role"), first.struct.field("content")
    before, _, after = template.partition("{context}")
    context = pl.concat_str(pl.lit(before), pl.col("context"), pl.lit(after))
    rest = prompt.list.slice(1)
    if rule == "user":
        joined = first.struct.with_fields(content=pl.concat_str(context, content, separator="\n\n"))
        changed = pl.concat_list(joined, rest)
    else:
        joined = first.struct.with_fields(content=pl.concat_str(content, context, separator="\n\n"))
        alone = first.struct.with_fields(
            role=pl.lit("system"), content=context, **{name: pl.lit(None) for name in parts.optional_fields}
        )
        changed = pl.when(role == "system").then(pl.concat_list(joined, rest)).otherwise(pl.concat_list(alone, prompt))
    return pl.when(pl.col("context").is_null()).then(prompt).otherwise(changed).alias("prompt")


def _uniform_calls(text: str) -> str:
    """A message's tool calls with `arguments` as JSON text, as OpenAI sends them, so that all rows have one type.

    Raises:
        DataError: the text is not a list of calls with a function name.
    """
    calls: Any = orjson.loads(text)
    try:
        uniform = [
            {
                "id": call.get("id"),
                "type": call.get("type", "function"),
                "function": {"name": call["function"]["name"], "arguments": _text(call["function"].get("arguments"))},
            }
            for call in calls
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"tool calls are not a list of {{function: {{name, arguments}}}}: {text[:200]}") from error
    return orjson.dumps(uniform).decode()


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
