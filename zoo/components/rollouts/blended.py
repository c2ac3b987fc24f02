"""Streams whose every token is drawn from a combination of the student's law and a teacher's."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, check_range, component
from zoo.components.rollouts.base import Choice, Logits, State, TeacherWarp, author_of
from zoo.components.rollouts.sampling import inverse_cdf, warp

HALVINGS = 40


@component("rollout")
class Blended(TeacherWarp):
    """Each token from (1 - b) p + b q, or from p^(1-b) q^b normalised, p the student's law and q the teacher's, both as warped.

    b is `weight`; or, of a geometric blend, the largest b in [0, 1] with KL(blend || p) <= `budget` nats in this state, found by bisection
    (Trust-Region Behavior Blending 2605.31159); or min(1, `entropy` H(p) / log V), more of the teacher where the student is unsure (hinted
    decoding, 2602.12222). The behaviour log-probability is the blend's. A token is the teacher's where the teacher gave it more
    probability than the student did.
    """

    author: Literal["blended"] = "blended"
    teacher: str = "teacher"
    how: Literal["arithmetic", "geometric"]
    weight: Number | None = None
    budget: Number | None = None
    entropy: float | None = Field(None, gt=0)
    draws: ClassVar[int] = 1

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.weight, self.budget, self.entropy)) != 1:
            raise ValueError("give exactly one of weight, budget, entropy")
        if self.budget is not None and self.how != "geometric":
            raise ValueError("a budget bounds a geometric blend; set how: geometric, or give weight")
        check_range("weight", 0.0 if self.weight is None else self.weight, 0.0, 1.0)
        check_range("budget", 0.0 if self.budget is None else self.budget, 0.0)
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student", self.teacher)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        p_BV, q_BV = (warp(logits[name], *self.warp_of(name)).log_softmax(-1) for name in self.reads)
        share_B1 = self._share(p_BV, q_BV)[:, None]
        law_BV = geometric(p_BV, q_BV, share_B1) if self.how == "geometric" else arithmetic(p_BV, q_BV, share_B1)
        token_B = inverse_cdf(law_BV, uniform_UB[0])
        p_B, q_B, law_B = (law.gather(-1, token_B[:, None])[:, 0] for law in (p_BV, q_BV, law_BV))
        author_B = torch.where((q_B > p_B) & (share_B1[:, 0] > 0), int(author_of(self.teacher)), int(author_of("student")))
        return Choice(token_B, author_B, law_B), state

    def _share(self, p_BV: Tensor, q_BV: Tensor) -> Tensor:
        """b of each row, (B,)."""
        like_B = p_BV[:, 0]
        if self.weight is not None:
            return torch.full_like(like_B, self.weight)
        if self.entropy is not None:
            return (self.entropy / math.log(p_BV.shape[-1]) * kl(p_BV, torch.zeros_like(p_BV)).neg()).clamp(0.0, 1.0)
        return within_budget(p_BV, q_BV, self.budget or 0.0)


def arithmetic(p_BV: Tensor, q_BV: Tensor, share_B1: Tensor) -> Tensor:
    """log((1 - b) p + b q)."""
    return torch.logaddexp(p_BV + torch.log1p(-share_B1), q_BV + share_B1.log())


def geometric(p_BV: Tensor, q_BV: Tensor, share_B1: Tensor) -> Tensor:
    """(1 - b) log p + b log q, normalised; b = 0 is p and b = 1 is q, also where the other one is 0."""
    log_BV = torch.where(share_B1 < 1, (1 - share_B1) * p_BV, torch.zeros_like(p_BV)) + torch.where(share_B1 > 0, share_B1 * q_BV, torch.zeros_like(q_BV))
    return log_BV.log_softmax(-1)


def kl(of_BV: Tensor, to_BV: Tensor) -> Tensor:
    """KL(of || to) in nats, per row; entries where `of` is 0 contribute 0. Against zeros it is the negative entropy."""
    of_p_BV = of_BV.exp()
    return torch.where(of_p_BV > 0, of_p_BV * (of_BV - to_BV), torch.zeros_like(of_p_BV)).sum(-1)


def within_budget(p_BV: Tensor, q_BV: Tensor, budget: float) -> Tensor:
    """The largest b with KL(p^(1-b) q^b || p) <= budget, (B,). The divergence grows with b, so halving an interval finds it."""
    low_B, high_B = torch.zeros_like(p_BV[:, 0]), torch.ones_like(p_BV[:, 0])
    whole_B = kl(geometric(p_BV, q_BV, high_B[:, None]), p_BV) <= budget
    for _ in range(HALVINGS if budget > 0 else 0):
        middle_B = 0.5 * (low_B + high_B)
        inside_B = kl(geometric(p_BV, q_BV, middle_B[:, None]), p_BV) <= budget
        low_B, high_B = torch.where(inside_B, middle_B, low_B), torch.where(inside_B, high_B, middle_B)
    return torch.where(whole_B, torch.ones_like(low_B), low_B)
