"""The flags that docs/scale.md gives for every engine: Beam knows each of them and means by it what the page says."""

from __future__ import annotations

import argparse
import re

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.transforms.resources import parse_resource_hints

from pipelines.runtime.beam_options import beam_flags
from schemas.recipe import BeamSection
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text()
PLACEHOLDERS = {
    "HOST:PORT": "10.0.0.1:8099",
    "HOST": "10.0.0.1",
    "=N": "=4",
    "=…": "=my-value",
    "REGISTRY": "r.example.org",
}


def filled(flag: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        flag = flag.replace(placeholder, value)
    return flag


def documented(engine: str) -> list[str]:
    """The flags in an engine's row, placeholders filled in."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| ") and engine in line.split("|")[1]]
    flags = [filled(word) for code in re.findall(r"`([^`]+)`", row.split("|")[2]) for word in code.split()]
    return [flag for flag in flags if flag.startswith("--")]


def unknown(flags: list[str]) -> list[str]:
    """Flags that no options of Beam's know; Beam itself drops them with a line in the log."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for options in {cls for base in PipelineOptions.__subclasses__() for cls in (base, *base.__subclasses__())}:
        if "_add_argparse_args" in vars(options):
            try:
                options._add_argparse_args(parser)
            except argparse.ArgumentError:
                continue
    return parser.parse_known_args(flags)[1]


def options_of(flags: list[str]) -> PipelineOptions:
    """What `prefine run … -- FLAGS` hands to Beam."""
    given = beam_flags(BeamSection(), flags)
    assert sum(flag.startswith("--runner=") for flag in given) == 1
    return PipelineOptions(given)


def test_a_flag_that_beam_does_not_know_would_be_found() -> None:
    assert unknown(["--environment_kind=DOCKER"]) == ["--environment_kind=DOCKER"]


@pytest.mark.parametrize("engine", ["Dask", "outside workers", "Flink", "Spark", "Dataflow"])
def test_beam_knows_every_documented_flag(engine: str) -> None:
    flags = documented(engine)
    assert flags
    dask = [flag for flag in flags if flag.startswith("--dask")]
    assert unknown([flag for flag in flags if flag not in dask]) == []
    if dask:
        from apache_beam.runners.dask.dask_runner import DaskOptions

        parser = argparse.ArgumentParser(allow_abbrev=False)
        DaskOptions._add_argparse_args(parser)
        assert parser.parse_known_args(dask)[1] == []


@pytest.mark.parametrize(
    ("engine", "environment"), [("outside workers", "EXTERNAL"), ("Flink", "DOCKER"), ("Spark", "DOCKER")]
)
def test_a_job_server_is_told_where_workers_are(engine: str, environment: str) -> None:
    options = options_of(documented(engine))
    assert options.view_as(StandardOptions).runner == "PortableRunner"
    portable = options.view_as(PortableOptions)
    assert portable.job_endpoint == "10.0.0.1:8099"
    assert portable.environment_type == environment
    assert portable.environment_config
    assert portable.validate(PipelineOptionsValidator(options, None)) == []


def test_dataflow_is_told_project_image_and_bucket() -> None:
    options = options_of(documented("Dataflow"))
    assert options.view_as(StandardOptions).runner == "DataflowRunner"
    cloud = options.view_as(GoogleCloudOptions)
    assert (cloud.project, cloud.region) == ("my-value", "my-value")
    assert cloud.temp_location.startswith("gs://")
    assert options.view_as(WorkerOptions).sdk_container_image == "r.example.org/prefine-worker"
    assert "use_runner_v2" in options.view_as(DebugOptions).experiments


def test_the_gpu_hint_is_one_that_beam_reads() -> None:
    (hint,) = re.findall(r"--resource_hints=(\S+?)`", PAGE)
    assert parse_resource_hints(dict([hint.split("=", 1)])) == {
        "beam:resources:accelerator:v1": b"type:nvidia-l4;count:1;install-nvidia-driver"
    }
