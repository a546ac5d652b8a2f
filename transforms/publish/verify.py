"""Prove a version: its bytes, its rows, its arithmetic and its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import polars as pl
import scipy
from pydantic import BaseModel, ConfigDict

from schemas.errors import UsageError
from schemas.ids import hash_fields, hash_json
from schemas.manifest import MANIFEST
from schemas.messages import messages_id, text_of
from schemas.tables import SPLITS, DatasetRows, Pairs, Rejects, Verdicts, Votes, polars_schema
from transforms.publish.files import EVIDENCE_SCHEMAS, reject_sum, row_sum
from transforms.publish.prompt_keys import canonical_texts, key_lists, shared_keys, similarity_keys
from transforms.publish.read import Table, Version
from transforms.publish.recompute import PAIRS_AT_ONCE, TOLERANCE, Recomputation, miscounted_votes, parts
from transforms.publish.rows import STAGE
from transforms.publish.splits import SPLITS_SCHEMA, SplitsConfig
from transforms.publish.store import Datasets

_CHUNK = 1 << 22
_SOMETHING = pl.Series([[{"role": "user", "content": "-"}]], dtype=polars_schema(Pairs)["prompt"])
# What the evidence leaves out, as values that break no rule.
_LEFT_OUT: dict[Table, list[pl.Expr]] = {
    "pairs": [pl.lit(_SOMETHING).first().alias(c) for c in ("prompt", "response_a", "response_b")]
    + [pl.lit(None, pl.String).alias("context")],
    "votes": [pl.lit(None, pl.String).alias("raw"), pl.lit(0.0).alias("ms")],
}


class Check(BaseModel):
    """One thing that was looked at; `detail` names the first offender."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    ok: bool
    detail: str


def verify(
    datasets: Datasets,
    version: Version,
    *,
    contaminated: Callable[[str], tuple[str, str] | None] | None = None,
    parent: Version | None = None,
    pairs_at_once: int = PAIRS_AT_ONCE,
) -> list[Check]:
    """Check a version against its manifest and the rules every version obeys.

    Args:
        datasets: where it lives.
        version: the version.
        contaminated: the benchmark and the words a prompt's text shares with it, or None
            (`transforms.hygiene.decontamination.NgramIndex.find`); no check without it.
        parent: the version before, whose splits must be kept; if it is not given, the check says that it was not
            made.
        pairs_at_once: about so many pairs with their votes are in memory while verdicts are made again.
    """
    checks = [_files(datasets, version)]
    if not checks[0].ok:
        return checks
    rows = version.scan("rows")
    checks += [
        _schemas(version),
        _hashes(version),
        _counts(version),
        _ids(rows),
        _responses(rows),
        _conservation(version),
        _arithmetic(version),
        *_evidence(version, pairs_at_once),
        *_separation(version),
    ]
    if contaminated is not None:
        checks.append(_contamination(version, contaminated))
    if version.manifest.parent is not None:
        checks.append(_stability(version, parent))
    return checks


def _check(name: str, problems: Iterable[str], fine: str) -> Check:
    first = next(iter(problems), None)
    return Check(name=name, ok=first is None, detail=fine if first is None else first)


