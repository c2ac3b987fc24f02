"""A module in vLLM's place: it keeps the order of what is asked of it, and answers with transformers from the weights that were handed over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.components.rollouts import Student
from zoo.harness.decode import Stepper, lock_step
from zoo.seeds import uniforms


@dataclass
class SamplingParams:
    """Those that we set; another name is a mistake."""

    max_tokens: int
    temperature: float
    top_p: float
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int | None
    flat_logprobs: bool
    detokenize: bool
    seed: int | None


class Inner(torch.nn.Module):
    """The engine's own model: its projections are fused, as vLLM's are, and it says which of its parameters it has loaded."""

    FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.plain = LlamaForCausalLM(config).double()
        self.forgotten: set[str] = set()

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return [(self.fused(name), parameter) for name, parameter in self.plain.named_parameters()]

    def fused(self, name: str) -> str:
        for part, whole in self.FUSED.items():
            name = name.replace(part, whole)
        return name

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        own, loaded = dict(self.plain.named_parameters()), set()
        for name, weight in weights:
            if name not in self.forgotten:
                assert own[name].shape == weight.shape, name
                own[name].copy_(weight)
                loaded.add(self.fused(name))
        return loaded


class LLM:
    """The engine. `events` holds what happened to it, in order."""

    last: LLM

    def __init__(self, **arguments: Any) -> None:
        config = json.loads((Path(arguments["model"]) / "config.json").read_text())
        self.arguments, self.events, self.requests = arguments, ["start"], []
        torch.manual_seed(12345)  # as vLLM does
        self.model_config = SimpleNamespace(max_model_len=arguments.get("max_model_len") or config["max_position_embeddings"])
        self.inner = Inner(LlamaConfig(**{k: v for k, v in config.items() if k not in ("architectures", "dtype", "model_type", "transformers_version")}))
        LLM.last = self

    def apply_model(self, function: Any) -> list[Any]:
        self.events.append("push")
        return [function(self.inner)]

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.events.append(f"wake {'+'.join(tags or [])}")

    def sleep(self, level: int = 1) -> None:
        self.events.append(f"sleep {level}")
        if level == 2:
            with torch.no_grad():
                for parameter in self.inner.plain.parameters():
                    parameter.fill_(float("nan"))

    def reset_prefix_cache(self) -> bool:
        self.events.append("forget")
        return True

    def generate(self, prompts: list[Any], sampling_params: list[SamplingParams], use_tqdm: bool = True) -> list[Any]:
        self.events.append(f"write {len(prompts)}")
        self.requests = list(zip([prompt["prompt_token_ids"] for prompt in prompts], sampling_params, strict=True))
        return [SimpleNamespace(outputs=[self.answer(ids, params)]) for ids, params in self.requests]

    def answer(self, ids: list[int], params: SamplingParams) -> Any:
        policy = Student(temperature=params.temperature, top_p=params.top_p)
        noise = uniforms([params.seed or 0], params.max_tokens).T[:, None]
        written = lock_step(policy, {"student": Stepper(self.inner.plain, pad_id=0, graphs=False)}, [ids], noise, stop_ids=params.stop_token_ids)
        count = int(written.mask_BT.sum())
        tokens = written.response_BT[0, :count].tolist()
        logp = (written.student_logp_BT if params.temperature == 0 else written.behaviour_logp_BT)[0, :count].tolist()
        starts = [2 * t for t in range(count)]  # the sampled token first, then another one
        flat = Flat(starts, [start + 2 for start in starts], [x for lp in logp for x in (lp, -99.0)])
        return SimpleNamespace(token_ids=tokens, logprobs=flat, finish_reason="stop" if bool(written.finished_B[0]) else "length")


@dataclass
class Flat:
    """Log-probabilities of all positions in one list."""

    start_indices: list[int]
    end_indices: list[int]
    logprobs: list[float]

    def __len__(self) -> int:
        return len(self.start_indices)
