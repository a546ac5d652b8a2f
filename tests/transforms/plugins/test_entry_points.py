"""Plug-ins of another package: installed by pip, found by entry points, used by a recipe, listed by `doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from pipelines.inspect.doctor import examine
from schemas.errors import UsageError
from tests.conftest import ROOT
from tests.stub_llm import StubServer
from transforms.judges.base import Judge
from transforms.plugins import registry
from transforms.plugins.base import PluginConfig

PYPROJECT = """
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "prefine-polite"
    version = "{version}"

    [project.entry-points."prefine.judges"]
    polite = "prefine_polite:Polite"

    [project.entry-points."prefine.exporters"]
    lines = "prefine_polite:Lines"

    [tool.setuptools]
    py-modules = ["prefine_polite"]
"""
MODULE = '''
    """A judge and an exporter that are not prefine's."""

    from transforms.exporters.base import Exporter
    from transforms.judges.base import Opinion, TemplateJudge, invalid


    class Polite(TemplateJudge):
        """Which response is more polite, as an instruction asks and a letter answers."""

        def messages(self, pair, order):
            first, second = (pair[f"response_{side}"][-1]["content"] for side in order)
            return [{"role": "user", "content": f"Which is more polite? A: {first} B: {second}"}]

        def read(self, reply, pair, order):
            letters = {"A": "a", "B": "b"}
            found = letters.get(reply.text.strip()[:1])
            return invalid("no letter") if found is None else Opinion(found)


    class Lines(Exporter):
        """The pairs' ids, one a line."""

        def export(self, rows, out):
            out.mkdir(parents=True, exist_ok=True)
            frame = rows.collect()
            (out / "chosen.txt").write_text("".join(f"{row}\\n" for row in frame["pair_id"]))
            (out / "README.md").write_text(f"{self.made_by}\\n")
            return {"all": frame.height}
'''


def install(folder: Path, version: str) -> Path:
    """Install the package into a folder of its own with pip; returns that folder."""
    source, site = folder / f"source-{version}", folder / f"site-{version}"
    source.mkdir()
    (source / "pyproject.toml").write_text(dedent(PYPROJECT.format(version=version)))
    (source / "prefine_polite.py").write_text(dedent(MODULE))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, source], check=True, cwd=folder, timeout=300)
    return site


def prefine(folder: Path, site: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-P", "-m", "prefine.cli.main", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def recipe(url: str) -> dict[str, Any]:
    return {
        "name": "foreign",
        "buckets": 1,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub"}},
        "judge": {"judges": [{"plugin": "polite", "engine": "stub", "template": "logprob.v1", "max_tokens": 1}]},
        "materialise": {"exports": [{"format": "lines"}]},
    }


@pytest.mark.slow
def test_a_judge_and_an_exporter_of_another_package(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    site = install(tmp_path, "1.0")
    with StubServer() as server:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(server.url)))
        result = json.loads(prefine(tmp_path, site, "run", "recipe.yaml", "-w", "w", "--json").splitlines()[-1])
        asked = sum(server.stub.answered.values())
        assert asked == 2 * len(rows)
        # Another version of the package may judge otherwise: its votes are made again, from the kept replies.
        newer = install(tmp_path, "1.1")
        again = json.loads(prefine(tmp_path, newer, "run", "recipe.yaml", "-w", "w", "--json").splitlines()[-1])
        assert sum(server.stub.answered.values()) == asked
    assert result["published"]
    assert not again["published"]
    manifest = json.loads((tmp_path / "w" / "datasets" / "foreign" / "v0001" / "manifest.json").read_text())
    assert manifest["voters"]["polite"]["distribution"] == ["prefine-polite", "1.0"]
    export = tmp_path / "w" / "exports" / "foreign" / "v0001" / "lines"
    assert len((export / "chosen.txt").read_text().split()) == len(rows)
    assert '["prefine-polite","1.1"]' in (export / "README.md").read_text()
    listed = {found["what"]: found["detail"] for found in json.loads(prefine(tmp_path, site, "doctor", "--json"))}
    assert "polite (prefine-polite 1.0)" in listed["judges"].split(", ")
    assert "lines (prefine-polite 1.0)" in listed["exporters"].split(", ")


class EntryPoint:
    """What an installed package says of a plug-in."""

    def __init__(self, name: str, value: str, loaded: object, package: str = "other", version: str = "1") -> None:
        self.name, self.value, self._loaded = name, value, loaded
        self.dist = type("Distribution", (), {"name": package, "version": version})

    def load(self) -> object:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Any:
    def points(*given: EntryPoint) -> None:
        monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: given)
        registry._offered.cache_clear()
        registry._imported.cache_clear()

    yield points
    monkeypatch.undo()
    registry._offered.cache_clear()
    registry._imported.cache_clear()


def test_name_and_version_of_the_package_are_part_of_the_identity(offer: Any) -> None:
    ours = registry.find(Judge, "logprob")
    identities = []
    for version in ("1", "2"):
        offer(EntryPoint("theirs", "other:Judge", ours, version=version))
        cls = registry.find(Judge, "theirs")
        identities.append(cls("judge", cls.Config(engine="e"), 0).identity)
    assert [identity["distribution"] for identity in identities] == [["other", "1"], ["other", "2"]]
    assert "distribution" not in ours("judge", ours.Config(engine="e"), 0).identity
    assert ours.plugin_name == "logprob"


def test_what_cannot_be_used_names_the_package(offer: Any) -> None:
    offer(EntryPoint("broken", "other:Judge", ImportError("no module named gone")))
    assert "broken" in registry.names("judges")  # listing imports nothing of theirs
    with pytest.raises(UsageError, match="judges/broken of package other 1 cannot be imported: ImportError: no module"):
        registry.find("judges", "broken")
    offer(EntryPoint("wrong", "other:Thing", dict))
    with pytest.raises(UsageError, match=r"no subclass of transforms\.judges\.base\.Judge"):
        registry.find("judges", "wrong")
    plain = type("Plain", (registry.find("scorers", "length"),), {"Config": PluginConfig})
    offer(EntryPoint("plain", "other:Plain", plain))
    with pytest.raises(UsageError, match="other:Plain, which has a Config that is no subclass of ScorerConfig"):
        registry.find("scorers", "plain")
    offer(EntryPoint("half", "other:Judge", Judge))
    with pytest.raises(UsageError, match="other:Judge, which does not have votes"):
        registry.find("judges", "half")
    with pytest.raises(ValueError, match=r"is not prefine.s: name it in an entry point of `prefine\.judges`"):
        registry.register("mine")(type("Mine", (Judge,), {"__module__": "other"}))
    offer(EntryPoint("logprob", "other:Judge", dict))
    with pytest.raises(UsageError, match="package other 1 offers judges/logprob, which is a name of prefine's own"):
        registry.names("judges")
    offer(EntryPoint("two", "other:A", dict), EntryPoint("two", "more:B", dict, "more", "3"))
    with pytest.raises(UsageError, match="packages other 1 and more 3 both offer judges/two"):
        registry.names("judges")


def test_doctor_tells_what_is_wrong_with_a_package(offer: Any) -> None:
    offer(EntryPoint("broken", "other:Judge", ImportError("no module named gone")))
    found = {finding.what: finding for finding in examine() if finding.area == "plug-ins"}
    assert "broken (other 1)" in found["judges"].detail
    assert not found["judges/broken"].ok
    assert "cannot be imported" in found["judges/broken"].cost
