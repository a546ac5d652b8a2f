"""The sources of a recipe, checked before anything runs: settings, names, and that the files are there."""

from __future__ import annotations

import difflib

from schemas.errors import DataError
from schemas.recipe_file import RecipeFile
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.files import source_files

_KINDS: dict[str, type[PromptsSource] | type[PairsSource]] = {"prompts": PromptsSource, "pairs": PairsSource}


def check_sources(file: RecipeFile) -> None:
    """Check every source of a recipe.

    Raises:
        RecipeError: an unknown kind or field, a wrong value, a name used twice, or no file: with file, line,
            field and the nearest valid name.
    """
    names: set[str] = set()
    for index, settings in enumerate(file.recipe.sources):
        kind = str(settings.get("kind"))
        if kind not in _KINDS:
            near = difflib.get_close_matches(kind, _KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(_KINDS)
            raise file.error(("sources", index, "kind"), f"no kind of source named {kind!r}{hint} Known: {known}")
        source = file.validated(_KINDS[kind], settings, ("sources", index))
        if source.name in names:
            text = f"the name {source.name!r} is used twice; rows are traced by it, so give this one another"
            raise file.error(("sources", index, "name"), text)
        names.add(source.name)
        if source.path is not None:
            try:
                list(source_files(source, file.base_dir))
            except DataError as error:
                raise file.error(("sources", index, "path"), str(error)) from None
