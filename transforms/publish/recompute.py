"""A version's verdicts made again from the version alone: from its votes, its fuser's model and its policy.

The evidence holds all settings of fuser and policy, those at their default too. Verdicts are made for about
`PAIRS_AT_ONCE` pairs at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import UsageError
from schemas.ids import canonical_json
from schemas.tables import PREFERENCES
from transforms.fusers.base import Fuser
from transforms.plugins.base import Plugin
from transforms.plugins.registry import find
from transforms.policies.base import Policy
from transforms.publish.read import Version
from transforms.stats.controls import known_label
from transforms.stats.label_noise import decision_frame

FUSER, POLICY = "evidence/fuser.json", "evidence/policy.json"
PAIRS_AT_ONCE = 200_000
TOLERANCE = 1e-6
_NUMBERS = ("p_a", "p_tie", "margin", "certainty", "disagreement", "noise", "prior")
P = TypeVar("P", bound=Plugin)
_WORDS = ("label", "action", "reasons", "n_votes", "n_human")


class StoredPlugin(BaseModel):
    """A fuser or a policy as it decided: which plug-in, all its settings, and what it had learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugin: str
    name: str
    settings: dict[str, Any]
    seed: int
    identity: list[Any]  # name and version of the plug-in, its settings, its package if it is not ours
    model: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


def described(plugin: Plugin) -> dict[str, Any]:
    """The fields of `StoredPlugin` but the model, of a plug-in that was built from a recipe."""
    settings = plugin.config.model_dump(mode="json")
    package = [] if plugin.distribution is None else [list(plugin.distribution)]
    return {
        "plugin": plugin.plugin_name,
        "name": plugin.name,
        "settings": settings,
        "seed": plugin.seed,
        "identity": [plugin.plugin_name, plugin.version, settings, *package],
    }


def stored_plugin(version: Version, file: str) -> StoredPlugin | None:
    """The version's fuser (`FUSER`) or policy (`POLICY`), or None if it holds none."""
    data = version.document(file)
    return None if data is None else StoredPlugin.model_validate_json(data)


def rebuilt(version: Version, file: str, kind: type[P]) -> tuple[P, dict[str, Any]]:
    """The version's fuser or policy as a plug-in, and its model.

    Raises:
        UsageError: the version holds none, or this code's plug-in of that name works in another way; the text says so.
    """
    known = stored_plugin(version, file)
    if known is None:
        raise UsageError(f"the version holds no {file}")
    plugin = restored(known, file, kind)
    now = described(plugin)["identity"]
    # Settings that this code has and the version's did not are at their default, the behaviour of that time.
    if [now[:2], now[3:]] != [known.identity[:2], known.identity[3:]]:
        raise UsageError(f"{known.plugin} of {file} has another version in this code ({version.manifest.code_version})")
    return plugin, known.model


def restored(known: StoredPlugin, file: str, kind: type[P]) -> P:
    """The plug-in itself.

    Raises:
        UsageError: this code has no plug-in of that name, or one with other settings.
    """
    cls = find(kind, known.plugin)
    try:
        config = cls.Config.model_validate(known.settings)
    except ValidationError as error:
        raise UsageError(f"{known.plugin} of {file} has other settings in this code: {error}") from None
    return cls(known.name, config, known.seed)


