"""Every quality table from the real data: tables 1, 3 and 6 (label noise), 2, 4, 5 and 7 (fusion).

Run from the repository's root:
    python tests/benchmarks/quality.py [--quick] [--seeds 5] [--data DIR] [--tables 1 2 3 4 5 6 7]
Every bar is printed with its figure, met or MISSED; exit 1 when one is missed. docs/quality.md explains the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "1": "noise detection: ours, self-confidence, cleanlab, moss, clean bound",
    "2": "fusion against the human majority",
    "3": "a reward model trained on raw, curated and clean labels",
    "4": "cost of fusing five million votes",
    "5": "agreement with humans by slice",
    "6": "one prompt with many pairs: noise detection and cost",
    "7": "error rates without labels, and voters that share a bias",
}


def main(argv: list[str] | None = None) -> int:
    """Run the tables asked for; each prints as soon as it is done."""
    listing = "\n".join(f"  {number}  {what}" for number, what in TABLES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"tables:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: fewer seeds and sets, small sizes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real data")
    parser.add_argument("--cache", type=Path, help="folder that keeps embeddings between runs (tables 1, 3 and 6)")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--sets", nargs="+", help="data sets of tables 1 and 3 (default: all)")
    parser.add_argument(
        "--rates", nargs="+", help="shares of labels flipped in tables 1, 3 and 6 (default: .1 .2 .3 .4)"
    )
    args = parser.parse_args(argv)
    common = ["--data", str(args.data), "--seeds", str(args.seeds), *(["--quick"] if args.quick else [])]
    kept = ["--cache", str(args.cache)] if args.cache else []
    rates = ["--rates", *args.rates] if args.rates else []
    code = 0
    if noise_tables := [t for t in args.tables if t in ("1", "3")]:
        from tests.benchmarks.quality import noise

        chosen = ["--sets", *args.sets] if args.sets else []
        code |= noise.main([*common, *kept, *rates, *chosen, "--tables", *noise_tables])
    if fusion_tables := [t for t in args.tables if t in ("2", "4", "5")]:
        from tests.benchmarks.quality import fusion

        code |= fusion.main([*common, "--tables", ",".join(fusion_tables)])
    if "6" in args.tables:
        from tests.benchmarks.quality import noise_one_prompt

        code |= noise_one_prompt.main([*common, *kept, *rates])
    if "7" in args.tables:
        from tests.benchmarks.quality import agreement

        code |= agreement.main(common)
    return code


if __name__ == "__main__":
    # A script's folder comes first on the path, where `quality.py` would hide the package of that name.
    sys.path[0] = str(ROOT)
    sys.exit(main())
