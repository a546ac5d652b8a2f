"""`python -m tests.benchmarks [NAME ...]`: run the benchmarks whose figures the docs quote, one after another.

Those that need an environment of their own are run by hand: `tests.benchmarks.peers`, and `tests.benchmarks.llm` with
`--vllm` or `--distilabel`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

BENCHMARKS = {
    "llm": ["-m", "tests.benchmarks.llm"],
    "llm_heavy": ["-m", "tests.benchmarks.llm", "--heavy"],
    "embeddings": ["-m", "tests.benchmarks.embeddings", "--folder", "{scratch}/e"],
    "attacks": ["-m", "tests.benchmarks.attacks"],
    "panel": ["-m", "tests.benchmarks.panel"],
    "agreement": ["-m", "tests.benchmarks.agreement"],
    "near_duplicates": ["-m", "tests.benchmarks.near_duplicates"],
    "publish": ["-m", "tests.benchmarks.publish", "--folder", "{scratch}"],
    "tabular": ["-m", "tests.benchmarks.tabular", "--folder", "{scratch}"],
    "splits": ["-m", "tests.benchmarks.splits"],
    "routing": ["-m", "tests.benchmarks.routing"],
    "capacity": ["-m", "tests.benchmarks.capacity"],
    "quality": ["tests/benchmarks/quality.py"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all by default")
    failed = []
    for name in parser.parse_args().names or BENCHMARKS:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            words = [word.format(scratch=scratch) for word in BENCHMARKS[name]]
            if subprocess.run([sys.executable, *words], check=False).returncode:
                failed.append(name)
    if failed:
        print(f"missed a bar or failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