def parts(version: Version, at_once: int = PAIRS_AT_ONCE) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    """Pairs, votes and verdicts of the version, about `at_once` pairs at a time, cut by their ids."""
    n = max(1, -(-version.manifest.n_pairs // at_once))
    bounds = [f"{(i << 32) // n:08x}" for i in range(n)]
    for low, high in zip(bounds, [*bounds[1:], "g"], strict=True):
        inside = (pl.col("pair_id") >= low) & (pl.col("pair_id") < high)
        pairs, votes, verdicts = (version.scan(table).filter(inside) for table in ("pairs", "votes", "verdicts"))
        yield pairs.collect(), votes.drop("rationale", "detail").collect(), verdicts.collect()


def miscounted_votes(votes: pl.DataFrame, verdicts: pl.DataFrame) -> Iterator[str]:
    """What verdicts wrongly say about their votes, at most one problem per pair and rule.

    Every verdict's `n_votes` and `n_human` are its pair's valid votes, and what a contribution says of its voter's
    votes is what that voter cast.
    """
    valid = votes.filter(pl.col("label").is_in(PREFERENCES))
    cast = valid.group_by("pair_id").agg(
        pl.len().alias("cast"), (pl.col("kind") == "human").sum().alias("human").cast(pl.UInt32)
    )
    counted = verdicts.select("pair_id", "n_votes", "n_human").join(cast, on="pair_id", how="left")
    for column, stated, whose in (("cast", "n_votes", "votes"), ("human", "n_human", "votes of people")):
        there = pl.col(column).fill_null(0)
        for pair, n, n_cast in counted.filter(pl.col(stated) != there).select("pair_id", stated, there).iter_rows():
            yield f"pair {pair}: its verdict counts {n} {whose}, the version holds {n_cast}"
    labels = valid.group_by("pair_id", "voter").agg(pl.col("label").sort().alias("cast_labels"))
    pieces = _exploded(verdicts).filter(pl.col("n_votes") > 0).join(labels, on=["pair_id", "voter"], how="left")
    wrong = pieces.filter(
        pl.col("label").str.split("+").list.sort().ne_missing(pl.col("cast_labels"))
        | (pl.col("n_votes") != pl.col("cast_labels").list.len().fill_null(0))
    )
    for pair, voter, label in wrong.select("pair_id", "voter", "label").iter_rows():
        yield f"pair {pair}: its verdict says that voter {voter} voted {label}, but the votes do not"


class Recomputation:
    """The version's fuser and policy, ready to decide again.

    Raises:
        UsageError: they are not in the version, or this code would decide in another way.
    """

    def __init__(self, version: Version) -> None:
        self._fuser, self._model = rebuilt(version, FUSER, Fuser)
        self._policy, self._thresholds = rebuilt(version, POLICY, Policy)

    def verdicts(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
        """The verdicts on `pairs`, as stage fuse makes them."""
        pairs = pairs.with_columns(known_label())
        fused = self._fuser.apply(self._model, votes, pairs)
        return self._policy.decide(self._thresholds, decision_frame(fused, pairs, votes))

    def problems(self, pairs: pl.DataFrame, votes: pl.DataFrame, verdicts: pl.DataFrame) -> Iterator[str]:
        """Verdicts that do not follow from the votes."""
        again = self.verdicts(pairs.join(verdicts, on="pair_id", how="semi"), votes)
        both = verdicts.join(again, on="pair_id", how="left", suffix="_again")
        for column in (*_WORDS, *_NUMBERS):
            old, new = pl.col(column), pl.col(f"{column}_again")
            differs = old.ne_missing(new)
            if column in _NUMBERS:
                differs &= ((old - new).abs() > TOLERANCE).fill_null(value=True)
            for pair, stated, recomputed in both.filter(differs).select("pair_id", old, new).iter_rows():
                yield f"pair {pair}: {column} is {stated} but votes and model give {recomputed}"
        pieces = _exploded(verdicts).join(
            _exploded(again), on=["pair_id", "voter"], how="full", coalesce=True, suffix="_again"
        )
        apart = ((pl.col("log_odds") - pl.col("log_odds_again")).abs() > TOLERANCE).fill_null(value=True)
        for pair, voter, stated, recomputed in (
            pieces.filter(apart).select("pair_id", "voter", "log_odds", "log_odds_again").iter_rows()
        ):
            yield f"pair {pair}: voter {voter} adds {stated} but votes and model give {recomputed}"


def weight_of(model: Mapping[str, Any] | None, voter: str) -> dict[str, Any] | None:
    """What a fuser's model knows of a voter, whichever fuser it is; None if it does not know it.

    Fusers that tell a voter's orders apart know it as `voter|ab` and `voter|ba`.
    """
    known: dict[str, Any] = {}
    for table in ("voters", "humans", "weights", "errors", "abilities"):
        entries = (model or {}).get(table)
        if not isinstance(entries, Mapping):
            continue
        for name in (voter, f"{voter}|ab", f"{voter}|ba"):
            if name in entries:
                value = entries[name]
                key = name.removeprefix(voter).lstrip("|")
                known |= value if isinstance(value, Mapping) and not key else {f"{table} {key}".strip(): value}
    return known or None


def because_of(policy: StoredPlugin | None, verdict: Mapping[str, Any]) -> str | None:
    """The comparison with a threshold that decided a verdict; None if the policy or this code cannot say."""
    if policy is None:
        return None
    try:
        plugin = restored(policy, POLICY, Policy)
    except UsageError:
        return None
    return plugin.because(policy.model, verdict)


def _exploded(verdicts: pl.DataFrame) -> pl.DataFrame:
    """pair_id, voter, n_votes, label and log_odds of every contribution."""
    long = verdicts.select("pair_id", "contributions").explode("contributions").drop_nulls("contributions")
    return long.unnest("contributions")
