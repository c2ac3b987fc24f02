"""The copy through which a student that is trained in one type decodes in another."""

from __future__ import annotations

import copy
from typing import Any

import torch

from zoo.harness.sharding import is_sharded, whole, whole_copy


def decoding_copy(model: Any, dtype: torch.dtype | None) -> Any:
    """A copy whose parameters have another type. Buffers keep theirs: rotary frequencies in bf16 would misplace every token."""
    if is_sharded(model):
        return whole_copy(model, dtype)
    shadow = copy.deepcopy(model).requires_grad_(False)
    for parameter in shadow.parameters():
        parameter.data, parameter.grad = parameter.data.to(dtype), None
    return shadow


@torch.no_grad()
def refresh(shadow: Any, student: Any) -> None:
    """Copy the student's weights into its decoding copy, in place, since captured graphs know only these addresses."""
    for kept, live in zip(shadow.parameters(), student.parameters(), strict=True):
        kept.copy_(whole(live))
    for kept, live in zip(shadow.buffers(), student.buffers(), strict=True):
        kept.copy_(live)
