"""The three engines: what their settings mean, what they identify, and the embedded one at work."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import EngineError, MissingExtra, UsageError
from schemas.recipe_file import load_recipe
from tests.conftest import ROOT
from tests.stub_llm import StubServer
from transforms.llm.request import Reply, Request
from transforms.llm.supervisor import free_port
from transforms.plugins.registry import find, names

SKYWORK = "Skywork/Skywork-Critic-Llama-3.1-8B"


def engine(plugin: str, **settings: Any) -> Any:
    cls = find("engines", plugin)
    return cls("llm", cls.Config(**settings), 0)


def ask(made: Any, *bodies: dict[str, Any], path: str = "chat/completions") -> list[Reply]:
    async def run(urls: list[str]) -> list[Reply]:
        async with made.connect(urls) as client:
            requests = [Request("llm", made.model, body, path=path) for body in bodies]
            return list(await asyncio.gather(*(client.send(request) for request in requests)))

    with made.serve() as urls:
        return asyncio.run(run(urls))


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def test_engines_are_found_by_name() -> None:
    assert names("engines") == ["llamacpp", "openai", "vllm"]


def test_an_endpoint_that_is_there_answers() -> None:
    with StubServer() as one, StubServer() as two:
        made = engine("openai", base_url=[one.url, two.url + "/"], model="stub")
        replies = ask(made, *(chat(f"question {n}") for n in range(10)))
        assert sum(one.stub.received.values()) == 5
    assert {reply.state for reply in replies} == {"ok"}


def test_the_identity_is_the_model_and_not_the_address() -> None:
    one = engine("openai", base_url="http://127.0.0.1:1/v1", model="m")
    other = engine("openai", base_url="http://127.0.0.1:2/v1", model="m", concurrency=3)
    pinned = engine("openai", base_url="http://127.0.0.1:1/v1", model="m", revision="2")
    assert one.identity == other.identity == {"answers_as": "m"}
    assert pinned.model == "m@2"
    body = chat("x")
    assert Request("a", one.model, body).request_id == Request("b", other.model, body).request_id
    assert Request("a", one.model, body).request_id != Request("a", pinned.model, body).request_id


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "http://127.0.0.1:8000", "ftp://x/v1", []])
def test_a_wrong_base_url_is_refused_at_load_time(url: Any) -> None:
    with pytest.raises(ValidationError, match="base URL"):
        engine("openai", base_url=url, model="m")


@pytest.mark.parametrize("plugin", ["openai", "vllm"])
def test_one_server_of_several_is_enough_and_the_others_are_named(
    plugin: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with StubServer() as stub:
        urls = {"openai": "base_url", "vllm": "urls"}[plugin]
        made = engine(plugin, model="stub", start_timeout_s=0.2, **{urls: [dead, stub.url]})
        replies = ask(made, *(chat(f"question {n}") for n in range(4)))
    assert {reply.state for reply in replies} == {"ok"}
    assert dead in caplog.text
    assert stub.url not in caplog.text


def test_the_context_is_known_where_the_engine_sets_it() -> None:
    lengths = {8192: 8192, "8192": 8192, "8k": 8000, "8K": 8192, "auto": None}
    for flag, tokens in lengths.items():
        assert engine("vllm", model="m", revision="r", flags={"max-model-len": flag}).context_tokens == tokens
    assert engine("vllm", model="m", revision="r").context_tokens is None
    assert engine("openai", base_url="http://127.0.0.1:1/v1", model="m").context_tokens is None


def test_an_endpoint_that_does_not_answer_is_named_at_once() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with (
        pytest.raises(EngineError, match=f"nothing answers at {url}/models"),
        engine("openai", base_url=url, model="m", start_timeout_s=0.2).serve(),
    ):
        pass


def test_a_key_comes_from_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine("openai", base_url="http://127.0.0.1:1/v1", model="m", api_key_env="PREFINE_TEST_KEY")
    monkeypatch.delenv("PREFINE_TEST_KEY", raising=False)
    with pytest.raises(UsageError, match="environment variable PREFINE_TEST_KEY is not set"), made.serve():
        pass
    monkeypatch.setenv("PREFINE_TEST_KEY", " sesame\n")
    assert made.headers() == {"authorization": "Bearer sesame"}
    assert "sesame" not in repr(made.config) + str(made.identity)


@pytest.mark.parametrize("value", ["sesame\nstreet", "sesame\u2013street", "sesame\x1b[2J", "sésame"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFINE_TEST_KEY", value)
    made = engine("openai", base_url="http://127.0.0.1:1/v1", model="m", headers_env={"x-key": "PREFINE_TEST_KEY"})
    with pytest.raises(UsageError, match="environment variable PREFINE_TEST_KEY holds") as error, made.serve():
        pass
    assert "same" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "http://me:sesame@127.0.0.1:1/v1"},
        {"base_url": ["http://127.0.0.1:1/v1", "http://sesame@127.0.0.1:1/v1"]},
        {"base_url": "http://127.0.0.1:1/v1", "headers_env": {"x key": "K"}},
        {"base_url": "http://127.0.0.1:1/v1", "headers_env": {"x\nkey": "K"}},
    ],
)
def test_an_address_or_header_that_gives_secrets_away_or_cannot_be_sent_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((UsageError, ValidationError), match=r"name or password|no name of an HTTP header"):
        engine("openai", model="m", **settings)
    if "headers_env" not in settings:
        urls = settings["base_url"] if isinstance(settings["base_url"], list) else [settings["base_url"]]
        with pytest.raises((UsageError, ValidationError), match="name or password"):
            engine("vllm", model="m", urls=urls)


def test_concurrency_is_divided_among_workers() -> None:
    made = engine("openai", base_url="http://127.0.0.1:1/v1", model="m", concurrency=10)
    assert made.connect(["http://127.0.0.1:1/v1"], workers=4).concurrency == 2
    assert made.connect(["http://127.0.0.1:1/v1"], workers=40).concurrency == 1


def test_the_command_of_an_8b_judge_on_two_gpus() -> None:
    made = engine(
        "vllm",
        model=SKYWORK,
        revision="main",
        tensor_parallel=2,
        flags={
            "max-model-len": 8192,
            "gpu-memory-utilization": 0.9,
            "enable-prefix-caching": True,
            "enforce-eager": False,
        },
    )
    assert made.command() == [
        *("vllm", "serve", SKYWORK, "--host", "127.0.0.1", "--port", "{port}"),
        *("--served-model-name", SKYWORK, "--revision", "main", "--tensor-parallel-size", "2"),
        *("--enable-prefix-caching", "--enable-prompt-tokens-details", "--gpu-memory-utilization", "0.9"),
        *("--max-model-len", "8192"),
    ]
    silent = engine("vllm", model=SKYWORK, flags={"enable-prompt-tokens-details": False})
    assert "--enable-prompt-tokens-details" not in silent.command()


def test_flags_that_change_answers_change_the_identity_and_others_do_not() -> None:
    base = engine("vllm", model="m", revision="r")
    faster = engine("vllm", model="m", revision="r", tensor_parallel=4, flags={"gpu-memory-utilization": 0.5})
    other = engine("vllm", model="m", revision="r", flags={"dtype": "float16"})
    assert base.model == faster.model == "m@r"
    assert other.model != base.model


def test_weights_in_a_folder_are_identified_by_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = engine("vllm", model=str(tmp_path)).model
    (tmp_path / "model.safetensors").write_bytes(b"two!")
    assert engine("vllm", model=str(tmp_path)).model != before
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="holds no weights"):
        _ = engine("vllm", model=str(tmp_path)).model


def test_an_absent_vllm_is_explained() -> None:
    made = engine("vllm", model="m", revision="r", executable="/no/such/vllm")
    with pytest.raises(MissingExtra, match="environment of its own"), made.serve():
        pass


def test_vllm_servers_already_there_are_used() -> None:
    with StubServer() as stub:
        made = engine("vllm", model="stub", revision="r", urls=[stub.url])
        (reply,) = ask(made, chat("hello"))
    assert reply.state == "ok"


def test_a_served_command_is_started_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "vllm"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"port = sys.argv[sys.argv.index('--port') + 1]\nos.chdir({str(ROOT)!r})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'tests.stub_llm', '--port', port])\n"
    )
    script.chmod(0o755)
    made = engine("vllm", model="stub", revision="r", executable=str(script), start_timeout_s=60)
    replies = ask(made, chat("one"), chat("two"))
    assert {reply.state for reply in replies} == {"ok"}


def slow_vllm(folder: Path, loading_s: float) -> Path:
    """A `vllm` that listens after so many seconds, writes its pid beside itself, and finds no model if `broken` is."""
    script = folder / "vllm"
    script.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys, time\n"
        f"here = pathlib.Path({str(folder)!r})\n"
        "if (here / 'broken').exists(): sys.exit('CUDA error: device lost')\n"
        f"(here / 'pid').write_text(str(os.getpid()))\ntime.sleep({loading_s})\n"
        f"port = sys.argv[sys.argv.index('--port') + 1]\nos.chdir({str(ROOT)!r})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'tests.stub_llm', '--port', port, "
        '"--options", \'{"latency_s": 0.3}\'])\n'
    )
    script.chmod(0o755)
    return script


def asked_while_killed(made: Any, folder: Path, count: int, broken: bool = False) -> list[Reply]:
    """Replies to requests whose server is killed once the first are on the wire."""

    async def run(urls: list[str]) -> list[Reply]:
        async with made.connect(urls) as client:
            sent = [Request("llm", made.model, chat(f"question {n}")) for n in range(count)]
            pending = asyncio.gather(*(client.send(request) for request in sent))
            await asyncio.sleep(0.5)
            if broken:
                (folder / "broken").touch()
            os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
            return list(await pending)

    with made.serve() as urls:
        return asyncio.run(run(urls))


def test_a_server_of_ours_that_loads_longer_than_an_outage_may_last_is_waited_for(tmp_path: Path) -> None:
    script = slow_vllm(tmp_path, loading_s=4.0)
    settings: dict[str, Any] = {"outage_s": 1.0, "deadline_s": 3.0, "concurrency": 4, "start_timeout_s": 120}
    made = engine("vllm", model="stub", revision="r", executable=str(script), **settings)
    replies = asked_while_killed(made, tmp_path, 12)
    assert {reply.state for reply in replies} == {"ok"}


def test_a_server_of_ours_that_is_given_up_ends_the_run_with_the_supervisors_reason_and_log(tmp_path: Path) -> None:
    script = slow_vllm(tmp_path, loading_s=0.0)
    settings: dict[str, Any] = {"outage_s": 60.0, "concurrency": 4, "start_timeout_s": 120, "max_restarts": 1}
    made = engine("vllm", model="stub", revision="r2", executable=str(script), **settings)
    with pytest.raises(EngineError, match="ended 2 times in a row") as caught:
        asked_while_killed(made, tmp_path, 12, broken=True)
    assert "CUDA error: device lost" in str(caught.value)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model file at"):
        _ = engine("llamacpp", gguf=tmp_path / "none.gguf").model


@pytest.mark.slow
def test_the_embedded_model_answers_with_text_logprobs_and_json() -> None:
    made = engine("llamacpp", context=1024, slots=4)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    letter, text, again, formed, long = ask(
        made,
        chat("Answer A or B.", max_tokens=1, temperature=0, logprobs=True, top_logprobs=20),
        chat("Say something.", max_tokens=12, temperature=0.8, seed=1),
        chat("Say something.", max_tokens=12, temperature=0.8, seed=1),
        chat("Give a number.", max_tokens=20, temperature=0, response_format=form),
        chat("word " * 4000, max_tokens=1),
    )
    assert letter.logprobs is not None
    assert len(letter.logprobs[0]) >= 20
    assert text.tokens_out == again.tokens_out == 12
    assert formed.text.startswith("{")
    assert (long.state, long.transient) == ("error", False)
    assert "context" in (long.error or "")
    (count,) = ask(made, {"content": "one two three", "prompt": "one two three"}, path="tokenize")
    assert count.text.isdigit()


def test_the_gpu_recipe_of_the_docs_is_valid_and_gives_the_command_it_promises(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "gpu.md").read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "recipe.yaml").write_text(found[1])
    recipe = load_recipe(tmp_path / "recipe.yaml").recipe
    use = recipe.engines["qwen"]
    made = engine(use.plugin, **use.settings)
    assert made.command() == [
        *("/opt/vllm/bin/vllm", "serve", "Qwen/Qwen3-8B", "--host", "127.0.0.1", "--port", "{port}"),
        *("--served-model-name", "Qwen/Qwen3-8B", "--enable-prefix-caching", "--enable-prompt-tokens-details"),
        *("--gpu-memory-utilization", "0.9", "--max-model-len", "8192", "--max-num-seqs", "256"),
    ]
    for judge_use in recipe.judge.judges:
        find("judges", judge_use.plugin).Config(**judge_use.settings)
