"""Why a pair has its label: every vote, what it added to the log-odds, the sum, and the rule that decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from schemas.errors import UsageError
from transforms.annotate.display import page_text
from transforms.publish.calibration_source import RESTS_ON
from transforms.publish.recompute import TOLERANCE, StoredPlugin, because_of, weight_of
from transforms.publish.texts import Texts
from transforms.text.notebook import html
from transforms.text.plain import beginning, cell

if TYPE_CHECKING:
    from rich.console import RenderableType


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VoteLine(_Frozen):
    """One vote as it was cast."""

    vote_id: str
    voter: str
    group: str
    kind: str
    order: str
    sample: int
    label: str
    p_a: float | None
    score_a: float | None
    score_b: float | None
    rationale: str | None
    detail: str | None


class Contribution(_Frozen):
    """What one voter's votes added to the log-odds of "a is better", and what the fuser knows of the voter."""

    voter: str
    n_votes: int
    labels: str
    log_odds: float
    cumulative: float  # log-odds after this voter, counted from the prior in the order listed
    reliability: dict[str, Any] | None  # what the fuser's model knows of it: its weight, its accuracy, ...


_UNKNOWN = "unknown"


class Explanation(_Frozen):
    """A verdict with its arithmetic done again by hand: `p_a` = 1 / (1 + exp(-(prior + sum of contributions)))."""

    pair_id: str
    prompt_id: str
    origin: str
    origin_ref: str | None
    model_a: str | None
    model_b: str | None
    prompt: str | None  # as people see it; None where the texts are not known
    response_a: str | None
    response_b: str | None
    source_label: str | None
    votes: list[VoteLine]
    prior: float
    contributions: list[Contribution]
    log_odds: float
    p_a: float
    p_a_recorded: float
    agrees: bool  # the recomputed posterior is the recorded one
    p_tie: float
    label: str
    margin: float
    stronger_than: float | None  # share of the published rows whose margin is smaller; None if there are none
    certainty: float
    noise: float | None
    action: str
    reasons: list[str]
    rule: str  # one sentence: how posterior became action
    calibrated_by: str | None  # what the probabilities rest on: people, agreement or nothing; "unknown" in old versions
    fuser: str | None  # the plug-in behind the posterior, if it is known
    policy: str | None  # the plug-in that decided
    thresholds: dict[str, Any]  # its settings, and what it had learned of the whole

    def _repr_html_(self) -> str:
        return html(render(self))


def explain(
    pair_id: str,
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    verdicts: pl.DataFrame,
    fuser: StoredPlugin | None = None,
    policy: StoredPlugin | None = None,
    published: Iterable[pl.LazyFrame] | None = None,
    texts: Texts | None = None,
) -> Explanation:
    """Explain one pair from the tables of a workspace or from the evidence of a version.

    Args:
        pair_id: the pair.
        pairs: `pairs` rows; a version's have no texts.
        votes: `votes` rows; `raw` and `ms` are not needed.
        verdicts: `verdicts` rows.
        fuser: what fused them; each voter is shown with what its model knows of it.
        policy: what decided; its thresholds are shown.
        published: `margin` of the published rows, in parts, with which the pair's is compared.
        texts: the pair's, where `pairs` has none.

    Raises:
        UsageError: the pair is unknown or has no verdict yet.
    """
    pair = _one(pairs, pair_id, f"no pair {pair_id!r} here; ids have 32 hex digits, as in the column pair_id")
    verdict = _one(verdicts, pair_id, f"pair {pair_id} has no verdict yet; run the fuse stage")
    total = verdict["prior"]
    contributions = []
    for c in sorted(verdict["contributions"], key=lambda c: (-abs(c["log_odds"]), c["voter"])):
        total += c["log_odds"]
        contributions.append(
            Contribution(
                voter=c["voter"],
                n_votes=c["n_votes"],
                labels=c["label"],
                log_odds=c["log_odds"],
                cumulative=total,
                reliability=weight_of(fuser.model if fuser else None, c["voter"]),
            )
        )
    log_odds = math.fsum([verdict["prior"], *(c.log_odds for c in contributions)])
    p_a = (1 + math.tanh(log_odds / 2)) / 2  # the logistic function, without overflow
    cast = votes.filter(pl.col("pair_id") == pair_id).sort("voter", "order", "sample", "vote_id")
    if texts is None and {"prompt", "response_a", "response_b"} <= pair.keys():
        texts = pair["prompt"], pair["response_a"], pair["response_b"]
    prompt, a, b = (None, None, None) if texts is None else (page_text(part) for part in texts)
    return Explanation(
        prompt=prompt,
        response_a=a,
        response_b=b,
        **{k: pair[k] for k in ("pair_id", "prompt_id", "origin", "origin_ref", "model_a", "model_b", "source_label")},
        **{k: verdict[k] for k in ("prior", "p_tie", "label", "margin", "certainty", "noise", "action", "reasons")},
        stronger_than=None if published is None else weaker_share(published, verdict["margin"]),
        votes=[_vote(v) for v in cast.iter_rows(named=True)],
        contributions=contributions,
        log_odds=log_odds,
        p_a=p_a,
        p_a_recorded=verdict["p_a"],
        agrees=abs(p_a - verdict["p_a"]) <= TOLERANCE,
        rule=decision_rule(verdict, policy),
        calibrated_by=fuser.model.get("calibrated_by", _UNKNOWN) if fuser else _UNKNOWN,
        fuser=fuser.plugin if fuser else None,
        policy=policy.plugin if policy else None,
        thresholds={**policy.settings, **{k: v for k, v in policy.model.items() if k != "predicted"}} if policy else {},
    )


