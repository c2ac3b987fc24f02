"""vLLM inside this process: started from a configuration, given weights in place, awake while it writes."""

from __future__ import annotations

import copy
import hashlib
import importlib
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from zoo.errors import ZooError

OLDEST = (0, 24)
SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, or weights could not be handed over in place
    "VLLM_USE_V2_MODEL_RUNNER": "1",  # draws all rows' seeded noise in one kernel; V1 goes through rows one by one
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it knows no seeds
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # not looked up through a network that may not be there
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class VllmOptions:
    """How the engine runs. `memory`: share of the whole GPU that it may hold while awake, which must be free when it is built; `cache_bytes` instead gives
    the key-value cache a size, unmeasured, so that several processes may start on one GPU. `sleep`: the level between rollouts. `rows`: answers
    in flight. `max_length`: prompt plus answer (default: the model's own). `eager` leaves out compilation and graphs."""

    memory: float = 0.4
    sleep: Literal[0, 1, 2] = 2
    rows: int = 256
    cache_bytes: int | None = None
    max_length: int | None = None
    eager: bool = False


def options_for(settings: Any) -> VllmOptions | None:
    """What a comparison's settings say, or None where they name another engine."""
    return VllmOptions(settings.vllm_memory, settings.vllm_sleep, settings.decode_batch) if settings.engine == "vllm" else None


class Colocated:
    """The process's engine, and whether it is awake with the present weights."""

    def __init__(self, library: Any, llm: Any, options: VllmOptions, vocab_size: int | None) -> None:
        self.library, self.llm, self.options, self.vocab_size = library, llm, options, vocab_size
        self.asleep = self.fresh = False
        self.room = int(llm.model_config.max_model_len)

    def ready(self, model: Any) -> None:
        """Awake, with this model's present weights. Weights before the cache: what is not woken yet is still free."""
        if self.fresh:
            return
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self._push(model)
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
        else:
            self.llm.reset_prefix_cache()  # what it remembers of prompts belongs to other weights
        self.asleep, self.fresh = False, True

    def rest(self) -> None:
        """Asleep at the options' level; the next rollout takes new weights at any level."""
        if self.fresh and self.options.sleep:
            self.llm.sleep(level=self.options.sleep)
            self.asleep = True
        self.fresh = False

    def parameters(self, seeds: Sequence[int], limit: int, temperature: float, top_p: float, stops: Sequence[int]) -> list[Any]:
        """One request's settings a row; a request ends at our stop tokens only."""
        common: dict[str, Any] = {
            "max_tokens": limit,
            "temperature": temperature,
            "top_p": top_p,
            "stop_token_ids": sorted({stop for stop in stops if stop >= 0}),
            "ignore_eos": True,
            "logprobs": 0,
            "flat_logprobs": True,
            "detokenize": False,
        }
        return [self.library.SamplingParams(**common, seed=seed if temperature > 0 else None) for seed in seeds]

    def _push(self, model: Any) -> None:
        wrote = self.llm.apply_model(lambda inner: _take(inner, weights_of(model, self.vocab_size)))
        if left := sorted({name for missing in wrote for name in missing}):
            raise ZooError(f"vLLM's model has {len(left)} weights that the student's do not fill, the first {left[0]}; use engine: auto")


def _take(inner: Any, weights: Iterator[tuple[str, Tensor]]) -> list[str]:
    """Load weights into vLLM's own parameters, where they lie; the names of those that got none."""
    with torch.no_grad():
        loaded = inner.load_weights(weights)
    return [] if loaded is None else sorted({name for name, _ in inner.named_parameters()} - set(loaded))


def weights_of(model: Any, vocab_size: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """A model's weights under their checkpoint names, whole where they are sharded, embedding and head cut to the vocabulary: rows beyond it are
    nobody's tokens, and must be neither drawn nor summed over."""
    ends = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()
        yield name, whole[:vocab_size] if id(parameter) in ends else whole


_running: Colocated | None = None
_key: tuple[str, VllmOptions] | None = None


def colocated(model: Any, vocab_size: int | None, options: VllmOptions) -> Colocated:
    """The process's engine, built at the first call.

    Raises:
        ZooError: vLLM is absent, too old or can't start here, or the process's engine is another model's.
    """
    global _running, _key
    folder = config_folder(model, vocab_size)
    if _running is not None and _key == (str(folder), options):
        return _running
    if _running is not None:
        raise ZooError("vLLM holds one model with one set of options a process, and this is another; run the comparison in a process of its own")
    library = load()
    if problem := unfit(model.device):
        raise ZooError(f"settings.engine: vllm: {problem}; use engine: auto")
    with noise_kept():
        try:
            llm = library.LLM(**arguments(folder, options))
        except (ValueError, RuntimeError, AssertionError, OSError, NotImplementedError) as error:
            raise ZooError(f"vLLM did not start: {next(iter(str(error).splitlines()), type(error).__name__)}; use engine: auto or other options") from error
    _running, _key = Colocated(library, llm, options, vocab_size), (str(folder), options)
    return _running


def running() -> Colocated | None:
    """The process's engine, where there is one."""
    return _running


def load() -> Any:
    """The vLLM module, its surroundings set for work inside this process.

    Raises:
        ZooError: it is not installed, or too old.
    """
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        library = importlib.import_module("vllm")
    except ImportError as error:
        raise ZooError(f"settings.engine: vllm needs vLLM, which can't be imported ({error}): pip install 'opd-zoo[vllm]', or use engine: auto") from None
    version = str(getattr(library, "__version__", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise ZooError(f"settings.engine: vllm needs vLLM {'.'.join(map(str, OLDEST))} or newer, and this is {version}: pip install -U 'opd-zoo[vllm]'")
    return library


def unfit(device: torch.device) -> str | None:
    """Why vLLM can't stand beside a student on this device."""
    if device.type != "cuda":
        return f"the student is on {device.type}, and vLLM stands beside it on a CUDA device"
    if not _several() and device.index not in (None, 0):
        return f"the student is on {device}, and vLLM in one process takes the first visible device: set CUDA_VISIBLE_DEVICES"
    return None


def arguments(folder: Path, options: VllmOptions) -> Mapping[str, Any]:
    """What vLLM is started with. Log-probabilities are those of the law that is drawn from. Scheduling waits for the device: ahead of it, with whole
    steps as CUDA graphs, vLLM 0.24 ends in an illegal memory access where answers are of uneven length (docs/engines.md)."""
    given: dict[str, Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": "bfloat16",
        "logprobs_mode": "processed_logprobs",
        "async_scheduling": False,
        "max_num_seqs": options.rows,
        "gpu_memory_utilization": options.memory,
        "enable_sleep_mode": options.sleep > 0,
        "enforce_eager": options.eager,
    }
    backend = "external_launcher" if _several() else None
    extra = {"kv_cache_memory_bytes": options.cache_bytes, "max_model_len": options.max_length, "distributed_executor_backend": backend}
    return given | {name: value for name, value in extra.items() if value is not None}


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def config_folder(model: Any, vocab_size: int | None) -> Path:
    """A folder with the model's configuration, of its own vocabulary and nothing else; named by its content, so vLLM finds what it compiled before."""
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.vocab_size = vocab_size or config.vocab_size
    text = config.to_json_string(use_diff=False)
    root = os.environ.get("OPD_ZOO_CACHE")
    folder = (Path(root) if root else Path.home() / ".cache" / "opd-zoo") / "vllm" / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"config.{os.getpid()}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.rename(folder / "config.json")
    return folder


@contextmanager
def noise_kept() -> Iterator[None]:
    """vLLM seeds this process's generators when it starts; what they were is put back."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
