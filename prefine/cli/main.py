"""`prefine`: the commands. Each parses words, calls pipelines, prints; exit 0 done, 1 failed, 2 wrong usage.

What a command computes with is imported by the command: `--help`, `--version` and the commands that read would
otherwise wait a second for what the run needs.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

# Beam warns through the root logger while it is imported, so logging is set up before our own imports.
_HANDLER = logging.StreamHandler(sys.stderr)
logging.basicConfig(level=logging.ERROR, handlers=[_HANDLER])
logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what a worker raises reaches us as an exception
warnings.filterwarnings("ignore", module=r"apache_beam\..*")
# Libraries read these when they are imported, in the workers too: progress is ours to show.
for _bars in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(_bars, "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from typing import Annotated  # noqa: E402

import typer  # noqa: E402

from prefine.cli import annotate, build, inspect, setup, versions  # noqa: E402
from prefine.cli.output import PlainFormatter, say  # noqa: E402
from schemas.errors import PrefineError  # noqa: E402

app = typer.Typer(
    name="prefine",
    help="Preference-data curation: generate, judge, score noise, ask humans, publish versioned datasets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_HANDLER.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
for group in (setup, build, annotate, inspect, versions):
    group.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        try:
            say(f"prefine {importlib.metadata.version('prefine')}")
        except importlib.metadata.PackageNotFoundError:
            say("prefine, not installed")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Preference-data curation: generate, judge, score noise, ask humans, publish versioned datasets."""


def main() -> None:
    """Entry point of the `prefine` command."""
    try:
        app()
    except PrefineError as error:
        say(f"error: {error}", sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
