"""What so many pairs take: processor hours, GPU hours, disk and money, from rates that the other benchmarks measure.

    python -m tests.benchmarks.capacity [--pairs 1000000 40000000 1000000000] [--judges 3] [--cores 64] ...

Every rate is an argument; the defaults of the first group are what the command beside it printed on two cores without
a GPU, those of the second group are assumptions to replace with your own. A judge reads a request a pair and order and
answers with one token, so a GPU's rate is its prefill rate: peak operations a second times utilisation over two
operations a parameter and token (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1). Prefix
caches would take off what both orders and all judges share; they are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

HOUR = 3600


@dataclass(frozen=True)
class Rates:
    """What one unit of work takes.

    Attributes:
        tabular_s: processor seconds a million pairs of ten votes, ingest to publish (tests.benchmarks.tabular).
        embedding_s: processor seconds a thousand texts of about 300 characters (tests.benchmarks.embeddings).
        request_us: processor microseconds a request of our client (tests.benchmarks.llm, beam).
        bytes_pair: of the workspace and one version, compressed (tests.benchmarks.tabular, --keep).
        judges: LLM judges, each asked in both orders.
        tokens: a request's tokens, prompt and both responses with the template.
        parameters: of the judge, in billions.
        tflops: peak of one GPU in the precision served.
        utilisation: share of the peak that prefill reaches.
        core_price: of one processor core an hour.
        gpu_price: of one GPU an hour.
        cores: processor cores, for the hours.
        gpus: for the hours.
    """

    tabular_s: float = 285.0
    embedding_s: float = 50.0
    request_us: float = 271.0
    bytes_pair: float = 3000.0
    judges: float = 3
    tokens: float = 900
    parameters: float = 8
    tflops: float = 989
    utilisation: float = 0.4
    core_price: float = 0.04
    gpu_price: float = 2.5
    cores: float = 64
    gpus: float = 8


def needs(pairs: int, rates: Rates) -> dict[str, float]:
    """Processor and GPU hours, disk in GB, money, and hours on so many cores and GPUs, one after the other."""
    requests = pairs * rates.judges * 2
    tabular = pairs / 1e6 * rates.tabular_s / HOUR
    embedding = pairs * 3 / 1e3 * rates.embedding_s / HOUR
    asking = requests * rates.request_us / 1e6 / HOUR
    tokens_per_s = rates.tflops * 1e12 * rates.utilisation / (2 * rates.parameters * 1e9)
    gpu = requests * rates.tokens / tokens_per_s / HOUR
    cores = tabular + embedding + asking
    return {
        "tabular, core h": tabular,
        "embeddings, core h": embedding,
        "asking, core h": asking,
        "judging, GPU h": gpu,
        "disk, GB": pairs * rates.bytes_pair / 1e9,
        "money": cores * rates.core_price + gpu * rates.gpu_price,
        "hours": (tabular + embedding) / rates.cores + max(gpu / rates.gpus, asking / rates.cores),
    }


def main() -> int:
    """Print a column a number of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000_000, 40_000_000, 1_000_000_000])
    for field in fields(Rates):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    options = vars(parser.parse_args())
    sizes = options.pop("pairs")
    found = [needs(n, Rates(**options)) for n in sizes]
    print(f"| | {' | '.join(f'{n:,} pairs' for n in sizes)} |\n|---|{'---|' * len(sizes)}")
    for name in found[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:,.1f}' for column in found)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
