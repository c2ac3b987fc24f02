"""Streams that a model writes token by token: student, teacher, proposals that a teacher verifies, and hand-overs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, Slot, check_range, component
from zoo.components.rollouts.base import Choice, Logits, State, Stream, TeacherWarp, constant_author
from zoo.components.rollouts.sampling import inverse_cdf, sample_from, warp
from zoo.tensors import Author


class Solo(Stream):
    """One model writes everything."""

    draws: ClassVar[int] = 1

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        [name] = self.reads
        draw = sample_from(logits[name], uniform_UB[0], self.temperature, self.top_p)
        return Choice(draw.token_B, constant_author(name, draw.token_B), draw.behaviour_logp_B), state


@component("rollout")
class Student(Solo):
    """On-policy: the student writes."""

    author: Literal["student"] = "student"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("student",)


@component("rollout")
class Teacher(Solo):
    """A teacher writes (sequence-level distillation, DistiLLM-2's second stream)."""

    author: Literal["teacher"] = "teacher"
    teacher: str = "teacher"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.teacher,)


class Verify(Component):
    """Which of the student's proposals stand."""

    by: str = "teacher"

    def accepts(self, teacher_BV: Tensor) -> Tensor:
        """Boolean (B, V): tokens that would be kept, given the verifier's unwarped logits."""
        raise NotImplementedError


@component("verify")
class RankVerify(Verify):
    """Kept within the verifier's `at_most` most probable tokens (SKD 2410.11325). Ranks ignore temperature; ties at the edge are kept."""

    kind: Literal["rank"] = "rank"
    at_most: int = Field(ge=1)

    def accepts(self, teacher_BV: Tensor) -> Tensor:
        edge_B1 = teacher_BV.topk(min(self.at_most, teacher_BV.shape[-1]), dim=-1).values[:, -1:]
        return teacher_BV >= edge_B1


@component("verify")
class ProbabilityVerify(Verify):
    """Kept where the verifier gives at least `at_least`."""

    kind: Literal["probability"] = "probability"
    at_least: Number

    @model_validator(mode="after")
    def _range(self) -> Self:
        check_range("at_least", self.at_least, 0.0, 1.0)
        return self

    def accepts(self, teacher_BV: Tensor) -> Tensor:
        return teacher_BV.softmax(-1) >= self.at_least


@component("rollout")
class Interleaved(TeacherWarp):
    """The student proposes each token; one that the verifier rejects is replaced by a sample of the verifier (SKD 2410.11325).

    The behaviour law is exact: q(v) where v is accepted, plus the rejected mass times p(v), with q and p as warped. The
    author column says who wrote the token in the end.
    """

    author: Literal["interleaved"] = "interleaved"
    propose: Literal["student"] = "student"
    verify: Annotated[Verify, Slot("verify")]
    per: Literal["token"] = "token"
    draws: ClassVar[int] = 2

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.propose, self.verify.by)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        student_BV, teacher_BV = logits[self.propose], logits[self.verify.by]
        student_logp_BV = warp(student_BV, *self.warp_of(self.propose)).log_softmax(-1)
        teacher_logp_BV = warp(teacher_BV, *self.warp_of(self.verify.by)).log_softmax(-1)
        accepted_BV = self.verify.accepts(teacher_BV)
        proposed_B = inverse_cdf(student_logp_BV, uniform_UB[0])
        kept_B = accepted_BV.gather(-1, proposed_B[:, None])[:, 0]
        token_B = torch.where(kept_B, proposed_B, inverse_cdf(teacher_logp_BV, uniform_UB[1]))

        def at(table_BV: Tensor) -> Tensor:
            return table_BV.gather(-1, token_B[:, None])[:, 0]

        rejected_B = student_logp_BV.exp().masked_fill(accepted_BV, 0.0).sum(-1)
        law_B = at(student_logp_BV).exp() * at(accepted_BV) + rejected_B * at(teacher_logp_BV).exp()
        author_B = torch.where(kept_B, int(Author.STUDENT), int(Author.TEACHER))
        return Choice(token_B, author_B, law_B.log()), state


class Handover(Component):
    """When a stream changes hands, once for each row and for good."""

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        """Whether each row hands over before this token: boolean (B,), and the state for the next token (None at first)."""
        raise NotImplementedError


@component("handover")
class DivergenceJump(Handover):
    """At the first token whose divergence exceeds `ratio` times the mean of the last `window` (AdaSwitch 2510.07842).

    The paper does not say what holds before the window is full: here the mean is over what there is, and never at the first token.
    """

    kind: Literal["divergence_jump"] = "divergence_jump"
    ratio: Number = 3.0
    window: int = Field(10, ge=1)
    divergence: Literal["forward_kl", "reverse_kl"] = "forward_kl"

    @model_validator(mode="after")
    def _range(self) -> Self:
        check_range("ratio", self.ratio, 0.0, inclusive=False)
        return self

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        first_logp_BV, then_logp_BV = first_BV.log_softmax(-1), then_BV.log_softmax(-1)
        p_BV, q_BV = (then_logp_BV, first_logp_BV) if self.divergence == "forward_kl" else (first_logp_BV, then_logp_BV)
        now_B = (p_BV.exp() * (p_BV - q_BV)).sum(-1)
        recent_BL = now_B[:, None] if state is None else torch.cat([state, now_B[:, None]], -1)[:, -self.window :]
        jump_B = torch.zeros_like(now_B, dtype=torch.bool) if state is None else now_B > self.ratio * state.mean(-1)
        return jump_B, recent_BL


@component("handover")
class AtPosition(Handover):
    """After a number of tokens drawn uniformly from `low`..`high` for each row (random prefixes of one author, continued by another)."""

    kind: Literal["position"] = "position"
    low: int = Field(0, ge=0)
    high: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self

    def observe(self, state: State, first_BV: Tensor, then_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, State]:
        left_B = self.low + (uniform_B * (self.high - self.low + 1)).floor() if state is None else state
        return left_B <= 0, left_B - 1


@dataclass(frozen=True)
class _Hands:
    """State of a hand-over stream."""

    given_B: Tensor
    inner: State


@component("rollout")
class Switch(TeacherWarp):
    """`first` writes until `when` says so, then `then` writes the rest, the present token included (AdaSwitch 2510.07842)."""

    author: Literal["switch"] = "switch"
    first: str = "student"
    then: str = "teacher"
    when: Annotated[Handover, Slot("handover")] = DivergenceJump()
    draws: ClassVar[int] = 2

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.first == self.then:
            raise ValueError(f"first and then are both '{self.first}'; a switch needs two authors")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.first, self.then)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        now_B, inner = self.when.observe(state.inner if state else None, logits[self.first], logits[self.then], uniform_UB[1])
        given_B = now_B | state.given_B if state else now_B
        first = sample_from(logits[self.first], uniform_UB[0], *self.warp_of(self.first))
        then = sample_from(logits[self.then], uniform_UB[0], *self.warp_of(self.then))
        token_B = torch.where(given_B, then.token_B, first.token_B)
        author_B = torch.where(given_B, constant_author(self.then, token_B), constant_author(self.first, token_B))
        return Choice(token_B, author_B, torch.where(given_B, then.behaviour_logp_B, first.behaviour_logp_B)), _Hands(given_B, inner)
