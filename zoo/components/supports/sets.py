"""Supports that are the same in every state: given sets, and a set that is voted on."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import component
from zoo.components.supports.base import Truncated


@component("support")
class FixedSet(Truncated):
    """The same tokens everywhere: those of `ids`, or the `first` ids of the vocabulary, such as the part that two models share."""

    kind: Literal["fixed_set"] = "fixed_set"
    ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    first: Annotated[int, Field(ge=1)] | None = None
    routing = "fixed_set"

    @model_validator(mode="after")
    def _one(self) -> FixedSet:
        if bool(self.ids) == (self.first is not None):
            raise ValueError("give exactly one of ids and first")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids holds a token twice; each counts once")
        return self

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        size = student_logp_NV.shape[-1]
        chosen = [i for i in self.ids if i < size] if self.first is None else list(range(min(self.first, size)))
        if not chosen:
            raise ValueError(f"none of support fixed_set's ids is in the vocabulary of {size} tokens; give smaller ids")
        index_NK = torch.tensor(chosen, device=token_N.device).expand(len(token_N), -1)
        return self.finish(index_NK, torch.ones_like(index_NK, dtype=torch.bool), token_N)


@component("support")
class Voted(Truncated):
    """The `size` tokens that most often stand among the `top` largest log q - log b of a state, b being `base`: each state of the initial
    student's answers to the first `prompts` training prompts gives a vote to each of its `top`. Counted once, before the first step; of equal
    tokens the smaller id (SafeSteer 2606.02530)."""

    kind: Literal["voted"] = "voted"
    size: int = Field(ge=1)
    top: int = Field(10, ge=1)
    base: str = "reference"
    prompts: int = Field(100, ge=1)
    routing = "fixed_set"

    def votes(self, teacher_logp_NV: Tensor, base_logp_NV: Tensor) -> Tensor:
        """What each state votes for, 0 or 1, (N, V)."""
        gain_NV = teacher_logp_NV - base_logp_NV
        index_NK = gain_NV.topk(min(self.top, gain_NV.shape[-1]), -1).indices
        return torch.zeros_like(gain_NV).scatter(-1, index_NK, 1.0)

    def elected(self, votes_V: Tensor) -> FixedSet:
        """The set that these votes choose."""
        order_V = votes_V.cpu().sort(descending=True, stable=True).indices
        return FixedSet(ids=tuple(sorted(order_V[: self.size].tolist())), mass=self.mass, with_sampled=self.with_sampled)

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("support voted is a set that a run chooses before its first step; put what it has chosen in its place (zoo.harness.votes)")
