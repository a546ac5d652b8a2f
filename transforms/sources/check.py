"""The sources of a recipe, checked before anything runs: settings, names, and that the files are there."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from schemas.errors import DataError
from schemas.names import did_you_mean
from schemas.recipe_file import Location, RecipeFile
from transforms.sources.config import HumanVotes, PairsSource, PromptsSource
from transforms.sources.files import columns_in, source_files

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
            hint, known = did_you_mean(kind, _KINDS), ", ".join(_KINDS)
            raise file.error(("sources", index, "kind"), f"no kind of source named {kind!r}{hint} Known: {known}")
        source = file.validated(_KINDS[kind], settings, ("sources", index))
        if source.name in names:
            text = f"the name {source.name!r} is used twice; rows are traced by it, so give this source another name"
            raise file.error(("sources", index, "name"), text)
        names.add(source.name)
        if source.path is not None:
            try:
                files = list(source_files(source, file.base_dir))
            except DataError as error:
                raise file.error(("sources", index, "path"), str(error)) from None
            _check_columns(file, index, source, [path for path, _ in files])


def _check_columns(file: RecipeFile, index: int, source: PromptsSource | PairsSource, paths: list[Path]) -> None:
    """Every column that the recipe names is in every file; what cannot be read is left to reading."""
    wanted: list[tuple[Location, str]] = [(("columns", field), c) for field, c in source.columns.items() if c]
    for number, votes in enumerate(source.votes if isinstance(source, PairsSource) else ()):
        fields = ("labels", "voters") if isinstance(votes, HumanVotes) else ("column",)
        wanted += [(("votes", number, field), getattr(votes, field)) for field in fields if getattr(votes, field)]
    for path in paths if wanted else ():
        try:
            present = columns_in(path, {column for _, column in wanted})
        except (DataError, OSError, ValueError, pl.exceptions.PolarsError):
            continue
        for field, column in wanted if present else ():
            if column not in present:
                hint = did_you_mean(column, present)
                text = f"{path.name} has no column {column!r}{hint} Columns there: {', '.join(present)}"
                raise file.error(("sources", index, *field), text)
