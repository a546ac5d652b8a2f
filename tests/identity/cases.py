"""The frozen cases: what is laid out, which recipes run, which commands follow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from tests.identity import inputs
from tests.identity.checkouts import HERE
from tests.identity.inputs import write_csv, write_jsonl
from tests.identity.session import WRITTEN, Session

RECIPES = HERE / "recipes"
Recipes = dict[str, dict[str, Any]]  # file name -> recipe


@dataclass(frozen=True)
class Case:
    """A frozen run.

    Attributes:
        recipes: its recipes by file name; `{{STUB}}` and `{{DATA}}` in them become addresses.
        lay_out: writes the input files into a folder.
        play: runs the commands.
    """

    name: str
    recipes: Recipes
    lay_out: Callable[[Path], None]
    play: Callable[[Session], None]

    @property
    def needs_data(self) -> bool:
        """Whether it reads the shared data."""
        return "{{DATA}}" in json.dumps(self.recipes)

    def prepare(self, folder: Path, stub: str, data: Path | None) -> None:
        """Write recipes and inputs."""
        folder.mkdir(parents=True)
        (folder / WRITTEN).mkdir()
        for name, recipe in self.recipes.items():
            text = yaml.safe_dump(recipe, sort_keys=False).replace("{{STUB}}", stub)
            (folder / name).write_text(text.replace("{{DATA}}", str(data)))
        self.lay_out(folder)


def frozen(name: str) -> dict[str, Any]:
    """A recipe kept here."""
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    return recipe


def simple(name: str, *options: str, lay_out: Callable[[Path], None] = lambda folder: None) -> Case:
    """A case of one recipe that runs once."""
    return Case(name, {f"{name}.yaml": frozen(name)}, lay_out, lambda session: run_once(session, name, options))


def run_once(session: Session, name: str, options: tuple[str, ...]) -> None:
    """Run the recipe."""
    session.run(f"{name}.yaml", *options)


def _demo(folder: Path) -> None:
    shutil.copy(RECIPES / "demo.jsonl", folder)


def _generators(folder: Path) -> None:
    write_jsonl(folder / "rich_prompts.jsonl", inputs.rich_prompts())
    write_jsonl(folder / "few_pairs.jsonl", inputs.pairs(6))
    (folder / "others.txt").write_text("\n\n".join(f"Paragraph {i} speaks of other things." for i in range(80)))


def _pairs(n: int, per_prompt: int) -> Callable[[Path], None]:
    return lambda folder: write_jsonl(folder / "pairs.jsonl", inputs.pairs(n, per_prompt))


def _sources(folder: Path) -> None:
    write_jsonl(folder / "pairs.jsonl", inputs.pairs(90))
    write_csv(folder / "labelled.csv", inputs.labelled(30))
    (folder / "rated.json").write_text(json.dumps(inputs.rated(12)))
    pl.DataFrame(inputs.conversations(10)).write_parquet(folder / "talks.parquet")
    write_jsonl(folder / "unclean.jsonl", inputs.to_be_cleaned())
    (folder / "benchmark.txt").write_text(inputs.BENCHMARK + "\n")


def _answers(folder: Path) -> None:
    write_jsonl(folder / "prompts.jsonl", inputs.prompts(24))
    write_jsonl(folder / "known.jsonl", inputs.pairs(8))
    for name in ("answers.jsonl", "typed.jsonl"):
        (folder / name).touch()


def _play_answers(session: Session) -> None:
    """Nobody answers; people answer in the terminal and in a file; some answers are taken back."""
    recipe = "answers.yaml"
    session.run(recipe)
    session.people_type("typed.jsonl", "ann", "abtabxsab")
    session.people_answer("answers.jsonl", ("bob", "cem"))
    session.run(recipe)
    session.ask("diff", "answers@1", "answers@2")
    session.ask("verify", "answers@2")
    session.ask("annotations")
    session.ask("rejects", "--rows", "1000")
    pair = session.ask("queue", "--rows", "1000")[0]["pair_id"]
    session.ask("explain", pair)
    export = ("export", "answers@2", "--format", "trl-reward", "--out", f"{WRITTEN}/reward")
    session.ask(*export, "--option", "soft_labels=duplicate", "--option", "margin=true")
    kept = (session.folder / "answers.jsonl").read_text().splitlines(keepends=True)[::2]
    (session.folder / "answers.jsonl").write_text("".join(kept) + "not json\n")
    session.run(recipe, "--budget", "80")


def method(dataset: str, humans: bool = False, **sections: Any) -> dict[str, Any]:
    """The recipe `methods` under another dataset's name, with some of its sections replaced or filled."""
    recipe = frozen("methods")
    if humans:
        recipe["sources"][0]["votes"].append({"kind": "human", "labels": "human_labels", "voters": "human_annotators"})
    for name, section in sections.items():
        recipe[name] = {**recipe.get(name, {}), **section}
    recipe["materialise"]["dataset"] = dataset
    return recipe


