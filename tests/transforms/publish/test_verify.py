"""A sound version passes every check; any single damage is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from pipelines.stages.fuse import fusion_columns
from schemas.manifest import Manifest
from schemas.recipe import PluginUse
from tests.transforms.publish import frames
from transforms.fusers.base import Fuser
from transforms.plugins.build import build
from transforms.policies.base import Policy
from transforms.publish.files import Tally, file_entry, row_sum, write_parquet
from transforms.publish.read import Version, open_version
from transforms.publish.recompute import FUSER, POLICY, StoredPlugin, described, parts, stored_plugin
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish
from transforms.stats.label_noise import decision_frame

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


@pytest.fixture
def version(tmp_path: Path) -> Version:
    for n in (30, 40):
        parent, memory = frames.split_memory(tmp_path, "demo")
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(tmp_path, "demo", content, splits, PROVENANCE, parent=parent)
    return open_version(tmp_path, "demo")


def failed(version: Version, **options: object) -> dict[str, str]:
    root = Path(version.base).parent.parent
    fresh = open_version(root, "demo")
    return {c.name: c.detail for c in verify(Datasets(root), fresh, **options) if not c.ok}  # type: ignore[arg-type]


def test_a_sound_version_passes(version: Version) -> None:
    root = Path(version.base).parent.parent
    parent = open_version(root, "demo@1")
    checks = verify(Datasets(root), version, parent=parent, contaminated=lambda text: None)
    assert [c.name for c in checks if not c.ok] == []
    assert {c.name for c in checks} >= {"files", "schema", "conservation", "near-duplicates", "stability", "ids"}


@pytest.mark.parametrize("name", ["data/train-00000.parquet", "README.md", "evidence/votes-00000.parquet"])
def test_a_changed_or_missing_file_is_found(version: Version, name: str) -> None:
    path = Path(version.base, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert failed(version) == {"files": f"{name} has other bytes than were published"}
    path.unlink()
    assert failed(version) == {"files": f"{name} is missing"}


def test_a_smuggled_file_is_found(version: Version) -> None:
    Path(version.base, "data", "train-99999.parquet").write_bytes(b"x")
    assert failed(version) == {"files": "data/train-99999.parquet is not in the manifest"}


def rewrite(version: Version, file: str, change: Callable[[pl.DataFrame], pl.DataFrame], rehash: bool = True) -> None:
    """Change a file and make the manifest agree, as a careful forger or a bug in the writer would."""
    path = Path(version.base, file)
    frame = change(pl.read_parquet(path))
    entry = write_parquet(frame, path)
    fields = {"files": {**version.manifest.files, file: entry}}
    if rehash:
        rows = [pl.read_parquet(Path(version.base, f)) for f in version.manifest.files if f.startswith("data/")]
        tally = Tally(n_rows=sum(r.height for r in rows), row_sum=sum(map(row_sum, rows)) % 2**256)
        fields |= {"row_hash": tally.row_hash, "n_rows": tally.n_rows}
        fields["rows_by_split"] = dict(pl.concat(rows)["split"].value_counts().iter_rows())
    forged: Manifest = version.manifest.model_copy(update=fields)
    Path(version.base, "manifest.json").write_bytes(forged.to_bytes())


TRAIN = "data/train-00000.parquet"


def test_rows_that_do_not_follow_from_the_evidence_are_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(margin=pl.col("margin") + 1))
    assert set(failed(version)) == {"arithmetic"}


def test_exchanged_responses_are_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(chosen_is=pl.col("chosen_is").replace({"a": "b", "b": "a"})))
    assert set(failed(version)) == {"arithmetic"}


def test_changed_text_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(chosen=pl.col("rejected").list.concat(pl.col("chosen"))))
    assert set(failed(version)) == {"ids"}


def test_a_lost_row_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.slice(1))
    assert set(failed(version)) == {"conservation"}


def test_a_changed_row_is_found_by_the_row_hash(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(decided_by=pl.lit("me")), rehash=False)
    assert set(failed(version)) == {"content hash"}


def test_a_leak_is_found(version: Version) -> None:
    def leak(frame: pl.DataFrame) -> pl.DataFrame:
        pick = frame.filter(pl.len().over("prompt_id") > 1)["prompt_id"][0]
        first = (pl.col("prompt_id") == pick) & (pl.int_range(pl.len()).over("prompt_id") == 0)
        return frame.with_columns(split=pl.when(first).then(pl.lit("test")).otherwise("split"))

    rewrite(version, TRAIN, leak)
    assert set(failed(version)) == {"prompts", "groups"}


def test_a_near_duplicate_in_another_split_is_found(version: Version) -> None:
    trained = pl.read_parquet(Path(version.base, TRAIN))["prompt"][0].to_list()
    alike = [{**trained[0], "content": trained[0]["content"].upper() + "!"}]
    wanted = pl.lit(pl.Series([alike], dtype=version.scan("rows").collect_schema()["prompt"]))
    name = next(f for f in version.manifest.files if f.startswith(("data/test", "data/validation")))
    rewrite(version, name, lambda f: f.with_columns(prompt=wanted))
    assert set(failed(version)) == {"ids", "near-duplicates"}


def test_a_broken_rule_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(weight=pl.lit(7.0)))
    assert set(failed(version)) == {"schema"}


def test_a_false_posterior_is_found(version: Version) -> None:
    rewrite(version, "evidence/verdicts-00000.parquet", lambda f: f.with_columns(prior=pl.col("prior") + 0.5))
    assert set(failed(version)) == {"arithmetic"}


VERDICTS, VOTES, PAIRS = (f"evidence/{t}-00000.parquet" for t in ("verdicts", "votes", "pairs"))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.clear(),
        lambda f: f.slice(1),
        lambda f: f.with_columns(label=pl.col("label").replace({"a": "b", "b": "a"})),
        lambda f: f.with_columns(voter=pl.lit("nobody")),
        lambda f: f.with_columns(label=pl.lit("invalid")),
        lambda f: f.with_columns(kind=pl.lit("human")),
    ],
    ids=["emptied", "one lost", "forged", "other voter", "no opinions", "other kind"],
)
def test_votes_that_the_verdicts_do_not_rest_on_are_found(
    version: Version, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    rewrite(version, VOTES, change)
    assert "votes" in failed(version)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (PAIRS, lambda f: f.drop("kind")),
        (PAIRS, lambda f: f.with_columns(pair_id=pl.lit("x"))),
        (VOTES, lambda f: f.with_columns(p_a=pl.lit(7.0))),
        (VOTES, lambda f: f.with_columns(vote_id=pl.col("vote_id").first())),
        ("evidence/splits-00000.parquet", lambda f: f.with_columns(split=pl.lit("holdout"))),
        ("evidence/splits-00000.parquet", lambda f: f.with_columns(split=None, reason=None).cast(dict(f.schema))),
    ],
)
def test_evidence_that_breaks_its_tables_rules_is_found(
    version: Version, file: str, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    rewrite(version, file, change)
    assert "schema" in failed(version)


def test_wrong_counts_are_found(version: Version) -> None:
    m = version.manifest
    forged = m.model_copy(update={"actions": {**m.actions, "keep": m.actions["keep"] + 1}})
    Path(version.base, "manifest.json").write_bytes(forged.to_bytes())
    assert set(failed(version)) == {"counts"}
    busy = {**m.voters, "rm": {**m.voters["rm"], "votes": 1}}
    Path(version.base, "manifest.json").write_bytes(m.model_copy(update={"voters": busy}).to_bytes())
    assert set(failed(version)) == {"counts"}


def test_equal_responses_are_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(rejected=pl.col("chosen")))
    assert "responses" in failed(version)


def test_a_pair_that_is_there_twice_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: pl.concat([f.head(1), f]))
    assert set(failed(version)) == {"pairs", "conservation", "schema"}


def test_a_group_in_two_splits_is_found(version: Version) -> None:
    name = next(f for f in version.manifest.files if f.startswith(("data/test", "data/validation")))
    for file in (TRAIN, name):
        rewrite(
            open_version(Path(version.base).parent.parent, "demo"),
            file,
            lambda f: f.with_columns(group_id=pl.lit("twins")),
        )
    assert set(failed(version)) == {"groups"}


def test_what_was_made_from_a_prompt_of_another_split_is_found(version: Version) -> None:
    """A generated pair names the ungrouped prompt it was made from as its group."""
    name = next(f for f in version.manifest.files if f.startswith(("data/test", "data/validation")))
    original = pl.read_parquet(Path(version.base, TRAIN))["prompt_id"][0]
    rewrite(version, name, lambda f: f.with_columns(group_id=pl.lit(original)))
    assert set(failed(version)) == {"groups"}


def fused(tmp_path: Path, fuser: str = "majority") -> Version:
    """A version whose verdicts a fuser and a policy made."""
    pairs, votes, _ = frames.workspace(40)
    voter = build(Fuser, PluginUse(plugin=fuser), 0, tmp_path)
    policy = build(Policy, PluginUse.model_validate({"plugin": "posterior", "doubtful": "soften"}), 0, tmp_path)
    known = fusion_columns(pairs)
    model = voter.fit(votes, known)
    decided = decision_frame(voter.apply(model, votes, known), known, votes)
    learned = policy.fit(decided)
    verdicts = policy.decide(learned, decided)
    evidence = {
        FUSER: StoredPlugin(**described(voter), model=model).to_bytes(),
        POLICY: StoredPlugin(**described(policy), model=learned).to_bytes(),
    }
    content, splits = frames.buckets(pairs, votes, verdicts)
    publish(tmp_path, "demo", content, splits, PROVENANCE, evidence=evidence)
    return open_version(tmp_path, "demo")


@pytest.mark.parametrize("at_once", [1, 17, 10**6])
def test_verdicts_made_again_are_the_published_ones_however_many_at_once(tmp_path: Path, at_once: int) -> None:
    version = fused(tmp_path)
    assert failed(version, pairs_at_once=at_once) == {}
    said = {c.name: c.detail for c in verify(Datasets(tmp_path), version, pairs_at_once=at_once)}
    assert said["recomputation"].startswith("every verdict follows")
    cut = list(parts(version, at_once))
    assert sum(v.height for _, _, v in cut) == version.manifest.n_pairs
    assert len(cut) == -(-version.manifest.n_pairs // at_once)


@pytest.mark.parametrize("fuser", ["posterior", "majority"])
def test_what_the_fuser_and_the_policy_would_not_have_decided_is_found(tmp_path: Path, fuser: str) -> None:
    version = fused(tmp_path, fuser)
    swap = {"a": "b", "b": "a"}
    turned = pl.col("contributions").list.eval(
        pl.element().struct.with_fields(label=pl.element().struct.field("label").replace(swap))
    )
    # Votes and what the verdicts say of them forged alike: only the posterior gives it away.
    rewrite(version, VOTES, lambda f: f.with_columns(pl.col("label").replace(swap), p_a=1 - pl.col("p_a")))
    rewrite(open_version(tmp_path, "demo"), VERDICTS, lambda f: f.with_columns(contributions=turned))
    assert set(failed(version)) == {"recomputation"}


def test_a_policy_that_was_changed_afterwards_is_found(tmp_path: Path) -> None:
    version = fused(tmp_path)
    policy = stored_plugin(version, POLICY)
    assert policy is not None
    settings = {**policy.settings, "certainty": 1.0}
    identity = [*policy.identity[:-1], settings]
    data = policy.model_copy(update={"settings": settings, "identity": identity}).to_bytes()
    Path(version.base, POLICY).write_bytes(data)
    files = {**version.manifest.files, POLICY: file_entry(Path(version.base, POLICY))}
    Path(version.base, "manifest.json").write_bytes(version.manifest.model_copy(update={"files": files}).to_bytes())
    assert set(failed(version)) == {"recomputation"}


def test_a_version_of_other_code_is_not_called_broken(tmp_path: Path) -> None:
    version = fused(tmp_path)
    fuser = stored_plugin(version, FUSER)
    assert fuser is not None
    Path(version.base, FUSER).write_bytes(fuser.model_copy(update={"identity": ["majority", 0]}).to_bytes())
    files = {**version.manifest.files, FUSER: file_entry(Path(version.base, FUSER))}
    Path(version.base, "manifest.json").write_bytes(version.manifest.model_copy(update={"files": files}).to_bytes())
    assert failed(version) == {}
    found = {c.name: c.detail for c in verify(Datasets(tmp_path), open_version(tmp_path, "demo"))}
    assert found["recomputation"].startswith("not checked: majority of evidence/fuser.json has another version")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "data/../../x", "data\\x", "C:/x", "data//x", "./x", "data/.", "", "a\0b"]
)
def test_names_of_files_cannot_leave_the_version(version: Version, name: str) -> None:
    fields = version.manifest.model_dump(mode="json")
    fields["files"][name] = fields["files"].pop("README.md")
    with pytest.raises(ValidationError, match="is no file of a version"):
        Manifest.model_validate(fields)


def test_benchmark_overlap_is_found(version: Version) -> None:
    said = failed(version, contaminated=lambda text: ("bench", "some words"))
    assert set(said) == {"decontamination"}
    assert "bench" in said["decontamination"]


def test_a_prompt_that_moved_is_found(version: Version) -> None:
    root = Path(version.base).parent.parent
    path = root / "demo" / "v0001" / "evidence" / "splits-00000.parquet"
    frame = pl.read_parquet(path).with_columns(split=pl.lit("test"))
    frame.write_parquet(path)
    assert set(failed(version, parent=open_version(root, "demo@1"))) == {"stability"}


def test_entries_are_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_entry(path).sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