def _files(datasets: Datasets, version: Version) -> Check:
    m = version.manifest
    folder = datasets.path(m.name, version.base.rsplit("/", 1)[-1])
    present = {p.removeprefix(folder).lstrip("/") for p in datasets.fs.find(folder)} - {MANIFEST}

    def problems() -> Iterable[str]:
        yield from (f"{name} is missing" for name in sorted(set(m.files) - present))
        yield from (f"{name} is not in the manifest" for name in sorted(present - set(m.files)))
        for name, entry in m.files.items():
            digest = hashlib.sha256()
            with datasets.fs.open(f"{folder}/{name}", "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                yield f"{name} has other bytes than were published"

    return _check("files", problems(), f"{len(m.files)} files have the published bytes")


def _schemas(version: Version) -> Check:
    tables: dict[Table, Any] = {
        "rows": DatasetRows,
        "rejects": Rejects,
        "verdicts": Verdicts,
        "pairs": Pairs,
        "votes": Votes,
    }

    def problems() -> Iterable[str]:
        for name, table in tables.items():
            for file in version.files(name):
                frame = version.read(file)
                if frame.schema != EVIDENCE_SCHEMAS.get(name, polars_schema(table)):
                    yield f"{file}: columns or types differ from table {name}"
                    continue
                whole = frame.with_columns(_LEFT_OUT.get(name, [])).select(polars_schema(table).names())
                _, failures = table.filter(whole)
                if failures.counts():
                    yield f"{file}: rows break {failures.counts()}"
        for name in ("pairs", "votes", "verdicts", "splits"):
            key = {"votes": "vote_id", "splits": "prompt_id"}.get(name, "pair_id")
            if version.scan(name).select(pl.col(key).is_duplicated().any()).collect().item():
                yield f"evidence/{name}: a {key} occurs twice"
        for file in version.files("splits"):
            frame = version.read(file)
            if frame.schema != SPLITS_SCHEMA:
                yield f"{file}: columns or types differ from table splits"
            elif (
                not frame["split"].drop_nulls().is_in(SPLITS).all()
                or (frame["split"].is_null() & frame["reason"].is_null()).any()
            ):
                yield f"{file}: a prompt has neither a split nor a reason why not"

    return _check("schema", problems(), "every row obeys its table's rules")


def _hashes(version: Version) -> Check:
    m = version.manifest
    rows = sum(row_sum(version.read(f)) for f in version.files("rows")) % 2**256
    lost = sum(reject_sum(version.read(f)) for f in version.files("rejects")) % 2**256
    problems = []
    if hash_json([m.n_rows, f"{rows:064x}"]) != m.row_hash:
        problems.append("the rows do not have the manifest's row hash")
    if hash_json([m.n_rejects, f"{lost:064x}"]) != m.reject_hash:
        problems.append("the rejects do not have the manifest's reject hash")
    return _check("content hash", problems, f"row hash {m.row_hash}")


def _counts(version: Version) -> Check:
    m = version.manifest

    def counted(frame: pl.LazyFrame, column: pl.Expr) -> dict[str, int]:
        return dict(frame.group_by(column.alias("k")).len().collect(engine="streaming").iter_rows())

    reasons = counted(version.scan("rejects"), pl.format("{}/{}", "stage", "reason"))
    expected: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "rows by split": (counted(version.scan("rows"), pl.col("split")), m.rows_by_split),
        "rejects by reason": (reasons, m.rejects_by_reason),
        "actions": (counted(version.scan("verdicts"), pl.col("action")), m.actions),
    }
    if any("votes" in voter for voter in m.voters.values()):
        cast = {name: voter["votes"] for name, voter in m.voters.items() if voter["votes"]}
        expected["votes by voter"] = counted(version.scan("votes"), pl.col("voter")), cast
    problems = [f"{name}: {n} found, {stated} stated" for name, (n, stated) in expected.items() if n != stated]
    if sum(m.rows_by_split.values()) != m.n_rows or sum(m.rejects_by_reason.values()) != m.n_rejects:
        problems.append("the manifest's counts do not add up")
    return _check("counts", problems, f"{m.n_rows:,} rows, {m.n_rejects:,} rejects")


def _ids(rows: pl.LazyFrame, sample: int = 20_000) -> Check:
    """Content hashes again, on the rows with the lowest ids (a random sample)."""
    columns = ["pair_id", "prompt_id", "prompt", "context", "chosen", "rejected"]

    def problems() -> Iterable[str]:
        for row in rows.select(columns).sort("pair_id").head(sample).collect(engine="streaming").iter_rows(named=True):
            prompt_id = messages_id(row["prompt"])
            a, b = sorted((messages_id(row["chosen"]), messages_id(row["rejected"])))
            if prompt_id != row["prompt_id"] or hash_fields(prompt_id, row["context"] or "", a, b) != row["pair_id"]:
                yield f"pair {row['pair_id']}: its id is not the hash of its content"

    return _check("ids", problems(), "pair and prompt ids are the hashes of their content")


def _responses(rows: pl.LazyFrame) -> Check:
    same = rows.filter(pl.col("chosen") == pl.col("rejected")).select("pair_id").head(1).collect()
    problems = [f"pair {i}: chosen equals rejected" for i in same["pair_id"]]
    return _check("responses", problems, "chosen differs from rejected everywhere")


def _conservation(version: Version) -> Check:
    pairs = version.scan("pairs").select("pair_id")
    rows = version.scan("rows").select("pair_id")
    lost = version.scan("rejects").filter(pl.col("stage") == STAGE).select(pair_id="record_id")
    ended = pl.concat([rows, lost]).group_by("pair_id").len()
    joined = pairs.with_columns(known=True).join(ended, on="pair_id", how="full", coalesce=True)
    wrong = joined.filter(pl.col("known").is_null() | pl.col("len").is_null() | (pl.col("len") > 1))

    def problems() -> Iterable[str]:
        for pair, known, n in wrong.head(1).collect(engine="streaming").iter_rows():
            yield f"pair {pair} {'is unknown to the evidence' if not known else f'ended {n or 0} times'}"

    return _check("conservation", problems(), "every pair is one row or one reject")


def _arithmetic(version: Version) -> Check:
    """Posterior from contributions, and rows from verdicts."""
    pieces = pl.col("contributions").list.eval(pl.element().struct.field("log_odds")).list.sum()
    again = (pl.col("prior") + pieces).map_batches(scipy.special.expit, return_dtype=pl.Float64, is_elementwise=True)
    verdicts = version.scan("verdicts").with_columns(again=again)
    false = verdicts.filter((pl.col("again") - pl.col("p_a")).abs() > TOLERANCE).select("pair_id").head(1)
    row_p = pl.when(pl.col("chosen_is") == "a").then("p_a").otherwise(1 - pl.col("p_a"))
    joined = version.scan("rows").join(verdicts, on="pair_id", how="left", suffix="_verdict")
    unlike = joined.filter(
        (pl.col("chosen_is") != pl.col("label")).fill_null(value=True)
        | ((row_p - pl.col("p_chosen")).abs() > TOLERANCE)
        | ((pl.col("margin_verdict").abs() - pl.col("margin")).abs() > TOLERANCE)
    )

    def problems() -> Iterable[str]:
        for pair in false.collect(engine="streaming")["pair_id"]:
            yield f"pair {pair}: the contributions do not add up to its posterior"
        for pair in unlike.select("pair_id").head(1).collect(engine="streaming")["pair_id"]:
            yield f"pair {pair}: the row does not follow from its verdict"

    return _check("arithmetic", problems(), "every posterior is the sum of its contributions and every row its verdict")


