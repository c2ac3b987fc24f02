"""Answers to a queue of prompts: rows are filled, decoded by graphs, and filled again as they finish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.harness.native.rows import Rows
from zoo.harness.native.step import FEWEST_ROWS, Cache, DecodeStep
from zoo.harness.native.weights import gather, rotary_tables, wide_type

CHECK_EVERY = 16
REFILL_SHARE = 4  # refill once a quarter of the rows is idle: a prefill costs the host as much as a dozen decode steps
LENGTH_BUCKET = 128
PREFILL_TOKENS = 32768


class NativeDecoder:
    """Decodes one model of a supported family with at most `rows` answers in flight.

    Buffers and graphs are kept for calls of a like shape. The model's linear layers keep their identity but share fused weights, so
    in-place updates are seen; after parameters moved to other addresses make a new decoder. Evaluation mode is the caller's.
    `master` is the model in training whose narrow copy this one is, if it is one.
    """

    def __init__(self, model: Any, *, pad_id: int, stop_ids: Sequence[int], rows: int = 256, vocab_size: int | None = None, master: Any = None) -> None:
        self.model, self.pad_id, self.capacity = model, pad_id, rows
        self.stop_S = torch.tensor(list(stop_ids), dtype=torch.int32, device=model.device)
        self.weights = gather(model, vocab_size, master)
        self._kept: dict[tuple[float, ...], DecodeStep] = {}

    def release(self) -> None:
        """Free the caches and graphs."""
        self._kept.clear()

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], uniform_QT: Tensor, *, temperature: float, top_p: float = 1.0) -> Rows:
        """One answer a prompt, of at most `uniform_QT.shape[1]` tokens; row q of the columns belongs to prompt q.

        `uniform_QT` holds each answer's private noise, so a token depends on nothing but its own prompt and its own uniforms.
        The host looks at the device every 16 tokens, while the last of them is written: to refill finished rows, or to go on with fewer.
        """
        requests, limit = uniform_QT.shape
        step = self._shape(prompts, requests, limit, temperature, top_p)
        rows = step.rows
        rows.reset(self.pad_id)
        step.uniform_QT[:requests].copy_(uniform_QT)
        queue = sorted(range(requests), key=lambda q: -len(prompts[q]))
        alive = since = 0
        while queue or alive:
            if refill_due(queue, alive, step.capacity):
                alive, since = self._fill(queue, alive, prompts, step), 0
            left = step.run_and_count(alive, CHECK_EVERY)
            since += CHECK_EVERY
            left = left if since < limit else 0  # a row writes `limit` tokens at most
            if left == 0 or refill_due(queue, left, step.capacity) or step.size_for(left) < step.size_for(alive):
                rows.compact()
                alive = left
        return rows

    def _fill(self, queue: list[int], alive: int, prompts: Sequence[Sequence[int]], step: DecodeStep) -> int:
        """Prefill waiting prompts into idle rows, which lie behind the `alive` ones; the new number of living rows."""
        while queue and alive < step.capacity:
            count = min(len(queue), step.capacity - alive, max(1, PREFILL_TOKENS // len(prompts[queue[0]])))
            taken, queue[:count] = queue[:count], []
            self._prefill(taken, slice(alive, alive + count), [prompts[q] for q in taken], step)
            alive += count
        return alive

    def _prefill(self, taken: Sequence[int], at: slice, prompts: Sequence[Sequence[int]], step: DecodeStep) -> None:
        """The prompts' keys and values into the rows' slots. Each prompt's last token is left to the first decode step."""
        rows = step.rows
        width = max(len(prompt) for prompt in prompts) - 1
        if width > 0:
            padded = [list(prompt[:-1]) + [self.pad_id] * (width - len(prompt) + 1) for prompt in prompts]
            step.prefill(torch.tensor(padded, device=self.model.device), rows.slot_R[at].long())
        columns = [[prompt[-1] for prompt in prompts], [len(prompt) - 1 for prompt in prompts], list(taken)]
        rows.token_R[at], rows.position_R[at], rows.request_R[at] = torch.tensor(columns, dtype=torch.int32, device=self.model.device)
        rows.written_R[at], rows.alive_R[at] = 0, 1

    def _shape(self, prompts: Sequence[Sequence[int]], requests: int, limit: int, temperature: float, top_p: float) -> DecodeStep:
        """Buffers and graphs that fit, kept for the next call."""
        length = -(-(max(len(prompt) for prompt in prompts) + limit) // LENGTH_BUCKET) * LENGTH_BUCKET
        capacity, room = min(self.capacity, _power(max(requests, FEWEST_ROWS))), _power(requests)
        key = (capacity, length, room, limit, temperature, top_p)
        if key not in self._kept:
            self._kept.clear()
            wide = wide_type(self.weights.kind)
            step = DecodeStep(
                self.weights,
                rotary_tables(self.model, length),
                Cache.empty(self.weights, capacity, length),
                Rows.idle(capacity, room, limit, self.pad_id, self.model.device, wide),
                torch.zeros(room, limit, dtype=wide, device=self.model.device),
                self.stop_S,
                temperature=temperature,
                top_p=top_p,
            )
            if self.model.device.type == "cuda":
                step.capture()
            self._kept[key] = step
        return self._kept[key]


def refill_due(queue: Sequence[int], alive: int, capacity: int) -> bool:
    """Whether enough rows are idle to prefill again: a share of the capacity, or all that wait."""
    return 0 < min(len(queue), max(capacity // REFILL_SHARE, 1)) <= capacity - alive


def _power(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
