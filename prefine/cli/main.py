"""`prefine`: the commands. Each parses words, calls pipelines, prints; exit 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys
import warnings

# Beam warns through the root logger while it is imported, so logging is set up before our own imports.
_HANDLER = logging.StreamHandler(sys.stderr)
logging.basicConfig(level=logging.ERROR, handlers=[_HANDLER])
logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what a worker raises reaches us as an exception
warnings.filterwarnings("ignore", module=r"apache_beam\..*")

import typer  # noqa: E402

from prefine.cli import annotate, build, inspect, setup, versions  # noqa: E402
from prefine.cli.output import PlainFormatter, say  # noqa: E402
from schemas.errors import PrefineError  # noqa: E402

app = typer.Typer(
    name="prefine",
    help="Preference-data curation: generate, judge, score noise, ask humans, publish versioned datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_HANDLER.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
for group in (setup, build, annotate, inspect, versions):
    group.add_to(app)


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
