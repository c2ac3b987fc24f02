"""Supports: the vocabulary entries on which two distributions are compared, and what becomes of the mass outside.

Mass handling follows the catalogue's D.11 and its corrections: `raw` leaks, `renormalise` frees the total, `detach` and
`tail_bucket` restore it.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Slot, component

ABSENT = -1e30  # stands for log 0 where -inf would turn a gradient into NaN


class Mass(Component):
    """What to do with the probability outside the support."""

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        """The two sets of log-probabilities to compare."""
        return student_logp_NK, teacher_logp_NK


@component("mass")
class Raw(Mass):
    """Leave both as they are. For a reverse KL this moves mass off the support (D.11), so it has to be asked for."""

    kind: Literal["raw"] = "raw"


@component("mass")
class Detach(Mass):
    """Leave both as they are and stop the gradient of the log-ratio (reverse KL only)."""

    kind: Literal["detach"] = "detach"


@component("mass")
class Renormalise(Mass):
    """Make the teacher, or both sides, sum to one on the support."""

    kind: Literal["renormalise"] = "renormalise"
    shorthand = "side"
    side: Literal["teacher", "both"]

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        teacher_logp_NK = teacher_logp_NK.log_softmax(-1)
        return (student_logp_NK.log_softmax(-1) if self.side == "both" else student_logp_NK), teacher_logp_NK


@component("mass")
class TailBucket(Mass):
    """Add one entry that holds all the mass outside the support; the result is a lower bound of the full divergence."""

    kind: Literal["tail_bucket"] = "tail_bucket"

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        return self._with_tail(student_logp_NK), self._with_tail(teacher_logp_NK)

    @staticmethod
    def _with_tail(logp_NK: Tensor) -> Tensor:
        # The clamp keeps log(1 - P_S) finite where rounding takes P_S to 1; there the bucket has no gradient.
        total_N1 = logp_NK.logsumexp(-1, keepdim=True).exp().clamp(max=1.0 - 1e-7)
        return torch.cat([logp_NK, torch.log1p(-total_N1)], -1)


class Support(Component):
    """Base of all supports; `routing` is the coordinate it gives to a direct loss, `truncated` whether mass is left out."""

    routing: ClassVar[str]
    truncated: ClassVar[bool] = True

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor] | None:
        """Vocabulary indices (N, K) and which of them count (N, K); None for the whole vocabulary."""
        raise NotImplementedError


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


class Truncated(Support):
    """Supports that leave entries out; `mass` says what becomes of them, `with_sampled` adds the written token."""

    mass: Annotated[Mass, Slot("mass")] | None = None
    with_sampled: bool = False

    def finish(self, index_NK: Tensor, valid_NK: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        """Append the written token where it is not in the support yet, if asked."""
        if not self.with_sampled:
            return index_NK, valid_NK
        missing_N1 = ~((index_NK == token_N[:, None]) & valid_NK).any(-1, keepdim=True)
        return torch.cat([index_NK, token_N[:, None]], -1), torch.cat([valid_NK, missing_N1], -1)


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


def restrict(support: Support, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides' log-probabilities on the support, after its mass handling; absent entries hold `ABSENT` on both sides."""
    chosen = support.select(student_logp_NV, teacher_logp_NV, token_N)
    if chosen is None:
        return student_logp_NV, teacher_logp_NV
    index_NK, valid_NK = chosen
    student_NK = student_logp_NV.gather(-1, index_NK).masked_fill(~valid_NK, ABSENT)
    teacher_NK = teacher_logp_NV.gather(-1, index_NK).masked_fill(~valid_NK, ABSENT)
    mass = getattr(support, "mass", None)
    if mass is None:
        return student_NK, teacher_NK
    student_NK, teacher_NK = mass.apply(student_NK, teacher_NK)
    # Where nothing is on the support, renormalising makes absent entries of it.
    present_NK = torch.nn.functional.pad(valid_NK, (0, student_NK.shape[-1] - valid_NK.shape[-1]), value=True)
    return student_NK.masked_fill(~present_NK, ABSENT), teacher_NK.masked_fill(~present_NK, ABSENT)
