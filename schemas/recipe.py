"""The recipe: one YAML file that says what a run does, validated field by field.

Plug-in settings are validated by the plug-ins' own `Config` (transforms/plugins/registry.py); here they are kept
as they stand. Reading the file is in schemas/recipe_file.py.
"""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.names import FileName, file_name, is_file_name
from schemas.secrets import Address


class Strict(BaseModel):
    """A recipe section: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginUse(BaseModel):
    """One use of a plug-in: `plugin` names it, `name` names this use, the rest is its own settings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    plugin: FileName
    name: FileName = ""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("name") and is_file_name(str(value.get("plugin", ""))):
            return {**value, "name": value["plugin"]}
        return value

    @property
    def settings(self) -> dict[str, Any]:
        """The plug-in's own settings."""
        return dict(self.model_extra or {})


class CallBudget(Strict):
    """When to stop asking engines: the run ends cleanly and can be resumed with a larger budget."""

    max_calls: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)
    max_seconds: float | None = Field(default=None, gt=0)


class AskingSection(Strict):
    """What both sections that ask engines say."""

    budget: CallBudget = CallBudget()
    max_failed_share: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="share of the requests that may go unanswered before the run ends",
    )


class GenerateSection(AskingSection):
    """Generators in order, and what their calls may cost together."""

    generators: list[PluginUse] = []


class PanelSection(Strict):
    """Sequential stopping: judges are asked one after another, and a pair no more once its label is certain.

    With the defaults every judge is asked about every pair. See transforms/judges/panel/sequential.py.
    """

    stop_certainty: float = Field(default=1.0, gt=0.5, le=1.0, description="stop once P(the label) reaches this")
    min_change: float = Field(
        default=0.0, ge=0.0, lt=0.5, description="stop if the judges left would change the label less often than this"
    )
    costs: dict[str, float] = Field(default={}, description="cost of asking each judge once; default: equal")
    fit_pairs: int = Field(default=500, ge=0, description="most human-labelled pairs the panel is fitted on")

    @property
    def is_sequential(self) -> bool:
        """Whether any pair may be spared a judge."""
        return self.stop_certainty < 1.0 or self.min_change > 0.0


class JudgeSection(AskingSection):
    """Judges in order, and what their calls may cost together."""

    judges: list[PluginUse] = []
    panel: PanelSection = PanelSection()


class ScoreSection(Strict):
    """Voters that need no LLM call."""

    scorers: list[PluginUse] = []
    fit_pairs: int = Field(default=50_000, ge=1, description="most pairs a scorer is trained on")
    max_failed_share: float = Field(
        default=0.1, ge=0.0, le=1.0, description="share of the pairs a scorer may fail on before the run ends"
    )


class FuseSection(Strict):
    """How votes become a posterior and the posterior an action."""

    fuser: PluginUse = PluginUse(plugin="posterior")
    policy: PluginUse = PluginUse(plugin="posterior")
    fit_pairs: int = Field(default=200_000, ge=1, description="most pairs the fuser is fitted on")


class RouteSection(Strict):
    """Which pairs humans are asked about; `queue` says how the budget is spent (transforms/routers/queue/fill.py)."""

    router: PluginUse = PluginUse(plugin="value")
    queue: dict[str, Any] = {}
    outlook_labels: int = Field(default=100, ge=1, description="further human labels whose gain the report estimates")


class AnnotateSection(Strict):
    """Where annotators work: a Label Studio server, or files."""

    plugin: typing.Literal["label_studio", "files"] = "files"
    url: Address = "http://127.0.0.1:8080"
    token_env: str = Field(default="LABEL_STUDIO_TOKEN", description="name of the variable holding the token")
    project: str | None = None
    aspects: list[str] = ["helpful", "honest", "harmless"]
    span_kinds: list[str] = ["good", "factual_error", "unsafe", "style"]
    rationale_required: bool = False
    batch_size: int = Field(default=500, ge=1, description="tasks sent in one request")
    ranking: int | None = Field(
        default=None, ge=3, le=9, description="ask for a ranking of up to this many responses if 3 or more are queued"
    )
    files: list[str] = Field(default=[], description="annotations.jsonl files to import on pull")


class ExportUse(Strict):
    """One export written after every published version, into `exports/DATASET/vNNNN/NAME` of the workspace.

    `name` in the options is the folder's name; by default it is the format.
    """

    format: FileName
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _nameable(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "plugin" in options:
            raise ValueError("unknown field 'plugin'; name the exporter in `format`, its settings in `options`")
        name = options.get("name", "")
        if not isinstance(name, str):
            raise ValueError(f"name: {name!r} is not a text; put it in quotes")
        if name:
            file_name(name)
        return options

    @property
    def use(self) -> PluginUse:
        """The exporter and its settings."""
        return PluginUse.model_validate({**self.options, "plugin": self.format})


class MaterialiseSection(Strict):
    """What is published."""

    dataset: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    splits: dict[str, Any] = Field(default={}, description="see transforms/publish/splits.py")
    rows: dict[str, Any] = Field(default={}, description="see transforms/publish/rows.py")
    spread_pairs: int = Field(
        default=0, ge=0, description="pairs per generator embedded for the report's spread; 0: none"
    )
    exports: list[ExportUse] = []


class BeamSection(Strict):
    """How Beam runs here; options after `--` on the command line win."""

    workers: int = Field(default=2, ge=1)
    mode: typing.Literal["in_memory", "multi_threading", "multi_processing"] = "in_memory"


class Recipe(Strict):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="the dataset is published under this name")
    seed: int = Field(default=0, description="every random choice follows from it")
    buckets: int = Field(
        default=16, ge=1, le=65536, description="parts of the workspace, fixed once it exists; one per 50,000 pairs"
    )
    sources: list[dict[str, Any]] = Field(min_length=1, description="where prompts and pairs come from")
    engines: dict[str, PluginUse] = Field(default={}, description="who answers LLM calls, by name")
    hygiene: dict[str, Any] = Field(default={}, description="what goes before anybody votes")
    generate: GenerateSection = GenerateSection()
    judge: JudgeSection = JudgeSection()
    score: ScoreSection = ScoreSection()
    fuse: FuseSection = FuseSection()
    route: RouteSection = RouteSection()
    annotate: AnnotateSection = AnnotateSection()
    materialise: MaterialiseSection = MaterialiseSection()
    beam: BeamSection = BeamSection()

    @property
    def dataset(self) -> str:
        """Name of the dataset the recipe publishes."""
        return self.materialise.dataset or self.name