def weaker_share(published: Iterable[pl.LazyFrame], margin: float) -> float | None:
    """Share of the rows whose margin is smaller in size, equal ones counting half; None if there are no rows.

    One pass over one column, whatever their number.
    """
    size = pl.col("margin").abs()
    counts = (pl.len(), (size < abs(margin)).sum(), (size == abs(margin)).sum())
    n, weaker, equal = 0, 0, 0
    for part in published:
        found = part.select(c.alias(str(i)) for i, c in enumerate(counts)).collect(engine="streaming").row(0)
        n, weaker, equal = n + found[0], weaker + found[1], equal + found[2]
    return (weaker + equal / 2) / n if n else None


def decision_rule(verdict: Mapping[str, Any], policy: StoredPlugin | None = None) -> str:
    """One sentence from posterior to action; with the policy, the comparison that decided."""
    label, certainty = verdict["label"], verdict["certainty"]
    posterior = f"label {label} with probability {certainty:.3f}"
    because = f" ({', '.join(verdict['reasons'])})" if verdict["reasons"] else ""
    done = {
        "keep": "published as it is",
        "flip": "published against the source's label",
        "soften": "published with a soft label",
        "drop": "left out",
        "tie": "left out: neither response is better",
        "route": "sent to a human",
    }[verdict["action"]]
    compared = because_of(policy, verdict)
    return f"{posterior}: {done}{because}{f'; {compared}' if compared else ''}"


def render(explanation: Explanation, wide: bool = True) -> RenderableType:
    """The explanation as tables for a terminal, with all columns if `wide`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from transforms.text.table import text_table

    e = explanation
    head = Table.grid(padding=(0, 2, 0, 0))
    for name, value in (
        ("pair", e.pair_id),
        ("prompt", e.prompt_id),
        *((name, beginning(text)) for name, text in _texts(e) if text is not None),
        ("made by", " ".join(filter(None, [e.origin, e.origin_ref]))),
        ("models", f"a = {e.model_a or 'unknown'}, b = {e.model_b or 'unknown'}"),
        ("source says", e.source_label or "nothing"),
        ("decision", e.rule),
        ("probabilities", RESTS_ON.get(e.calibrated_by, "it is not known what calibrates them")),
        ("strength", _strength(e)),
        ("decided by", f"{e.policy}: {_listed(e.thresholds)}" if e.policy else "a policy that is not known here"),
    ):
        head.add_row(Text(name, style="bold"), cell(value))
    cast = [
        (v.voter, v.kind, v.order, v.label, v.p_a, v.score_a, v.score_b, beginning(v.detail or v.rationale or ""))
        for v in e.votes
    ]
    columns = ("voter", "kind", "order", "label", "P(a)", "score a", "score b", "why")
    votes = text_table(columns, cast, title="Votes", wide=wide, wide_only=("score a", "score b"))
    added: list[tuple[Any, ...]] = [("prior", None, "", "", f"{e.prior:+.4f}", f"{e.prior:+.4f}")]
    added += [
        (c.voter, c.n_votes, c.labels, _weight(c.reliability), f"{c.log_odds:+.4f}", f"{c.cumulative:+.4f}")
        for c in e.contributions
    ]
    title = f"Arithmetic of {e.fuser}" if e.fuser else "Arithmetic"
    sums = text_table(("voter", "votes", "labels", "weight", "log-odds", "sum"), added, title=title)
    verdict = "equal to" if e.agrees else "NOT equal to"
    result = Text(
        f"P(a is better) = 1 / (1 + exp({-e.log_odds:+.4f})) = {e.p_a:.6f}, {verdict} the recorded {e.p_a_recorded:.6f}"
    )
    return Group(head, Text(), votes, Text(), sums, result)


def _texts(e: Explanation) -> tuple[tuple[str, str | None], ...]:
    return ("", e.prompt), ("response a", e.response_a), ("response b", e.response_b)


def _strength(e: Explanation) -> str:
    size = f"margin {abs(e.margin):.3f}"
    if e.stronger_than is None:
        return size
    return f"{size}, stronger than {e.stronger_than:.0%} of the published rows"


def _vote(v: Mapping[str, Any]) -> VoteLine:
    names = [n for n in VoteLine.model_fields if n != "group"]
    return VoteLine(group=v["voter_group"], **{n: v[n] for n in names})


def _one(frame: pl.DataFrame, pair_id: str, missing: str) -> dict[str, Any]:
    rows = frame.filter(pl.col("pair_id") == pair_id)
    if rows.is_empty():
        raise UsageError(missing)
    return rows.row(0, named=True)


def _weight(known: Mapping[str, Any] | None) -> str:
    """A voter's weight in a few words: what its vote alone adds, and how often it was right."""
    if not known:
        return ""
    alone = known.get("log_odds")
    if isinstance(alone, Mapping):
        text = ", ".join(f"{vote} {value:+.2f}" for vote, value in alone.items() if isinstance(value, float))
    elif isinstance(alone, float):
        text = f"±{alone:.2f} a vote"
    else:
        text = _listed({k: v for k, v in known.items() if not isinstance(v, str)})
    accuracy = known.get("accuracy")
    return f"{text} (right {accuracy:.0%})" if isinstance(accuracy, float) else text


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())[:200]
