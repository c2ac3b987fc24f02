"""Supports read off the two distributions, or the whole vocabulary."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.supports.base import Support, Truncated


@component("support")
class Full(Support):
    """The whole vocabulary."""

    kind: Literal["full"] = "full"
    routing = "full_vocab"
    truncated = False

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> None:
        return None


@component("support")
class Sampled(Support):
    """The written token alone, for the sampled estimators k2 and k3."""

    kind: Literal["sampled"] = "sampled"
    routing = "sampled_token"
    truncated = False

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        return token_N[:, None], torch.ones_like(token_N, dtype=torch.bool)[:, None]


class TopK(Truncated):
    """Supports made of the k most probable tokens of one side or both."""

    k: int = Field(ge=1)

    def ranked(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides' top-k indices; k larger than the vocabulary means all of it."""
        k = min(self.k, student_logp_NV.shape[-1])
        return student_logp_NV.detach().topk(k, -1).indices, teacher_logp_NV.topk(k, -1).indices


@component("support")
class TeacherTopK(TopK):
    """The teacher's k most probable tokens."""

    kind: Literal["teacher_topk"] = "teacher_topk"
    routing = "teacher_topk"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        _, teacher_NK = self.ranked(student_logp_NV, teacher_logp_NV)
        return self.finish(teacher_NK, torch.ones_like(teacher_NK, dtype=torch.bool), token_N)


@component("support")
class StudentTopK(TopK):
    """The student's k most probable tokens, chosen without gradient."""

    kind: Literal["student_topk"] = "student_topk"
    routing = "student_topk"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        student_NK, _ = self.ranked(student_logp_NV, teacher_logp_NV)
        return self.finish(student_NK, torch.ones_like(student_NK, dtype=torch.bool), token_N)


@component("support")
class UnionTopK(TopK):
    """Tokens in either side's top-k."""

    kind: Literal["union_topk"] = "union_topk"
    routing = "union_topk"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        student_NK, teacher_NK = self.ranked(student_logp_NV, teacher_logp_NV)
        fresh_NK = ~(teacher_NK[:, :, None] == student_NK[:, None, :]).any(-1)
        valid_NK = torch.cat([torch.ones_like(student_NK, dtype=torch.bool), fresh_NK], -1)
        return self.finish(torch.cat([student_NK, teacher_NK], -1), valid_NK, token_N)


@component("support")
class OverlapTopK(TopK):
    """Tokens in both sides' top-k."""

    kind: Literal["overlap_topk"] = "overlap_topk"
    routing = "overlap_topk"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        student_NK, teacher_NK = self.ranked(student_logp_NV, teacher_logp_NV)
        return self.finish(teacher_NK, (teacher_NK[:, :, None] == student_NK[:, None, :]).any(-1), token_N)


class OneSide(Truncated):
    """Supports read off one side's distribution, chosen without gradient."""

    of: Literal["teacher", "student"] = "teacher"

    def side(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
        """The log-probabilities (N, V) that decide."""
        return teacher_logp_NV if self.of == "teacher" else student_logp_NV.detach()


@component("support")
class Nucleus(OneSide):
    """The fewest most probable tokens of `of` whose mass reaches `top_p`; 1 is the whole vocabulary."""

    kind: Literal["nucleus"] = "nucleus"
    top_p: float = Field(gt=0, le=1)
    routing = "nucleus"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        ranked_NV, index_NV = self.side(student_logp_NV, teacher_logp_NV).exp().sort(dim=-1, descending=True, stable=True)
        before_NV = ranked_NV.cumsum(-1) - ranked_NV
        valid_NV = torch.ones_like(index_NV, dtype=torch.bool) if self.top_p == 1.0 else before_NV < self.top_p
        width = int(valid_NV.sum(-1).max()) if len(valid_NV) else 1
        return self.finish(index_NV[:, :width], valid_NV[:, :width], token_N)


@component("support")
class Quantile(OneSide):
    """The tokens of `of` whose probability lies in the upper share 1 - `at` of the vocabulary's: a top-k with k a share of V, one
    token at least; 0 is the whole vocabulary."""

    kind: Literal["quantile"] = "quantile"
    at: float = Field(ge=0, lt=1)

    @property
    def routing(self) -> str:  # type: ignore[override]
        """The coordinate of the side's top-k."""
        return f"{self.of}_topk"

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        side_NV = self.side(student_logp_NV, teacher_logp_NV)
        # Rounding must not turn 0.75 of 40 into 11 tokens.
        k = max(1, math.ceil((1.0 - self.at) * side_NV.shape[-1] - 1e-9))
        index_NK = side_NV.topk(k, -1).indices
        return self.finish(index_NK, torch.ones_like(index_NK, dtype=torch.bool), token_N)
