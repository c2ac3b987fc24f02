"""Terms that differentiate a loss directly: distributional divergences and weighted likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from zoo.components.base import Number, Slot, check_range, component
from zoo.components.divergences import Divergence, ReverseKL
from zoo.components.shapings import shape_values
from zoo.components.supports import Detach, Full, Support, Voted, restrict
from zoo.components.terms.base import Signal, TokenTerm, gates_and_weights, unique
from zoo.statistics import LogProb, TokenContext, View

COLDEST = 1e-3  # a token's temperature divides its logits, so a weight of 0 must not reach them


@component("term")
class DivergenceTerm(TokenTerm):
    """sum over the support of the divergence's entries, student against teacher, on the visited states.

    `temperature` divides both sides' logits, for each token times the weight `temperature_by` (AdaKD 2510.11615), which acts after a
    target; `rescale` multiplies the loss by the square of both, as Hinton does (1503.02531).
    """

    term: Literal["divergence"] = "divergence"
    teacher: str = "teacher"
    divergence: Annotated[Divergence, Slot("divergence")]
    support: Annotated[Support, Slot("support")] = Full()
    temperature: Number = 1.0
    temperature_by: Annotated[Any, Slot("weight")] | None = None
    rescale: bool = False

    @model_validator(mode="after")
    def _warm(self) -> DivergenceTerm:
        check_range("temperature", self.temperature, 0.0, inclusive=False, why="it divides the logits")
        return self

    def update_scorers(self) -> tuple[str, ...]:
        return () if self.divergence.teacherless else (self.teacher,)

    def scorers(self, rewards: Mapping[str, Any]) -> tuple[str, ...]:
        return unique([*super().scorers(rewards), *((self.support.base,) if isinstance(self.support, Voted) else ())])

    def elected(self, votes_V: Tensor) -> DivergenceTerm:
        """The term on the tokens that these votes choose, where its support is voted on."""
        assert isinstance(self.support, Voted)
        return self.model_copy(update={"support": self.support.elected(votes_V)})

    def parts(self) -> tuple[tuple[str, Any], ...]:
        tempering = () if self.temperature_by is None else gates_and_weights((self.temperature_by,))
        return (*super().parts(), *((self.on, part) for part in tempering))

    def prepare(self, contexts: Mapping[str, TokenContext], rewards: Mapping[str, Any]) -> tuple[Signal, ...]:
        context = contexts[self.on]
        columns = {} if self.temperature_by is None else {"temperature": self.temperature_by.weight(context, None).clamp(min=COLDEST)}
        return (self.gated(context, None, columns),)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        compared = None if self.divergence.teacherless else view.compared(self.teacher, self.temperature)
        if compared is not None:
            return self._aligned(view, *compared)
        at_once = view.divergence_N(self.divergence, self.teacher, self.temperature) if self._whole() else None
        return self._scaled(self._by_entries(view, columns_N) if at_once is None else at_once, columns_N)

    def _whole(self) -> bool:
        """Whether the loss is the plain sum of a divergence's entries over the whole vocabulary."""
        plain = type(self.divergence).at_tokens is Divergence.at_tokens and not self.divergence.teacherless and self.temperature_by is None
        return plain and isinstance(self.support, Full) and not any(shaping.where == "entry" for shaping in self.shaping)

    def _by_entries(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        student_logp_NV = self._tempered(view, "student", columns_N)
        teacher_logp_NV = student_logp_NV.detach() if self.divergence.teacherless else self._tempered(view, self.teacher, columns_N)
        student_NK, teacher_NK = restrict(self.support, student_logp_NV, teacher_logp_NV, view.token_N)
        entries_NK = self._entries(student_NK, teacher_NK, view.token_N)
        return shape_values(self.shaping, "entry", entries_NK).sum(-1)

    def _scaled(self, loss_N: Tensor, columns_N: Mapping[str, Tensor]) -> Tensor:
        loss_N = shape_values(self.shaping, "token", loss_N)
        if not self.rescale:
            return loss_N
        loss_N = loss_N * self.temperature**2
        return loss_N if self.temperature_by is None else loss_N * columns_N["temperature"].square()

    def _aligned(self, view: View, student_GK: Tensor, teacher_GK: Tensor) -> Tensor:
        """The loss against a teacher with another tokenizer, on common columns, at the rows where it stands."""
        places = view.places(self.teacher)
        assert places is not None
        place_G, sequence_G = places
        entries_GK = self.divergence.over_sequences(student_GK, teacher_GK, sequence_G)
        loss_G = shape_values(self.shaping, "token", shape_values(self.shaping, "entry", entries_GK).sum(-1))
        loss_G = loss_G * self.temperature**2 if self.rescale else loss_G
        return torch.zeros(len(view.token_N), dtype=loss_G.dtype, device=loss_G.device).index_add(0, place_G, loss_G)

    def _tempered(self, view: View, scorer: str, columns_N: Mapping[str, Tensor]) -> Tensor:
        logp_NV = view.logp_NV(scorer, self.temperature)
        return logp_NV if self.temperature_by is None else (logp_NV / columns_N["temperature"][:, None]).log_softmax(-1)

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