def _evidence(version: Version, at_once: int) -> list[Check]:
    """What verdicts say of the votes, and, with the fuser's model and the policy, every verdict made again."""
    again: Recomputation | None = None
    try:
        again, unable = Recomputation(version), ""
    except UsageError as error:
        unable = f"not checked: {error}"
    miscounted: list[str] = []
    problems: list[str] = []
    for pairs, votes, verdicts in parts(version, at_once):
        miscounted += islice(miscounted_votes(votes, verdicts), 1)
        if again and not problems:
            problems += islice(again.problems(pairs, votes, verdicts), 1)
        if miscounted:
            break
    fine = unable or "every verdict follows from the votes, the fuser's model and the policy"
    return [
        _check("votes", miscounted, "every verdict counts the votes of its pair"),
        _check("recomputation", problems, fine),
    ]


def _separation(version: Version) -> list[Check]:
    """No pair twice, and no prompt, group or near-duplicate prompt in two splits."""
    rows = version.scan("rows")
    config = SplitsConfig.model_validate(version.manifest.splits) if version.manifest.splits else SplitsConfig()
    twice = rows.group_by("pair_id").len().filter(pl.col("len") > 1).select("pair_id")
    checks = [_none(twice, "pairs", "pair {} occurs twice", "every pair occurs once")]
    # What was generated from an ungrouped prompt names that prompt as its group.
    group = pl.coalesce("group_id", "prompt_id")
    for name, column, key in (("prompts", "prompt_id", pl.col("prompt_id")), ("groups", "group_id", group)):
        across = rows.group_by(key.alias(column)).agg(pl.col("split").n_unique())
        text = f"{column} {{}} is in several splits"
        checks.append(_none(across.filter(pl.col("split") > 1).select(column), name, text, "each is in one split only"))
    parts = [pl.DataFrame(schema={"prompt_id": pl.String, "split": pl.String, "keys": pl.List(pl.UInt64)})]
    for frame in _prompts(version):
        keys = similarity_keys(canonical_texts(frame["prompt"]), config.bands, config.rows_per_band, config.shingle)
        parts.append(frame.select("prompt_id", "split", keys=key_lists(keys)))
    prompts = pl.concat(parts).unique("prompt_id")
    held = shared_keys(prompts["keys"])
    shared = (
        held.with_columns(prompts[column].gather(held["node"]) for column in ("prompt_id", "split"))
        .lazy()
        .group_by("key")
        .agg(pl.col("split").n_unique(), pl.col("prompt_id").min())
        .filter(pl.col("split") > 1)
        .select("prompt_id")
    )
    text = "prompt {} has a near-duplicate in another split"
    return [*checks, _none(shared, "near-duplicates", text, "no near-duplicate prompts in two splits")]


def _none(offenders: pl.LazyFrame, name: str, text: str, fine: str) -> Check:
    first = offenders.head(1).collect(engine="streaming").to_series()
    return _check(name, [text.format(x) for x in first], fine)


def _prompts(version: Version) -> Iterator[pl.DataFrame]:
    """prompt_id, split and prompt of each file's rows, once a prompt."""
    for file in version.files("rows"):
        yield version.read(file).select("prompt_id", "split", "prompt").unique("prompt_id").sort("prompt_id")


def _contamination(version: Version, contaminated: Callable[[str], tuple[str, str] | None]) -> Check:
    def problems() -> Iterable[str]:
        for frame in _prompts(version):
            for prompt, messages in frame.select("prompt_id", "prompt").iter_rows():
                if hit := contaminated(text_of(messages)):
                    yield f"prompt {prompt} overlaps with {hit[0]}: {hit[1]!r}"

    return _check("decontamination", problems(), "no prompt overlaps with a benchmark")


def _stability(version: Version, parent: Version | None) -> Check:
    if parent is None:
        m = version.manifest
        return _check("stability", [], f"not checked: v{m.parent:04d}, which {m.label} continues, is not here")
    before = parent.scan("splits").filter(pl.col("split").is_not_null()).select("prompt_id", old="split")
    now = version.scan("splits").select("prompt_id", new="split")
    moved = before.join(now, on="prompt_id", how="left").filter(pl.col("old").ne_missing(pl.col("new")))
    text = "prompt {} is in another split than in " + parent.manifest.label
    return _none(
        moved.select("prompt_id"), "stability", text, f"every prompt of {parent.manifest.label} kept its split"
    )
