"""What torch.compile makes of a step's two largest crowds of small kernels: the layers of a backbone, and a divergence over the whole vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.views import FLOOR

log = logging.getLogger(__name__)
Entries = Callable[[Tensor, Tensor], Tensor]
TRIAL_ROWS = 4
MOST = 4  # a divergence whose numbers follow a schedule would be compiled at every step


def compile_layers(model: Any) -> None:
    """Compile the layers of a backbone, one graph for all of them and all batch sizes. Their results change by rounding."""
    for layer in model.base_model.layers:
        layer.compile(dynamic=True)


class Fused:
    """Sums of a divergence's entries over the whole vocabulary, compiled once for each divergence: two passes over both models' logits forward
    and two backward, where the separate steps take some sixty.

    A divergence that can't be compiled here is left to the separate steps, and the reason is logged once; so are those beyond the first few.
    """

    def __init__(self) -> None:
        self._compiled: dict[tuple[Any, float, int], Any] = {}

    def __call__(self, divergence: Any, student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor | None:
        """The loss (N,) from raw logits (N, V) in fp32, or None."""
        key = (divergence, temperature, student_NV.shape[1])
        if key not in self._compiled:
            if len(self._compiled) >= MOST:
                return None
            self._compiled[key] = _tried(divergence, temperature, student_NV, teacher_NV)
        compiled = self._compiled[key]
        return None if compiled is None else compiled(_any_rows(student_NV), _any_rows(teacher_NV))  # type: ignore[no-any-return]


def separate(entries: Entries, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, step by step: what is compiled."""

    def loss_N(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        student_NV, teacher_NV = (z if temperature == 1.0 else z / temperature for z in (student_NV, teacher_NV))
        return entries(student_NV.log_softmax(-1).clamp(min=FLOOR), teacher_NV.log_softmax(-1).clamp(min=FLOOR)).sum(-1)

    return loss_N


def _tried(divergence: Any, temperature: float, student_NV: Tensor, teacher_NV: Tensor) -> Any:
    """The compiled function, after one pass forward and backward, in which everything is compiled."""
    plain = separate(divergence.entries, temperature)
    compiled = torch.compile(plain)
    try:
        with torch.enable_grad():
            leaf_NV = _any_rows(student_NV.detach()[:1].repeat(TRIAL_ROWS, 1).requires_grad_())
            loss_N = compiled(leaf_NV, _any_rows(teacher_NV.detach()[:1].repeat(TRIAL_ROWS, 1)))
            loss_N.sum().backward()
    except Exception as error:
        log.warning("%s is computed step by step, slower: %s", type(divergence).__name__, (str(error).splitlines() or [type(error).__name__])[0])
        return None
    return compiled


def _any_rows(tensor: Tensor) -> Tensor:
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
