"""Decoding in lock step: `Stepper` (one model), `lock_step` (one policy over several models)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from zoo.components.rollouts import Policy, token_logp
from zoo.components.rollouts.sampling import sample_from
from zoo.errors import ZooError
from zoo.harness.graphs import FixedDecoder, at_least_fp32, positions

__all__ = ["Stepper", "Written", "by_length", "lock_step", "sample_from"]

log = logging.getLogger(__name__)
CHECK_EVERY = 16
LENGTH_BUCKET = 128
SHAPES_KEPT = 3


class Stepper:
    """One causal LM that decodes a batch token by token: `prefill` once, then `step`.

    Prompts are padded on the left, masked, and positioned from their own first token, so padding changes nothing beyond rounding.
    On a CPU the cache grows; on CUDA (`graphs`) shapes are fixed and one step is a CUDA graph, kept for the next call of a
    like shape: rows are rounded up to a power of two, prompt plus new tokens to a multiple of 128. Models that this does not cover
    decode with the growing cache, and the reason is logged once (`fallback`). The caller puts the model in evaluation mode.
    """

    def __init__(self, model: Any, *, pad_id: int, vocab_size: int | None = None, graphs: bool | None = None) -> None:
        self.model, self.pad_id = model, pad_id
        rows = model.get_output_embeddings().weight.shape[0]
        if vocab_size is not None and vocab_size > rows:
            raise ZooError(f"the vocabulary has {vocab_size} tokens but the model only {rows} logits; is the tokenizer another model's?")
        self.vocab_size = vocab_size or rows
        self.graphs = model.device.type == "cuda" if graphs is None else graphs
        self.fallback: str | None = None
        self._shapes: list[FixedDecoder] = []
        self._fixed: FixedDecoder | None = None
        self._rows, self._cache, self._mask_BT = 0, DynamicCache(), torch.zeros(0, 0, dtype=torch.long)

    def release(self) -> None:
        """Drop captured graphs and caches: to free memory, or after parameters moved to other addresses."""
        self._shapes, self._fixed, self._cache = [], None, DynamicCache()

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Tensor:
        """Logits (B, V), fp32 or wider, of each first new token; at most `new_tokens - 1` calls of `step` may follow."""
        self._rows, width = len(prompts), max(len(p) for p in prompts)
        self._fixed = self._shape(self._rows, width + new_tokens) if self.graphs and self.fallback is None else None
        batch = self._fixed.batch if self._fixed else self._rows
        padded = [*prompts, *[prompts[0][:1]] * (batch - self._rows)]
        ids_BP = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in padded], device=self.model.device)
        mask_BP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in padded], device=self.model.device)
        if self._fixed:
            return self._fixed.prefill(ids_BP, mask_BP)[: self._rows]
        self._cache, self._mask_BT = DynamicCache(config=self.model.config), mask_BP
        return self._grow(ids_BP, positions(mask_BP))

    @torch.no_grad()
    def step(self, token_B: Tensor) -> Tensor:
        """Logits (B, V) after one more token a row. The tensor may be overwritten by the next step."""
        if self._fixed:
            return self._fixed.step(token_B)[: self._rows]
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(self._rows, 1)], 1)
        return self._grow(token_B[:, None], self._mask_BT.sum(1, keepdim=True) - 1)

    def _grow(self, ids_BQ: Tensor, position_BQ: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids_BQ,
            attention_mask=self._mask_BT,
            position_ids=position_BQ,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return at_least_fp32(output.logits[:, -1, : self.vocab_size])

    def _shape(self, rows: int, total: int) -> FixedDecoder | None:
        """A kept shape that fits, or a new one; None where the model cannot be captured."""
        batch, length = 1 << max(rows - 1, 7).bit_length(), -(-total // LENGTH_BUCKET) * LENGTH_BUCKET
        for shape in self._shapes:
            if shape.batch == batch and length <= shape.length <= length + 2 * LENGTH_BUCKET:
                return shape
        self._shapes = self._shapes[-(SHAPES_KEPT - 1) :]
        try:
            capture = self.model.device.type == "cuda"
            shape = FixedDecoder(self.model, batch=batch, length=length, vocab_size=self.vocab_size, capture=capture)
        except torch.OutOfMemoryError:
            raise
        except (ZooError, RuntimeError, ValueError, TypeError) as error:
            self.fallback = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("decoding %s without CUDA graphs, several times slower: %s", type(self.model).__name__, self.fallback)
            return None
        self._shapes.append(shape)
        return shape


@dataclass(frozen=True)
class Written:
    """What `lock_step` wrote: columns (B, T), T the longest response. `student_logp_BT` is NaN where not scored, padding 0."""

    response_BT: Tensor
    mask_BT: Tensor
    author_BT: Tensor
    behaviour_logp_BT: Tensor
    student_logp_BT: Tensor
    finished_B: Tensor


@contextmanager
def decoding(models: Sequence[Any]) -> Iterator[None]:
    """No gradients, no dropout, no autocast (it would cast every weight again at each token); training modes restored after."""
    training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad(), torch.autocast(models[0].device.type, enabled=False):
            yield
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)


def lock_step(
    policy: Policy,
    steppers: Mapping[str, Stepper],
    prompts: Sequence[Sequence[int]] | Mapping[str, Sequence[Sequence[int]]],
    uniform_TUB: Tensor,
    *,
    stop_ids: Sequence[int],
    score_student: bool = True,
) -> Written:
    """Let a policy write one response to each prompt, one token a step for all rows, until each has written a stop token.

    `prompts` are what all models read, or by model name what each of them does.

    The number of steps is `len(uniform_TUB)`. The stop token belongs to the response; after it come padding, mask false and
    log-probability 0. The host looks at the device only every 16 tokens, to see whether all rows are finished.

    Raises:
        ZooError: the policy reads a model that is not there, or a prompt is empty.
    """
    if missing := [name for name in policy.reads if name not in steppers]:
        raise ZooError(f"a stream is written by '{missing[0]}', but the models are {', '.join(sorted(steppers))}; name one of them")
    shown = prompts if isinstance(prompts, Mapping) else dict.fromkeys(policy.reads, prompts)
    if any(len(prompt) == 0 for each in shown.values() for prompt in each):
        raise ZooError("a prompt has no tokens; give it at least a beginning-of-text token")
    used = {name: steppers[name] for name in policy.reads}
    first = next(iter(used.values()))
    device, pad_id, (steps, rows) = first.model.device, first.pad_id, (len(uniform_TUB), uniform_TUB.shape[-1])
    scored = score_student and "student" in used
    check_every = CHECK_EVERY if device.type == "cuda" else 1
    stop_S, uniform_TUB = torch.tensor(list(stop_ids), dtype=torch.long, device=device), uniform_TUB.to(device)
    with decoding([stepper.model for stepper in used.values()]):
        logits = {name: stepper.prefill(shown[name], steps) for name, stepper in used.items()}
        dtype = next(iter(logits.values())).dtype
        response_BT = torch.full((rows, steps), pad_id, dtype=torch.long, device=device)
        mask_BT = torch.zeros(rows, steps, dtype=torch.bool, device=device)
        author_BT = torch.zeros(rows, steps, dtype=torch.long, device=device)
        behaviour_BT = torch.zeros(rows, steps, dtype=dtype, device=device)
        student_BT = torch.zeros(rows, steps, dtype=dtype, device=device)
        done_B, state = torch.zeros(rows, dtype=torch.bool, device=device), None
        cut_B = torch.zeros_like(done_B)
        for t in range(steps):
            choice, state = policy.choose(state, logits, uniform_TUB[t])
            if choice.end_B is not None:
                cut_B = cut_B | (choice.end_B & ~done_B)
                done_B = done_B | choice.end_B
            token_B = choice.token_B.masked_fill(done_B, pad_id)
            response_BT[:, t], mask_BT[:, t] = token_B, ~done_B
            author_BT[:, t] = choice.author_B.masked_fill(done_B, 0)
            behaviour_BT[:, t] = choice.behaviour_logp_B.masked_fill(done_B, 0.0)
            if scored:
                student_BT[:, t] = token_logp(logits["student"], token_B).masked_fill(done_B, 0.0)
            done_B = done_B | (token_B[:, None] == stop_S).any(-1)
            if t + 1 == steps or ((t + 1) % check_every == 0 and bool(done_B.all())):
                break
            logits = {name: stepper.step(token_B) for name, stepper in used.items()}
    if not scored:
        student_BT = student_BT.masked_fill(mask_BT, float("nan"))
    longest = int(mask_BT.any(0).sum())
    response_BT, mask_BT, author_BT = response_BT[:, :longest], mask_BT[:, :longest], author_BT[:, :longest]
    return Written(response_BT, mask_BT, author_BT, behaviour_BT[:, :longest], student_BT[:, :longest], done_B & ~cut_B)


def by_length(prompts: Sequence[Sequence[int]], max_batch: int) -> list[list[int]]:
    """Indices in chunks of at most `max_batch`, longest prompts first: little padding, and too large a batch fails at once."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + max_batch] for i in range(0, len(order), max_batch)]
