"""Interleaving by stretches: the student writes until a running statistic strays, and the teacher writes the stretch anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.rollouts.base import Choice, Logits, State, TeacherWarp, constant_author
from zoo.components.rollouts.decoded import Verify
from zoo.components.rollouts.sampling import sample_from, token_logp


@component("verify")
class WindowVerify(Verify):
    """A stretch is given back when its mean surprise -log q(y) exceeds mean + `deviations` standard deviations of the stretches before it
    (MOTAB 2605.19433, its rule a reconstruction). The last `window` tokens are cut, the verifier writes `give`, and the student goes on,
    its statistics begun afresh; at most `returns` times a row."""

    kind: Literal["window"] = "window"
    window: int = Field(8, ge=1)
    deviations: float = Field(2.0, gt=0)
    give: int = Field(16, ge=1)
    returns: int = Field(4, ge=1)
    per_span = True

    def accepts(self, teacher_BV: Tensor, student_BV: Tensor) -> Tensor:
        raise ValueError("a window judges stretches, not tokens")


@dataclass(frozen=True)
class _Trail:
    """Surprises of the last tokens, and the sum, sum of squares and number of the stretches' means so far."""

    recent_BL: Tensor
    sum_B: Tensor
    square_B: Tensor
    count: int
    strays_B: Tensor


class Watched(TeacherWarp):
    """The student writes, the verifier reads along, and a row ends before the token that follows a straying stretch."""

    author: Literal["watched"] = "watched"
    verify: WindowVerify
    draws: ClassVar[int] = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student", self.verify.by)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        draw = sample_from(logits["student"], uniform_UB[0], *self.warp_of("student"))
        surprise_B1 = -token_logp(logits[self.verify.by], draw.token_B)[:, None]
        end_B = None if state is None else state.strays_B
        return Choice(draw.token_B, constant_author("student", draw.token_B), draw.behaviour_logp_B, end_B), self._follow(state, surprise_B1)

    def _follow(self, state: _Trail | None, surprise_B1: Tensor) -> _Trail:
        zero_B = torch.zeros_like(surprise_B1[:, 0])
        before = _Trail(surprise_B1[:, :0], zero_B, zero_B, 0, zero_B.bool()) if state is None else state
        recent_BL = torch.cat([before.recent_BL, surprise_B1], 1)[:, -self.verify.window :]
        if recent_BL.shape[1] < self.verify.window:
            return _Trail(recent_BL, before.sum_B, before.square_B, 0, zero_B.bool())
        now_B, count = recent_BL.mean(1), max(before.count, 1)
        mean_B = before.sum_B / count
        spread_B = (before.square_B / count - mean_B.square()).clamp(min=0.0).sqrt()
        strays_B = (now_B > mean_B + self.verify.deviations * spread_B) & (before.count > self.verify.window)
        return _Trail(recent_BL, before.sum_B + now_B, before.square_B + now_B.square(), before.count + 1, strays_B)
