"""Making the next version of a dataset from what materialise left in the workspace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from pipelines.inspect.estimates import estimates
from pipelines.inspect.judgement import judgement
from pipelines.publish.certify import audited_noise, certificate
from pipelines.publish.report import report_documents
from pipelines.runtime.annotation import queue
from pipelines.runtime.job import prepared
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES, Run
from pipelines.runtime.summary import Summary, summarise
from pipelines.stages.ingest import inputs_read
from pipelines.stages.judge import JUDGES
from pipelines.stages.materialise import (
    MATERIALISE,
    REJECT_STAGES,
    parent_version,
    version_buckets,
    version_splits,
)
from schemas.errors import DataError, PrefineError
from schemas.ids import hash_json
from schemas.recipe_file import RecipeFile, parse_recipe
from transforms.plugins.build import plugin_uses
from transforms.plugins.recipe_hash import recipe_hash
from transforms.plugins.registry import distribution_of
from transforms.publish.read import Version
from transforms.publish.recompute import FUSER, POLICY
from transforms.publish.splits import SplitsConfig
from transforms.publish.version import Provenance, PublishResult, publish
from transforms.report.census import Census, added_up, counted
from transforms.storage.workspace import Workspace

_PARTS = {"pairs": PAIR_STAGES, "votes": VOTE_STAGES, "verdicts": ("fuse",), "rejects": REJECT_STAGES}
_JUDGEMENT = {"fuser": FUSER, "policy": POLICY}
_ROOMS, _SOURCES = ("schemas", "transforms", "pipelines"), (".py", ".jinja2", ".jsonl", ".xml", ".css")


@cache
def code_version() -> str:
    """Version of the installed package and the hash of its sources: `0.1.0+3f2a…`, 12 hex digits."""
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for room in _ROOMS:
        files = [f for f in (root / room).rglob("*") if f.suffix in _SOURCES]
        for file in sorted(files):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    try:
        release = version("prefine")
    except PackageNotFoundError:
        release = "uninstalled"
    return f"{release}+{digest.hexdigest()[:12]}"


@dataclass(frozen=True)
class Publication:
    """A recipe about to publish."""

    file: RecipeFile
    run: Run

    @property
    def workspace(self) -> Workspace:
        """The workspace published from."""
        return self.run.workspace

    @cached_property
    def parent(self) -> Version | None:
        """The latest version."""
        return parent_version(self.run)

    def provenance(self) -> Provenance:
        """What the version is made of."""
        return Provenance(
            recipe=self.file.text,
            recipe_hash=recipe_hash(self.file.recipe),
            parent_recipe_hash=self._parent_recipe_hash(),
            code_version=code_version(),
            inputs=inputs_read(self.workspace),
            parts={table: self._fingerprint(table, stages) for table, stages in _PARTS.items()},
            voters=self._voters(),
            splits=SplitsConfig.model_validate(self.run.recipe.materialise.splits).model_dump(mode="json"),
            certificate=certificate(self.workspace),
            estimates=self._estimates(),
        )

    def unchanged(self) -> PublishResult | None:
        """The latest version, if it was made of exactly what lies in the workspace now."""
        latest = self.parent
        if latest is None:
            return None
        manifest, now = latest.manifest, self.provenance()
        same = [now.parent_recipe_hash, dict(manifest.parts), manifest.code_version] == [
            now.recipe_hash,
            dict(now.parts),
            now.code_version,
        ]
        return PublishResult(manifest.name, manifest.version, False, latest.base, manifest) if same else None

    def _parent_recipe_hash(self) -> str | None:
        """The hash of the latest version's recipe by this code's rule; None without one that this code can read."""
        latest = self.parent
        if latest is None:
            return None
        try:
            return recipe_hash(parse_recipe(latest.manifest.recipe, self.file.path).recipe)
        except (PrefineError, ValidationError):
            return None

    def check_rows(self, summary: Summary) -> None:
        """Refuse to publish a version without rows.

        Args:
            summary: of materialise.

        Raises:
            DataError: there is none; with what became of all rows, by stage and reason.
        """
        if summary.rows_out:
            return
        workspace, recipe = self.workspace, self.file.recipe
        summaries = [summarise(stage, list(workspace.checkpoints(stage).values())) for stage in REJECT_STAGES]
        reasons = {f"{s.stage}/{reason}": n for s in summaries for reason, n in s.rejects.items()}
        causes = [f"none of {summary.rows_in:,} pairs became a row" if summary.rows_in else "there are no pairs"]
        if reasons:
            by_count = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
            causes.append("left out: " + ", ".join(f"{reason} {n:,}" for reason, n in by_count))
            causes.append(f"`prefine rejects -w {workspace.root}` shows them")
            if "materialise/doubtful" in reasons:
                causes.append("`doubtful: soften` of the fuse policy publishes doubtful labels with their probability")
        elif not recipe.generate.generators:
            causes.append("the sources hold prompts alone and the recipe has no generators")
        waiting = queue(workspace).height
        if waiting:
            causes.append(f"{waiting:,} pairs wait for people's answers (`prefine queue`)")
        raise DataError(f"nothing to publish in {recipe.dataset!r}, so no version was made: {'; '.join(causes)}")

    def publish(self) -> PublishResult:
        """Write the version, or find that it exists."""
        counts: list[Census] = []
        return publish(
            self.workspace.datasets,
            self.file.recipe.dataset,
            counted(version_buckets(self.workspace), counts),
            version_splits(self.workspace, prepared(MATERIALISE, self.run)[0].artefacts),
            self.provenance(),
            parent=self.parent.manifest.version if self.parent else None,
            evidence={_JUDGEMENT[name]: plugin.to_bytes() for name, plugin in judgement(self.workspace).items()},
            documents=lambda manifest, folder: report_documents(
                self.workspace, manifest, folder, added_up(counts), self.file.recipe.materialise.spread_pairs
            ),
        )

    def _estimates(self) -> dict[str, Any] | None:
        estimated = estimates(self.workspace)
        return None if estimated is None else {**estimated, "audited_noise": audited_noise(self.workspace)}

    def _voters(self) -> dict[str, Any]:
        """What the recipe says of its judges and scorers, their package, and of judges what their votes rest on."""
        judges: dict[str, Any] = orjson.loads(self.workspace.read_artefact("judge", JUDGES) or b"{}")
        voters: dict[str, Any] = {}
        for kind, _, use in plugin_uses(self.file.recipe):
            if kind in ("judges", "scorers"):
                package = distribution_of(kind, use.plugin)
                known: dict[str, Any] = {} if package is None else {"distribution": list(package)}
                known |= {"kind": kind.removesuffix("s"), "plugin": use.plugin, **use.settings}
                voters[use.name] = known | judges.get(use.name, {})
        return voters

    def _fingerprint(self, table: str, stages: tuple[str, ...]) -> str:
        return hash_json([self.workspace.parts(table, bucket, stages) for bucket in self.workspace.buckets])


def report_path(result: PublishResult) -> str:
    """Path or URL of the version's report."""
    return f"{result.path.rstrip('/')}/report.html"