def _fusers() -> Case:
    plugin = "plugin"
    ways = {
        "majority": {"fuse": {"fuser": {plugin: "majority"}, "policy": {plugin: "human_only", "otherwise": "drop"}}},
        "dawid": {"fuse": {"fuser": {plugin: "dawid_skene"}, "policy": {plugin: "moss"}}},
        "glad": {"fuse": {"fuser": {plugin: "glad"}}, "route": {"router": {plugin: "random"}}},
        "stack": {"fuse": {"fuser": {plugin: "stack"}}, "route": {"router": {plugin: "uncertainty"}}},
        "isotonic": {
            "fuse": {
                "fuser": {plugin: "posterior", "calibration": "isotonic"},
                "policy": {plugin: "posterior", "doubtful": "soften"},
            },
            "route": {"router": {plugin: "all"}},
        },
    }
    recipes = {f"{name}.yaml": method(name, humans=True, **sections) for name, sections in ways.items()}
    return Case("fusers", recipes, _no_answers, lambda session: _each_in_one_workspace(session, list(recipes)))


def _no_answers(folder: Path) -> None:
    (folder / "answers.jsonl").touch()


def _each_in_one_workspace(session: Session, recipes: list[str]) -> None:
    for recipe in recipes:
        session.run(recipe)


def _routers() -> Case:
    """Routers that learn: asked, answered, asked again with a larger budget."""
    routers: dict[str, dict[str, Any]] = {"learned": {"minimum": 20}, "bandit": {"slice": "origin"}}
    recipes = {
        f"{name}.yaml": method(name, route={"router": {"plugin": name, **settings}})
        for name, settings in routers.items()
    }
    return Case("routers", recipes, _no_answers, lambda session: _ask_twice(session, list(routers)))


def _ask_twice(session: Session, names: list[str]) -> None:
    for name in names:
        session.run(f"{name}.yaml", workspace=f"w-{name}")
    session.people_answer("answers.jsonl", ("ann", "bob"), workspace=f"w-{names[0]}")
    for name in names:
        session.run(f"{name}.yaml", "--budget", "60", workspace=f"w-{name}")
        session.ask("queue", "--rows", "1000", workspace=f"w-{name}")


CASES = {
    case.name: case
    for case in (
        simple("demo", "--limit", "24", lay_out=_demo),
        simple("pandalm", "--limit", "200"),
        simple("hh_harmless", "--limit", "30"),
        simple("llmbar", "--limit", "150"),
        simple("ukpconvarg", "--limit", "300"),
        simple("gpu_judge", "--limit", "80"),
        simple("generators", lay_out=_generators),
        simple("judges", lay_out=_pairs(24, 3)),
        simple("scorers", lay_out=_pairs(48, 2)),
        simple("sources", lay_out=_sources),
        _fusers(),
        _routers(),
        Case("answers", {"answers.yaml": frozen("answers")}, _answers, _play_answers),
    )
}

# What no case runs, and why. Everything else that NEW's registry names must be in a recipe above.
NOT_COVERED = {
    "engines/llamacpp": "starts a model; two machines' models do not reply alike, so the stub stands for it",
    "engines/vllm": "needs a GPU and an environment of its own; the stub stands for it",
}


def used_plugins() -> set[str]:
    """`kind/name` of every plug-in that a case's recipes use, the defaults too."""
    used = set()
    for case in CASES.values():
        for recipe in case.recipes.values():
            fuse, route = recipe.get("fuse", {}), recipe.get("route", {})
            uses = {
                "engines": list(recipe.get("engines", {}).values()),
                "generators": recipe.get("generate", {}).get("generators", []),
                "judges": recipe.get("judge", {}).get("judges", []),
                "scorers": recipe.get("score", {}).get("scorers", []),
                "fusers": [fuse.get("fuser", {"plugin": "posterior"})],
                "policies": [fuse.get("policy", {"plugin": "posterior"})],
                "routers": [route.get("router", {"plugin": "value"})],
                "exporters": [{"plugin": use["format"]} for use in recipe.get("materialise", {}).get("exports", [])],
            }
            used |= {f"{kind}/{use['plugin']}" for kind, found in uses.items() for use in found}
    return used


def uncovered(plugins: dict[str, list[str]]) -> list[str]:
    """What a registry names and neither a case runs nor `NOT_COVERED` excuses."""
    known = {f"{kind}/{name}" for kind, names in plugins.items() for name in names}
    return sorted(known - used_plugins() - set(NOT_COVERED))
