"""What identities hold: what can change the output, and nothing at its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from pydantic import Field

from schemas.recipe_file import parse_recipe
from tests import defaults
from transforms.judges.base import Judge
from transforms.plugins.base import Plugin, PluginConfig
from transforms.plugins.recipe_hash import recipe_hash
from transforms.plugins.registry import BASES, find, names
from transforms.scorers.base import Scorer

ALL = [(kind, name) for kind in BASES for name in names(kind)]


def test_defaults_change_with_the_version_alone() -> None:
    """If this fails after a new setting: `python -m tests.defaults`; after a changed default: raise `version` first."""
    recorded = json.loads(defaults.RECORD.read_text())
    assert defaults.changed(recorded, defaults.current()) == []
    assert recorded == defaults.current()


def test_defaults_inside_other_settings_are_recorded() -> None:
    recorded = json.loads(defaults.RECORD.read_text())
    assert recorded["stage clean"]["defaults"]["HygieneConfig.DuplicatesConfig.threshold"] > 0
    assert "Exemplar.note" in recorded["judges/logprob"]["defaults"]


def test_a_changed_default_is_told_unless_the_version_is_new() -> None:
    before = {"judges/x": {"version": 1, "defaults": {"a": 1, "gone": 2}}}
    assert defaults.changed(before, {"judges/x": {"version": 1, "defaults": {"a": 1, "new": 3}}}) == []
    assert defaults.changed(before, {"judges/x": {"version": 2, "defaults": {"a": 5}}}) == []
    assert defaults.changed(before, {"judges/x": {"version": 1, "defaults": {"a": 5}}}) == [
        "judges/x version 1: the default of a was 1 and is 5"
    ]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_plugin_is_of_its_kinds_base_class(kind: str, name: str) -> None:
    plugin = find(kind, name)
    assert issubclass(plugin, Plugin)
    assert [
        base for base in plugin.__mro__ if base.__module__ == f"transforms.{kind}.base" and base.__name__ == BASES[kind]
    ]
    assert (plugin.kind, plugin.plugin_name) == (kind, name)
    assert not getattr(plugin, "__abstractmethods__", None)
    assert issubclass(plugin.Config, PluginConfig)


@pytest.mark.parametrize(("kind", "name"), [("scorers", "length"), ("judges", "logprob"), ("fusers", "posterior")])
def test_a_new_setting_at_its_default_changes_no_identity(kind: str, name: str) -> None:
    plugin = find(kind, name)

    class Config(plugin.Config):  # type: ignore[name-defined, misc]
        added: int = Field(3)

    class Later(plugin):  # type: ignore[valid-type, misc]
        pass

    Later.Config = Config
    given = {"engine": "e"} if kind == "judges" else {}

    def made(cls: type[Plugin], **settings: object) -> object:
        one = cls("x", cls.Config(**given, **settings), 0)
        if isinstance(one, Judge):
            one.bind({"e": "model"})
        return one.identity

    assert made(Later) == made(plugin) == made(Later, added=3)
    assert made(Later, added=4) != made(plugin)


def test_a_new_version_is_another_identity() -> None:
    plugin = find(Scorer, "length")

    class Later(plugin):  # type: ignore[valid-type, misc]
        version: ClassVar[int] = plugin.version + 1

    assert Later("x", Later.Config(), 0).identity != plugin("x", plugin.Config(), 0).identity


def test_a_recipe_means_the_same_with_its_defaults_written_out() -> None:
    def made(**more: object) -> str:
        given = {"name": "r", "sources": [{"name": "s", "kind": "pairs", "path": "p.jsonl"}], **more}
        return recipe_hash(parse_recipe(yaml.safe_dump(given), Path("r.yaml")).recipe)

    brief = made(score={"scorers": [{"plugin": "length"}]})
    written_out = made(
        seed=0,
        sources=[{"name": "s", "kind": "pairs", "path": "p.jsonl", "max_chars": 1_000_000, "pairing": "all"}],
        score={"scorers": [{"plugin": "length", "name": "length", "unit": "words"}], "fit_pairs": 50_000},
        fuse={"fuser": {"plugin": "posterior", "trust": 2.0}},
        hygiene={},
        route={"queue": {"budget": 7}},  # whom people are asked about changes no row by itself
        materialise={"exports": [{"format": "jsonl"}]},
    )
    assert brief == written_out
    assert made() != brief
    here, there = ({"e": {"plugin": "openai", "base_url": f"http://{host}/v1", "model": "m"}} for host in ("a", "b"))
    assert made(engines=here) == made(engines={"e": {**there["e"], "retries": 9}})  # the same model elsewhere
    assert made(engines=here) != made(engines={"e": {**here["e"], "model": "n"}})
    assert made(score={"scorers": [{"plugin": "length", "unit": "chars"}]}) != brief
    assert made(score={"scorers": [{"plugin": "length", "name": "long"}]}) != brief
    assert made(score={"scorers": [{"plugin": "length"}]}, seed=1) != brief
