"""Terms that differentiate a loss directly: distributional divergences and weighted likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.divergences import Divergence, ReverseKL
from zoo.components.shapings import shape_values
from zoo.components.supports import Detach, Full, Support, restrict
from zoo.components.terms.base import TokenTerm
from zoo.statistics import LogProb, View


@component("term")
class DivergenceTerm(TokenTerm):
    """sum over the support of the divergence's entries, student against teacher, on the visited states.

    `temperature` divides both sides' logits; `rescale` multiplies the loss by its square, as Hinton does (1503.02531).
    """

    term: Literal["divergence"] = "divergence"
    teacher: str = "teacher"
    divergence: Annotated[Divergence, Slot("divergence")]
    support: Annotated[Support, Slot("support")] = Full()
    temperature: Number = 1.0
    rescale: bool = False

    @model_validator(mode="after")
    def _warm(self) -> DivergenceTerm:
        check_range("temperature", self.temperature, 0.0, inclusive=False, why="it divides the logits")
        return self

    def update_scorers(self) -> tuple[str, ...]:
        return () if self.divergence.teacherless else (self.teacher,)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        student_logp_NV = view.logp_NV("student", self.temperature)
        teacher_logp_NV = student_logp_NV.detach() if self.divergence.teacherless else view.logp_NV(self.teacher, self.temperature)
        student_NK, teacher_NK = restrict(self.support, student_logp_NV, teacher_logp_NV, view.token_N)
        entries_NK = self._entries(student_NK, teacher_NK, view.token_N)
        loss_N = shape_values(self.shaping, "entry", entries_NK).sum(-1)
        loss_N = shape_values(self.shaping, "token", loss_N)
        return loss_N * self.temperature**2 if self.rescale else loss_N

    def _entries(self, student_NK: Tensor, teacher_NK: Tensor, token_N: Tensor) -> Tensor:
        if isinstance(getattr(self.support, "mass", None), Detach) and isinstance(self.divergence, ReverseKL):
            return self.divergence.detached_entries(student_NK, teacher_NK)
        return self.divergence.at_tokens(student_NK, teacher_NK, token_N)


@component("term")
class LikelihoodTerm(TokenTerm):
    """-log p(y) of the stream's tokens."""

    term: Literal["likelihood"] = "likelihood"

    def token_loss(self, view: View, columns_N: Mapping[str, Any]) -> Tensor:
        return -LogProb("student").compute(view)
