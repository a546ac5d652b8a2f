"""Making the next version of a dataset from what materialise left in the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipelines.certify import audited_noise, certificate
from pipelines.estimates import estimates
from pipelines.materialise import REJECT_STAGES, Materialise
from pipelines.report import report_documents
from pipelines.stage import PAIR_STAGES, VOTE_STAGES
from schemas.ids import hash_json
from schemas.recipe_file import RecipeFile
from transforms.build import plugin_uses
from transforms.publish.store import Datasets
from transforms.publish.version import Provenance, PublishResult, publish
from transforms.storage.workspace import Workspace

_PARTS = {"pairs": PAIR_STAGES, "votes": VOTE_STAGES, "verdicts": ("fuse",), "rejects": REJECT_STAGES}
_DATA_SECTIONS = ("name", "seed", "sources", "engines", "hygiene", "generate", "judge", "score", "fuse", "materialise")


def code_version() -> str:
    """Version of the installed package."""
    try:
        return version("prefine")
    except PackageNotFoundError:
        return "uninstalled"


@dataclass(frozen=True)
class Publication:
    """A recipe about to publish."""

    file: RecipeFile
    stage: Materialise

    @property
    def workspace(self) -> Workspace:
        """The workspace published from."""
        return self.stage.workspace

    def provenance(self) -> Provenance:
        """What the version is made of."""
        recipe = self.file.recipe
        return Provenance(
            recipe=self.file.text,
            recipe_hash=hash_json(recipe.model_dump(mode="json", include=set(_DATA_SECTIONS))),
            code_version=code_version(),
            inputs={str(source["name"]): hash_json(source) for source in recipe.sources},
            parts={table: self._fingerprint(table, stages) for table, stages in _PARTS.items()},
            voters={
                use.name: {"kind": kind, "plugin": use.plugin, **use.settings}
                for kind, _, use in plugin_uses(recipe)
                if kind in ("judges", "scorers")
            },
            splits=self.stage.splits_config.model_dump(mode="json"),
            certificate=certificate(self.workspace),
            estimates=self._estimates(),
        )

    def unchanged(self) -> PublishResult | None:
        """The latest version, if it was made of exactly what lies in the workspace now."""
        store = Datasets(self.stage.datasets)
        name = self.file.recipe.dataset
        latest = max(store.versions(name), default=None)
        if latest is None:
            return None
        manifest, now = store.manifest(name, latest), self.provenance()
        same = all(getattr(manifest, f) == getattr(now, f) for f in ("recipe_hash", "parts", "code_version"))
        return PublishResult(name, latest, False, store.url(name, f"v{latest:04d}"), manifest) if same else None

    def publish(self) -> PublishResult:
        """Write the version, or find that it exists."""
        return publish(
            self.stage.datasets,
            self.file.recipe.dataset,
            self.stage.buckets(),
            self.stage.splits(),
            self.provenance(),
            parent=self.stage.memory[0],
            documents=lambda manifest, folder: report_documents(
                self.workspace, manifest, folder, self.file.recipe.materialise.spread_pairs
            ),
        )

    def _estimates(self) -> dict[str, Any] | None:
        found = estimates(self.workspace)
        return None if found is None else {**found, "audited_noise": audited_noise(self.workspace)}

    def _fingerprint(self, table: str, stages: tuple[str, ...]) -> str:
        return hash_json([self.workspace.parts(table, bucket, stages) for bucket in self.workspace.buckets])


def report_path(result: PublishResult) -> str:
    """Path or URL of the version's report."""
    return f"{result.path.rstrip('/')}/report.html"
