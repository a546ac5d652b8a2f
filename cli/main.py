"""`prefine`: the commands. Each parses words, calls pipelines, prints; exit 0 done, 1 failed, 2 wrong words."""

from __future__ import annotations

import logging
import sys
import warnings

import typer

from cli import annotate, build, inspect, setup
from schemas.errors import PrefineError

app = typer.Typer(
    name="prefine",
    help="Preference-data curation: generate, judge, score noise, ask humans, publish versioned datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
setup.add_to(app)
build.add_to(app)
annotate.add_to(app)
inspect.add_to(app)


def main() -> None:
    """Entry point of the `prefine` command."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "sentence_transformers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what a worker raises reaches us as an exception
    warnings.filterwarnings("ignore", module=r"apache_beam\..*")
    try:
        app()
    except PrefineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
