"""The student's answers from vLLM as a rollout's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.rollouts import Policy
from zoo.components.rollouts.decoded import Student
from zoo.errors import ZooError
from zoo.harness.decode import Written
from zoo.harness.vllm.engine import Colocated, VllmOptions, colocated, running
from zoo.tensors import Author

COLDEST = 0.01  # vLLM raises a temperature between 0 and this one to it
SEED_BITS = 53  # of a uniform on [0, 1) in fp64


def serves(policy: Policy) -> bool:
    """Whether vLLM can write such a stream: the student alone, at temperature 0 or at least 0.01."""
    return type(policy) is Student and (policy.temperature == 0.0 or policy.temperature >= COLDEST)


def unsupported(model: Any) -> str | None:
    """Why this model's weights can't be handed over, or None where they can."""
    if not hasattr(model, "config") or not hasattr(model.config, "save_pretrained"):
        return "it is no transformers model"
    if any("lora_" in name or ".base_layer." in name for name, _ in model.named_parameters()):
        return "its linear layers are wrapped (an adapter)"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "a hook changes what one of its layers gives"
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        return "its head has a bias"
    return None


class VllmDecoder:
    """Decodes the student `model` (its master weights, whatever their type) in bf16 through the process's engine."""

    def __init__(self, model: Any, *, pad_id: int, stop_ids: Sequence[int], vocab_size: int | None = None, options: VllmOptions | None = None) -> None:
        if reason := unsupported(model):
            raise ZooError(f"vLLM can't run this model: {reason}; use engine: auto")
        self.model, self.pad_id, self.stop_ids, self.vocab_size = model, pad_id, tuple(stop_ids), vocab_size
        self.options = options or VllmOptions()

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        limit: int,
        *,
        temperature: float,
        top_p: float = 1.0,
        stops: Sequence[int] | None = None,
        scored: bool = True,
    ) -> Written:
        """One answer a prompt, of at most `limit` tokens, the stop token included. The log-probability of a token under the law it was drawn from is
        vLLM's own (after temperature and nucleus; 0 for greedy ones); under the plain softmax it is known where that is the same law, or where nothing is
        drawn, and NaN elsewhere, as it is where it is not `scored`."""
        if empty := [row for row, prompt in enumerate(prompts) if not prompt]:
            raise ZooError(f"prompt {empty[0]} has no tokens; give it at least a beginning-of-text token")
        if self.vocab_size is not None and (highest := max(map(max, prompts))) >= self.vocab_size:
            raise ZooError(f"a prompt holds token {highest}, and the pair's vocabulary ends at {self.vocab_size}; vLLM reads no others, use engine: auto")
        engine = colocated(self.model, self.vocab_size, self.options)
        if (longest := max(map(len, prompts)) + limit) > engine.room:
            raise ZooError(f"a prompt and {limit} new tokens are {longest} tokens, and vLLM was started for {engine.room}; ask for fewer new tokens")
        engine.ready(self.model)
        wanted = engine.parameters(seeds, limit, temperature, top_p, self.stop_ids if stops is None else stops)
        answers = [answer for at in range(0, len(prompts), self.options.rows) for answer in self._asked(engine, prompts, wanted, at)]
        written = columns([answer.outputs[0] for answer in answers], self.pad_id, self.model.device)
        if temperature == 0.0:
            written = replace(written, behaviour_logp_BT=torch.zeros_like(written.behaviour_logp_BT))
        if not scored or (temperature not in (0.0, 1.0)) or (temperature > 0.0 and top_p < 1.0):
            written = replace(written, student_logp_BT=written.student_logp_BT.masked_fill(written.mask_BT, float("nan")))
        return written

    def _asked(self, engine: Colocated, prompts: Sequence[Sequence[int]], wanted: Sequence[Any], at: int) -> list[Any]:
        """Answers to as many prompts as there are rows. More at once would be faster where answers are uneven, but vLLM 0.24 has read memory that is not its
        own in such rounds (H200, docs/engines.md)."""
        asked = [{"prompt_token_ids": list(ids)} for ids in prompts[at : at + self.options.rows]]
        return engine.llm.generate(asked, wanted[at : at + self.options.rows], use_tqdm=False)  # type: ignore[no-any-return]

    def rest(self) -> None:
        """Give the memory back until the next rollout."""
        if (engine := running()) is not None:
            engine.rest()

    release = rest  # the engine itself stays for the next cell: building it takes a minute


def seeds_of(uniform_B: Tensor) -> list[int]:
    """A seed a row from the first of its uniforms."""
    return (uniform_B.double() * 2**SEED_BITS).long().tolist()


def columns(answers: Sequence[Any], pad_id: int, device: torch.device) -> Written:
    """vLLM's completions as columns; both log-probabilities are the returned one."""
    lengths = [len(answer.token_ids) for answer in answers]
    shape, width = (len(answers), max(lengths)), max(lengths)
    response, logp = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    for row, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
        response[row, :length] = list(answer.token_ids)
        logp[row, :length] = sampled_logp(answer)
    mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    finished_B = torch.tensor([answer.finish_reason == "stop" for answer in answers])
    logp_BT = torch.from_numpy(logp).to(device)
    return Written(
        response_BT=torch.from_numpy(response).to(device),
        mask_BT=mask_BT.to(device),
        author_BT=(mask_BT * int(Author.STUDENT)).to(device),
        behaviour_logp_BT=logp_BT,
        student_logp_BT=logp_BT.clone(),
        finished_B=finished_B.to(device),
    )


def sampled_logp(answer: Any) -> list[float]:
    """The log-probability of each sampled token. Flat lists hold it first at each position; others by token.

    Raises:
        ZooError: one is missing.
    """
    kept = answer.logprobs
    if kept is None or len(kept) != len(answer.token_ids):
        raise ZooError(f"vLLM returned {0 if kept is None else len(kept)} log-probabilities for {len(answer.token_ids)} tokens; is its version supported?")
    if hasattr(kept, "start_indices"):
        return [kept.logprobs[start] for start in kept.start_indices]
    return [at[token].logprob for at, token in zip(kept, answer.token_ids, strict=True)]
