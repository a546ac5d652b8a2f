"""What changed from one version to another, row by row, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from schemas.errors import UsageError
from transforms.annotate.display import beginnings
from transforms.publish.read import Version
from transforms.publish.recompute import FUSER, POLICY, StoredPlugin, stored_plugin
from transforms.publish.rows import STAGE
from transforms.publish.texts import Texts, texts_of
from transforms.text.notebook import html
from transforms.text.plain import cell

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS = 20  # changed rows that are shown with their texts
CHANGES = ("added", "removed", "flipped", "split", "margin", "other")
REFIT = "votes unchanged; weights refitted"
SLICES = ("kind", "language", "origin", "context_kind", "user_id", "group_id", "model_chosen", "model_rejected")
_NEW, _GONE = "new pair", "pair is gone"
_COMPARED = ("chosen_is", "split", "margin", "p_chosen", "weight", "action", "decided_by")
_VOTE = ("label", "p_a", "score_a", "score_b")
_COLUMNS = {
    "pair_id": pl.String,
    "change": pl.String,
    "reason": pl.String,
    "slice": pl.String,
    **{f"{side}_{c}": t for side in ("old", "new") for c, t in (("chosen_is", pl.String), ("split", pl.String))},
    "old_margin": pl.Float64,
    "new_margin": pl.Float64,
}


@dataclass(frozen=True)
class Diff:
    """`changes`: pair_id, change, reason, slice, and old and new chosen_is, split and margin, sorted by pair_id.

    A row that changed in several ways stands under the first of `CHANGES` that applies; `unchanged` counts the rest.
    `texts` are those of the first rows, for people to know them by.
    """

    old: str
    new: str
    unchanged: int
    changes: pl.DataFrame
    texts: Mapping[str, Texts] = field(default_factory=dict)

    def summary(self) -> pl.DataFrame:
        """Rows by change and reason."""
        return _counted(self.changes, "change", "reason")

    def by_slice(self) -> pl.DataFrame:
        """Rows by slice and change."""
        return _counted(self.changes, "slice", "change")

    def to_dict(self, limit: int | None = None) -> dict[str, Any]:
        """For `--json`; `limit` bounds the rows listed."""
        rows = self.changes if limit is None else self.changes.head(limit)
        return {
            "old": self.old,
            "new": self.new,
            "unchanged": self.unchanged,
            "changed": self.changes.height,
            "by_reason": self.summary().to_dicts(),
            "by_slice": self.by_slice().to_dicts(),
            "rows": rows.to_dicts(),
        }

    def _repr_html_(self) -> str:
        return html(render(self))


def diff(
    old: Version, new: Version, margin_tolerance: float = 1e-6, slice_by: str = "kind", n_texts: int = ROWS
) -> Diff:
    """Compare two versions.

    Reasons: a pair that was added is new, or was rejected before; one that was removed is gone, or is rejected now. A
    split moves if the memory of the old version was not obeyed. Any other change comes from votes that were added,
    removed or changed (voters named), from the source's label, or from a fuser or a policy that has other settings or
    was fitted anew. A policy that changed is named beside any of these if the action changed.

    Args:
        old: the earlier version.
        new: the later one.
        margin_tolerance: margins closer than this count as equal.
        slice_by: column of the rows to summarise by, one of `SLICES`.
        n_texts: of how many changed rows the texts are read.

    Raises:
        UsageError: there is no such slice.
    """
    if slice_by not in SLICES:
        raise UsageError(f"rows cannot be summarised by {slice_by!r}; known: {', '.join(SLICES)}")
    columns = ["pair_id", *_COMPARED, pl.col(slice_by).fill_null("unknown").alias("slice")]
    before, after = (v.scan("rows").select(columns).collect(engine="streaming") for v in (old, new))
    joined = before.join(after, on="pair_id", how="full", coalesce=True, suffix="_new")
    marked = joined.with_columns(change=_change(margin_tolerance), slice=pl.coalesce("slice_new", "slice"))
    changed = marked.filter(pl.col("change").is_not_null())
    reasons = pl.concat(
        [
            _presence(changed, "added", old, _NEW, "was rejected"),
            _presence(changed, "removed", new, _GONE, "is rejected"),
            _splits(changed.filter(pl.col("change") == "split"), old, new),
            _judged(changed.filter(pl.col("change").is_in(["flipped", "margin", "other"])), old, new),
        ]
    )
    policy = _settings("policy", stored_plugin(old, POLICY), stored_plugin(new, POLICY))
    if policy:
        decided = changed.filter(pl.col("action").ne_missing(pl.col("action_new")))["pair_id"].implode()
        told = pl.col("reason").str.contains(policy, literal=True) | pl.col("reason").is_in([_NEW, _GONE])
        also = pl.col("pair_id").is_in(decided) & ~told
        named = pl.when(also).then(pl.format("{}; {}", "reason", pl.lit(policy))).otherwise("reason")
        reasons = reasons.with_columns(reason=named)
    values = {
        f"{side}_{c}": pl.col(c + suffix)
        for side, suffix in (("old", ""), ("new", "_new"))
        for c in ("chosen_is", "split", "margin")
    }
    result = changed.with_columns(**values).join(reasons, on="pair_id", how="left").select(list(_COLUMNS))
    result = result.sort("pair_id")
    first = result["pair_id"].head(n_texts).to_list()
    texts = {**texts_of(old, first), **texts_of(new, first)}
    return Diff(old.manifest.label, new.manifest.label, marked.height - changed.height, result, texts)


def render(diff: Diff, limit: int = ROWS, wide: bool = True) -> RenderableType:
    """Summaries and the first `limit` rows as tables for a terminal, with all columns and whole ids if `wide`."""
    from rich.console import Group

    from transforms.text.table import TEXT, short, text_table

    title = cell(f"{diff.old} → {diff.new}: {diff.changes.height:,} rows changed, {diff.unchanged:,} did not")
    parts: list[RenderableType] = [title]
    for name, frame in (("By reason", diff.summary()), ("By slice", diff.by_slice())):
        parts.append(text_table(frame.columns, frame.rows(), title=name))
    rows = []
    for r in diff.changes.head(limit).iter_rows(named=True):
        moved = [_arrow(r, c) for c in ("chosen_is", "split", "margin")]
        text = "\n".join(beginnings(*diff.texts[r["pair_id"]])) if r["pair_id"] in diff.texts else ""
        rows.append((short(r["pair_id"], wide), r["change"], r["reason"], *moved, text))
    columns = ("pair", "change", "reason", "chosen", "split", "margin", TEXT)
    head = f"First {limit} rows"
    return Group(*parts, text_table(columns, rows, title=head, wide=wide, wide_only=("split", "margin")))


def _change(tolerance: float) -> pl.Expr:
    """The first of `CHANGES` that applies; null if nothing changed."""

    def differs(column: str) -> pl.Expr:
        return pl.col(column).ne_missing(pl.col(f"{column}_new"))

    return (
        pl.when(pl.col("split").is_null())
        .then(pl.lit("added"))
        .when(pl.col("split_new").is_null())
        .then(pl.lit("removed"))
        .when(differs("chosen_is"))
        .then(pl.lit("flipped"))
        .when(differs("split"))
        .then(pl.lit("split"))
        .when((pl.col("margin") - pl.col("margin_new")).abs() > tolerance)
        .then(pl.lit("margin"))
        .when(differs("action") | differs("decided_by") | ((pl.col("weight") - pl.col("weight_new")).abs() > tolerance))
        .then(pl.lit("other"))
    )


def _presence(changed: pl.DataFrame, change: str, other: Version, absent: str, rejected: str) -> pl.DataFrame:
    """Why a pair is in one version only: what the other version says of it."""
    ids = changed.filter(pl.col("change") == change).select("pair_id")
    rejects = (
        other.scan("rejects")
        .filter(pl.col("stage") == STAGE)
        .select(pair_id="record_id", rejection="reason")
        .join(ids.lazy(), on="pair_id", how="semi")
        .collect(engine="streaming")
    )
    reason = (
        pl.when(pl.col("rejection").is_null())
        .then(pl.lit(absent))
        .otherwise(pl.format("{}: {}", pl.lit(rejected), "rejection"))
    )
    return ids.join(rejects, on="pair_id", how="left").select("pair_id", reason=reason)


def _votes(changed: pl.DataFrame, old: Version, new: Version) -> pl.DataFrame:
    """Which voters' votes on the changed pairs arrived, went or changed."""
    ids = changed.lazy().select("pair_id")
    before, after = (
        v.scan("votes").select("vote_id", "pair_id", "voter", *_VOTE).join(ids, on="pair_id", how="semi")
        for v in (old, new)
    )
    both = before.join(after, on="vote_id", how="full", suffix="_new")
    what = (
        pl.when(pl.col("vote_id").is_null())
        .then(pl.lit("added"))
        .when(pl.col("vote_id_new").is_null())
        .then(pl.lit("removed"))
        .when(pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_new")) for c in _VOTE))
        .then(pl.lit("changed"))
    )
    moved = (
        both.select(pair_id=pl.coalesce("pair_id", "pair_id_new"), voter=pl.coalesce("voter", "voter_new"), what=what)
        .filter(pl.col("what").is_not_null())
        .group_by("pair_id", "what")
        .agg(pl.col("voter").unique().sort())
        .select("pair_id", text=pl.format("votes {}: {}", "what", pl.col("voter").list.join(", ")))
        .group_by("pair_id")
        .agg(pl.col("text").sort())
        .select("pair_id", reason=pl.col("text").list.join("; "))
        .collect(engine="streaming")
    )
    return changed.select("pair_id").join(moved, on="pair_id", how="left")


def _splits(changed: pl.DataFrame, old: Version, new: Version) -> pl.DataFrame:
    """Why a prompt has another split: what the memories of both versions say of it."""
    prompts = old.scan("pairs").join(changed.lazy().select("pair_id"), on="pair_id", how="semi")
    remembered = prompts.select("pair_id", "prompt_id")
    for side, version in (("old", old), ("new", new)):
        memory = version.scan("splits").select("prompt_id", pl.col("split").fill_null("none").alias(side))
        remembered = remembered.join(memory, on="prompt_id", how="left")
    texts = [pl.lit(text) for text in (old.manifest.label, new.manifest.label)]
    reason = pl.format(
        "split moved: {} says {}, {} says {}",
        texts[0],
        pl.col("old").fill_null("nothing"),
        texts[1],
        pl.col("new").fill_null("nothing"),
    )
    reasons = remembered.select("pair_id", reason=reason).collect(engine="streaming")
    return changed.select("pair_id").join(reasons, on="pair_id", how="left")


def _judged(changed: pl.DataFrame, old: Version, new: Version) -> pl.DataFrame:
    """Votes, source's label, fuser, policy or rule of the weights: the first of these that changed."""
    refit = _settings("fuser", stored_plugin(old, FUSER), stored_plugin(new, FUSER)) or REFIT
    decided = (
        _settings("policy", stored_plugin(old, POLICY), stored_plugin(new, POLICY))
        or "posterior unchanged; policy fitted anew"
    )
    ids = changed.lazy().filter(pl.col("change") == "other").select("pair_id")
    sides = []
    for version in (old, new):
        labels = version.scan("pairs").select("pair_id", "source_label")
        verdicts = version.scan("verdicts").select("pair_id", "p_a", "p_tie", "contributions")
        sides.append(ids.join(verdicts, on="pair_id", how="left").join(labels, on="pair_id", how="left"))
    both = sides[0].join(sides[1], on="pair_id", suffix="_new").collect(engine="streaming")

    def differs(column: str) -> pl.Expr:
        return pl.col(column).ne_missing(pl.col(f"{column}_new"))

    same = both.select(
        "pair_id",
        source=differs("source_label"),
        verdict=pl.any_horizontal(differs(c) for c in ("p_a", "p_tie", "contributions")),
    )
    why = (
        pl.when(pl.col("source"))
        .then(pl.lit("the source's label changed"))
        .when(pl.col("change") != "other")
        .then(pl.lit(refit))
        .when(pl.col("verdict"))
        .then(pl.lit(refit))
        .when(pl.col("action").ne_missing(pl.col("action_new")))
        .then(pl.lit(decided))
        .otherwise(pl.lit("posterior unchanged; the rule of the weights changed"))
    )
    votes = _votes(changed, old, new)
    return (
        changed.select("pair_id", "change", "action", "action_new")
        .join(votes, on="pair_id", how="left")
        .join(same, on="pair_id", how="left")
        .select("pair_id", reason=pl.coalesce("reason", why))
    )


def _settings(what: str, old: StoredPlugin | None, new: StoredPlugin | None) -> str | None:
    """How a fuser or policy is configured otherwise; None if it is not, or if a version does not hold it."""
    if old is None or new is None or (old.plugin, old.settings) == (new.plugin, new.settings):
        return None
    if old.plugin != new.plugin:
        return f"{what} changed: {old.plugin} → {new.plugin}"
    names = sorted({*old.settings, *new.settings})
    moved = [n for n in names if old.settings.get(n) != new.settings.get(n)]
    return f"{what} changed: " + ", ".join(f"{n} {old.settings.get(n)} → {new.settings.get(n)}" for n in moved)


def _counted(changes: pl.DataFrame, first: str, second: str) -> pl.DataFrame:
    return (
        changes.group_by(first, second).agg(rows=pl.len()).sort("rows", first, second, descending=[True, False, False])
    )


def _arrow(row: dict[str, Any], column: str) -> str:
    old, new = (f"{v:.3f}" if isinstance(v := row[f"{side}_{column}"], float) else v for side in ("old", "new"))
    return str(old) if old == new else f"{old or '–'} → {new or '–'}"
