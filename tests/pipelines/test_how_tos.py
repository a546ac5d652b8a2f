"""What the READMEs show for making pairs runs as it stands there, with input of the form they describe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import run_recipe
from tests.conftest import ROOT
from tests.pipelines.test_every_generator import LOGS, PAIR, REFERENCE
from tests.stub_llm import StubServer, draw
from transforms.generators.preferences.contrasts import contrasts
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATORS = (ROOT / "transforms" / "generators" / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "The lighthouse of Cape Norr was built in 1871 and stands 42 metres high.",
    "Its keeper in 1900 was Ada Lind, who kept a diary for 31 years.",
]
WORDS = [
    "tide",
    "moon",
    "sea",
    "because",
    "often",
    "might",
    "you",
    "12",
    "days",
    "coast",
    "example",
    "I",
    "don't",
    "north",
]


def snippets(text: str, title: str) -> list[Any]:
    """The YAML blocks under the header that holds `title`."""
    [body] = re.findall(rf"^##+ [^\n]*{re.escape(title)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(code) for code in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)]


def reply(body: dict[str, Any]) -> str:
    """Something of the form that is asked for: a verdict, a rating, a rewrite, an object, or a few sentences."""
    seed = json.dumps(body, sort_keys=True)
    if body.get("max_tokens", 99) <= 4:
        asked = body["messages"][-1]["content"]
        a, b = (re.findall(rf"\[Response {x}\](.*?)\[End", asked, re.DOTALL) for x in "AB")
        return prefers(asked, a[0].strip(), b[0].strip()) if a else str(1 + len(asked) % 9)
    if REFERENCE in body["messages"][-1]["content"]:
        return REFERENCE.replace("340", "900")
    drawn = [WORDS[int(draw(seed, str(i)) * len(WORDS))] for i in range(8 + int(30 * draw(seed, "length")))]
    said = " ".join(drawn).capitalize() + ". It took 25 days [1]."
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    fields = {name: f"{name}: {said}" for name in schema.get("required", [])}
    return json.dumps(fields) if fields else said


def prefers(asked: str, a: str, b: str) -> str:
    """The response that fits the context, or the longer one where there is none."""
    known = [contrast for contrast in contrasts() if contrast.more in asked or contrast.less in asked]
    more = known[0].favours_more(a, b) if known else len(a) - len(b) or (a > b) - (a < b)
    turned = known[0].less in asked if known else "opposite: " in asked
    return "AB"[(more < 0) != turned]


def run(folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The pairs that a recipe makes, all of its inputs being of the README's form."""
    for source in recipe["sources"]:
        lines = [PAIR] if source["kind"] == "pairs" else rows
        path = folder / source["path"]
        if path.suffix == ".parquet":
            pl.DataFrame(lines).write_parquet(path)
        else:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    filler = [f"Paragraph {i} speaks of other things, as many a paragraph of a long text does." for i in range(900)]
    (folder / "corpus.txt").write_text("\n\n".join(filler))
    with StubServer(reply=reply) as stub:
        complete = stub.stub.completion
        stub.stub.completion = lambda key, body, chat: complete(key, {**body, "logprobs": False}, chat)
        recipe["engines"] = {
            name: {"plugin": "openai", "base_url": stub.url, "model": name} for name in recipe["engines"]
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "shown", "buckets": 1, **recipe}))
        result = run_recipe(folder / "recipe.yaml", str(folder / "w"), "clean", None, (), quiet=True)
    for stage in result.stages:
        assert stage.rows_in == stage.rows_out + sum(stage.rejects.values()), stage
    return table_frame(Workspace.open(str(folder / "w")), "pairs").collect()


@pytest.mark.parametrize(
    ("title", "row"),
    [
        ("prompts only", {}),
        ("documents", {"documents": DOCUMENTS}),
        ("personas", {}),
        ("a new model against an old one", {}),
        ("agent logs", {"meta": LOGS}),
    ],
)
def test_every_generator_of_a_how_to_makes_pairs(tmp_path: Path, title: str, row: dict[str, Any]) -> None:
    [recipe] = snippets(README, title)
    names = {use.get("name", use["plugin"]) for use in recipe["generate"]["generators"]}
    rows = [{"prompt": f"How high is the lighthouse of Cape Norr, seen from ship {i}?", **row} for i in range(4)]
    pairs = run(tmp_path, recipe, rows)
    assert names <= set(pairs["origin"])


@pytest.mark.parametrize(
    "title", ["Prompts only", "Documents", "Personas", "Two models", "Agent logs", "Other languages"]
)
def test_every_example_beside_the_generators_runs(tmp_path: Path, title: str) -> None:
    uses = [use for block in snippets(GENERATORS, title) for use in block]
    engines = {name for use in uses for name in names_of_engines(use)}
    row = {"reference": REFERENCE, "documents": DOCUMENTS, "meta": LOGS}
    rows = [{"prompt": f"Why does thunder come after lightning on day {i}?", **row} for i in range(4)]
    recipe = {
        "sources": [
            {"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"},
            {"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"},
        ],
        "engines": sorted(engines),
        "generate": {"generators": uses},
    }
    pairs = run(tmp_path, recipe, rows)
    made = {use.get("name", use["plugin"]) for use in uses}
    rejects = table_frame(Workspace.open(str(tmp_path / "w")), "rejects").collect()
    if "translate" in made:  # no German and no French here: what is checked is that this is seen
        assert set(rejects.filter(stage="generate/translate")["reason"]) == {"wrong_language"}
    assert made - {"prompt_evolve", "translate"} <= set(pairs["origin"])


def names_of_engines(use: dict[str, Any]) -> list[str]:
    """Engines that an example names, in whatever field."""
    fields = ("engine", "engines", "past", "future", "rater", "writer", "judge", "verifier")
    found = [use[field] for field in fields if field in use]
    return [name for value in found for name in (value if isinstance(value, list) else [value])]
