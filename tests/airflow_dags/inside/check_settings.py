"""The settings file: every wrong field is named, and stops nobody else's DAGs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from conftest import DAGS
from prefine_airflow.fields import SettingsError
from prefine_airflow.settings import ASK_MODELS, CPU_POOL, GPU_POOL, STAGES, Recipe, load

ONE = {"name": "a", "recipe": "r.yaml", "workspace": "w"}


def settings(folder: Path, text: str) -> Path:
    path = folder / "curation.yaml"
    path.write_text(text)
    return path


def written(folder: Path, *recipes: object, **shared: object) -> Path:
    return settings(folder, yaml.safe_dump({"recipes": list(recipes), **shared}))


def only(path: Path) -> Recipe:
    (recipe,) = load(path).recipes
    return recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "recipes"),
        ("recipes: []", "recipes"),
        ("recipes: [", "curation.yaml"),
        ("recipes: [{name: a}]\nrecipe: b", "'recipe'"),
        ("recipes: [{name: a}]\nplace: docker", "place"),
        ("recipes: [{name: a}]\nplace: {kind: cloud}", "place.kind"),
        ("recipes: [{name: a}]\nplace: {kind: docker}", "place.image"),
        ("recipes: [{name: a}]\nplace: {image: x}", "place.image"),
        ("recipes: [{name: a}]\nplace: {prefine: []}", "place.prefine"),
        ("recipes: [{name: a}]\nplace: {prefine: {a: b}}", "place.prefine"),
        ("recipes: [{name: a}]\nenv: [TOKEN]", "env"),
        ("recipes: [{name: a}]\nenv: {TOKEN: [x]}", "env"),
    ],
)
def test_what_all_recipes_share_is_an_error_at_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(settings(tmp_path, text))
    assert words in str(error.value)
    assert "curation.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": None}, "name"),
        ({"name": "A B"}, "name"),
        ({"name": 3}, "name"),
        ({"recipe": "r.txt"}, "recipe"),
        ({"recipe": ["r.yaml"]}, "recipe"),
        ({"workspace": ""}, "workspace"),
        ({"dataset": "A/B"}, "dataset"),
        ({"lables": {}}, "lables"),
        ({"place": {"kind": "local"}}, "place"),
        ({"schedule": "every night"}, "schedule"),
        ({"schedule": 1}, "schedule"),
        ({"formats": "trl-dpo"}, "formats"),
        ({"formats": ["jsonl", "jsonl"]}, "formats"),
        ({"formats": [3]}, "formats"),
        ({"formats": [".."]}, "formats"),
        ({"formats": ["../x"]}, "formats"),
        ({"exports": 3}, "exports"),
        ({"budget": -3}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"limit": "all"}, "limit"),
        ({"labels": "soon"}, "labels"),
        ({"labels": {"enough": "many"}}, "labels.enough"),
        ({"labels": {"enough": 2}}, "labels.enough"),
        ({"labels": {"enough": 0}}, "labels.enough"),
        ({"labels": {"hours": -1}}, "labels.hours"),
        ({"labels": {"hours": math.inf}}, "labels.hours"),
        ({"labels": {"poll_minutes": 0}}, "labels.poll_minutes"),
        ({"labels": {"poll": 1}}, "poll"),
        ({"sign_off": "yes"}, "sign_off"),
        ({"sign_off_hours": 0}, "sign_off_hours"),
        ({"late_hours": "soon"}, "late_hours"),
        ({"late_hours": math.nan}, "late_hours"),
        ({"keep": 0}, "keep"),
        ({"keep": True}, "keep"),
        ({"retries": "three"}, "retries"),
        ({"retries": -1}, "retries"),
        ({"retry_minutes": 0}, "retry_minutes"),
        ({"stages": {"judge": 3}}, "stages.judge"),
        ({"stages": ["judge"]}, "stages"),
        ({"stages": {"juge": {}}}, "juge"),
        ({"stages": {"judge": {"pool": 3}}}, "stages.judge.pool"),
        ({"stages": {"judge": {"timeout_hours": 0}}}, "stages.judge.timeout_hours"),
        ({"stages": {"judge": {"options": {"image": "x"}}}}, "stages.judge.options"),
        ({"env": {"TOKEN": None}}, "env"),
    ],
)
def test_a_wrong_recipe_is_named_and_stops_nobody_else(tmp_path: Path, given: dict[str, object], field: str) -> None:
    good = {"name": "good", "recipe": "g.yaml", "workspace": "g"}
    found = load(written(tmp_path, {**ONE, **given}, good))
    assert [recipe.name for recipe in found.recipes] == ["good"]
    (error,) = found.errors
    assert "curation.yaml: recipes[0]" in error
    assert field in error


def test_every_fault_of_a_recipe_is_told_at_once_and_the_nearest_field_is_named(tmp_path: Path) -> None:
    wrong = {"keep": 0, "budget": 1.5, "labels": {"hours": -1}, "stages": {"judge": {"pol": "mine"}}}
    (error,) = load(written(tmp_path, {**ONE, **wrong})).errors
    file = tmp_path / "curation.yaml"
    assert error.splitlines() == [
        f"{file}: recipes[0].budget: expected a whole number, not 1.5",
        f"{file}: recipes[0].labels.hours: expected a value greater than or equal to 0, not -1",
        f"{file}: recipes[0].keep: expected a value greater than or equal to 1, not 0",
        f"{file}: recipes[0].stages.judge: unknown field 'pol'; did you mean 'pool'?",
    ]


@pytest.mark.parametrize("missing", ["name", "recipe", "workspace"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    found = load(written(tmp_path, {name: value for name, value in ONE.items() if name != missing}, "no mapping"))
    assert f"recipes[0].{missing}: expected" in found.errors[0]
    assert "recipes[1]: expected a mapping" in found.errors[1]
    assert found.recipes == ()


def test_of_two_with_one_name_or_dataset_the_first_has_it(tmp_path: Path) -> None:
    found = load(written(tmp_path, ONE, {**ONE, "dataset": "b"}, {**ONE, "name": "c", "dataset": "a"}))
    assert [recipe.name for recipe in found.recipes] == ["a"]
    assert ["recipes[1].name" in found.errors[0], "recipes[2].dataset" in found.errors[1]] == [True, True]


def test_every_field_at_its_limits_is_taken(tmp_path: Path) -> None:
    least = {
        **ONE,
        "schedule": "@daily",
        "formats": [],
        "exports": "e",
        "budget": 1,
        "limit": None,
        "labels": {"enough": 1, "hours": 0, "poll_minutes": 0.1},
        "late_hours": 0,
        "keep": 1,
        "retries": 0,
        "env": {"PORT": 80},
    }
    recipe = only(written(tmp_path, least))
    assert (recipe.env, recipe.schedule, recipe.budget) == ({"PORT": "80"}, "@daily", 1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_keeps_its_pool_whatever_else_is_set(tmp_path: Path, stage: str) -> None:
    usual = GPU_POOL if stage in ASK_MODELS else CPU_POOL
    recipe = only(written(tmp_path, {**ONE, "stages": {stage: {"timeout_hours": 24}}}))
    assert (recipe.stage(stage).pool, recipe.stage(stage).timeout_hours) == (usual, 24)
    assert only(written(tmp_path, ONE)).stage(stage).pool == usual
    assert only(written(tmp_path, {**ONE, "stages": {stage: {"pool": "mine"}}})).stage(stage).pool == "mine"


def test_relative_paths_start_at_the_file_but_not_inside_containers(tmp_path: Path) -> None:
    here = only(written(tmp_path, ONE, place={"prefine": "../bin/prefine"}))
    assert (here.recipe, here.workspace) == (str(tmp_path / "r.yaml"), str(tmp_path / "w"))
    assert here.place.prefine == (str(tmp_path.parent / "bin" / "prefine"),)
    there = only(written(tmp_path, ONE, place={"kind": "docker", "image": "prefine:1"}))
    assert (there.recipe, there.workspace) == ("r.yaml", "w")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("place", "wrong", "words"),
    [
        ({}, {"keep": 0}, "recipes[0].keep"),
        ({"kind": "docker", "image": "p:1"}, {"stages": {"judge": {"options": {"gpu": 1}}}}, "stages.judge.options"),
        (
            {"kind": "kubernetes", "image": "p:1"},
            {"stages": {"judge": {"options": {"on_finish_action": "explode"}}}},
            "stages.judge.options",
        ),
    ],
)
def test_a_wrong_recipe_is_an_import_error_where_no_dag_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, str], wrong: dict[str, object], words: str
) -> None:
    good = {"name": "good", "recipe": "g.yaml", "workspace": "g"}
    monkeypatch.setenv("PREFINE_CURATION", str(written(tmp_path, {**ONE, **wrong}, good, place=place)))
    bag = BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags-folder")
    assert set(bag.dags) == {"curate_good", "train_on_good", "maintain_prefine"}
    assert {task.task_id.split(".")[0] for task in bag.dags["maintain_prefine"].tasks} == {"good"}
    ((file, error),) = bag.import_errors.items()
    assert file == "check_settings.py"
    assert "curation.yaml" in error
    assert words in error


def test_an_option_that_all_share_is_an_import_error_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"kind": "docker", "image": "p:1", "imagee": "p:2"}
    monkeypatch.setenv("PREFINE_CURATION", str(written(tmp_path, ONE, place=place)))
    bag = BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.dags == {}
    assert len(bag.import_errors) == 4
    assert all("imagee" in error for error in bag.import_errors.values())
