"""docs/recipe.md says what the models say, of every plug-in and field."""

from __future__ import annotations

from tests.recipe_reference import PAGE, page
from transforms.plugins.registry import BASES, distribution_of, find, names

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert page() == TEXT, "run: python -m tests.recipe_reference"


def test_every_setting_of_every_plug_in_is_in_its_table() -> None:
    for kind in BASES:
        for name in names(kind):
            if distribution_of(kind, name) is None:
                table = TEXT.partition(f"### {kind}: {name}\n")[2].partition("\n### ")[0]
                for field in find(kind, name).Config.model_fields:
                    assert f"| `{field}` |" in table, (kind, name, field)
