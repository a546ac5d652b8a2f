"""The JSON schema that editors check recipes with agrees with the models that the run checks them with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.inspect.recipe_schema import recipe_schema
from tests.conftest import ROOT
from transforms.plugins.registry import BASES, find, names

RECIPES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("prefine/cli/templates/*/recipe.yaml")])
BASE: dict[str, Any] = {"name": "small", "sources": [{"name": "rows", "kind": "pairs", "path": "rows.jsonl"}]}


@cache
def validator() -> jsonschema.Draft202012Validator:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_recipes_are_valid(path: Path) -> None:
    assert [error.message for error in validator().iter_errors(yaml.safe_load(path.read_text()))] == []


WRONG: dict[str, dict[str, Any]] = {
    "unknown section": {"jugde": {}},
    "unknown field": {"judge": {"budgett": {}}},
    "unknown plug-in": {"score": {"scorers": [{"plugin": "lenght"}]}},
    "unknown setting": {"judge": {"judges": [{"plugin": "logprob", "engine": "e", "tempratur": 1}]}},
    "missing setting": {"judge": {"judges": [{"plugin": "logprob"}]}},
    "unknown queue field": {"route": {"queue": {"bugdet": 3}}},
    "unknown export": {"materialise": {"exports": [{"format": "trl-dop"}]}},
    "unknown option": {"materialise": {"exports": [{"format": "trl-dpo", "options": {"contxt": "user"}}]}},
    "unknown kind of source": {"sources": [{"name": "rows", "kind": "pair", "path": "rows.jsonl"}]},
    "wrong type": {"buckets": "many"},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_run_refuses_an_editor_marks(name: str) -> None:
    assert validator().is_valid(BASE)
    assert not validator().is_valid({**BASE, **WRONG[name]})


def test_every_reference_leads_somewhere_and_every_setting_is_there() -> None:
    schema = recipe_schema()
    definitions = schema["$defs"]
    assert {ref.removeprefix("#/$defs/") for ref in references(schema)} <= definitions.keys()
    for kind in BASES:
        for name in names(kind):
            properties = definitions[f"{kind}.{name}"]["properties"]
            settings = properties["options"]["properties"] if kind == "exporters" else properties
            assert find(kind, name).Config.model_fields.keys() <= settings.keys()


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        inner = set[str]().union(*(references(part) for part in value.values()))
        return inner | ({value["$ref"]} if isinstance(value.get("$ref"), str) else set())
    return set[str]().union(*(references(part) for part in value)) if isinstance(value, list) else set()
