"""The copies through which models that are kept in one type decode in another."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from zoo.harness.native import unsupported
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


class Shadows:
    """The copies of an engine's models, by name. The student has one where it is trained in another type than `dtype`, or in parts; a teacher where it is
    kept in another type (it moves with the student) and the native decoder could write with it."""

    def __init__(self, student: Any, teachers: Mapping[str, Any], dtype: torch.dtype | None) -> None:
        self.live, self.dtype = {**teachers, "student": student}, dtype
        self.masters: dict[str, Any] = {}  # models of which some are narrow copies, not whole ones of parts
        self.writing: dict[str, Any] = dict(self.live)
        if is_sharded(student) or self._other(student):
            self._add("student")

    def refresh(self, *names: str) -> None:
        """Give the copies of these models their present weights; one that writes for the first time has its copy made."""
        for name in names:
            live = self.live.get(name)
            if name not in self.copied and isinstance(live, torch.nn.Module) and not is_sharded(live) and self._other(live) and not unsupported(live):
                self._add(name)
            elif name in self.copied:
                refresh(self.writing[name], live)

    @property
    def copied(self) -> set[str]:
        """The models that have a copy."""
        return {name for name, model in self.writing.items() if model is not self.live[name]}

    def _other(self, model: Any) -> bool:
        return self.dtype not in (None, next(model.parameters()).dtype)

    def _add(self, name: str) -> None:
        self.writing[name] = decoding_copy(self.live[name], self.dtype)
        if not is_sharded(self.live[name]):
            self.masters[name] = self.live[name]
