"""Streams that a model writes token by token: student, teacher, proposals that a teacher verifies, and hand-overs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Number, Slot, check_range, component
from zoo.components.rollouts.base import Choice, Logits, State, Stream, TeacherWarp, constant_author
from zoo.components.rollouts.handovers import DivergenceJump, Handover
from zoo.components.rollouts.sampling import inverse_cdf, sample_from, warp
from zoo.tensors import Author


class Solo(Stream):
    """One model writes everything."""

    in_turns: ClassVar[bool] = True
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

    per_span: ClassVar[bool] = False
    by: str = "teacher"

    def accepts(self, teacher_BV: Tensor, student_BV: Tensor) -> Tensor:
        """Boolean (B, V): tokens that would be kept, given the verifier's and the student's unwarped logits."""
        raise NotImplementedError


@component("verify")
class RankVerify(Verify):
    """Kept within the verifier's `at_most` most probable tokens (SKD 2410.11325). Ranks ignore temperature; ties at the edge are kept."""

    kind: Literal["rank"] = "rank"
    at_most: int = Field(ge=1)

    def accepts(self, teacher_BV: Tensor, student_BV: Tensor) -> Tensor:
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

    def accepts(self, teacher_BV: Tensor, student_BV: Tensor) -> Tensor:
        return teacher_BV.softmax(-1) >= self.at_least


@component("verify")
class ProbabilityRatioVerify(Verify):
    """Kept where the verifier gives at least `at_least` times the student's own probability (Warmup-Distill 2502.11766, reconstructed)."""

    kind: Literal["probability_ratio"] = "probability_ratio"
    at_least: Number

    @model_validator(mode="after")
    def _range(self) -> Self:
        check_range("at_least", self.at_least, 0.0)
        return self

    def accepts(self, teacher_BV: Tensor, student_BV: Tensor) -> Tensor:
        return teacher_BV.softmax(-1) >= self.at_least * student_BV.softmax(-1)


@component("rollout")
class Interleaved(TeacherWarp):
    """The student proposes each token; one that the verifier rejects is replaced by a sample of the verifier (SKD 2410.11325).

    The behaviour law is exact: q(v) where v is accepted, plus the rejected mass times p(v), with q and p as warped. The
    author column says who wrote the token in the end.
    """

    author: Literal["interleaved"] = "interleaved"
    propose: Literal["student"] = "student"
    verify: Annotated[Verify, Slot("verify")]
    per: Literal["token", "span"] = "token"
    draws: ClassVar[int] = 2

    @model_validator(mode="after")
    def _unit(self) -> Self:
        if self.verify.per_span != (self.per == "span"):
            raise ValueError(f"verify: {self.verify.kind} judges {'stretches; set per: span' if self.verify.per_span else 'tokens; set per: token'}")  # type: ignore[attr-defined]
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.propose, self.verify.by)

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        student_BV, teacher_BV = logits[self.propose], logits[self.verify.by]
        student_logp_BV = warp(student_BV, *self.warp_of(self.propose)).log_softmax(-1)
        teacher_logp_BV = warp(teacher_BV, *self.warp_of(self.verify.by)).log_softmax(-1)
        accepted_BV = self.verify.accepts(teacher_BV, student_BV)
        proposed_B = inverse_cdf(student_logp_BV, uniform_UB[0])
        kept_B = accepted_BV.gather(-1, proposed_B[:, None])[:, 0]
        token_B = torch.where(kept_B, proposed_B, inverse_cdf(teacher_logp_BV, uniform_UB[1]))

        def at(table_BV: Tensor) -> Tensor:
            return table_BV.gather(-1, token_B[:, None])[:, 0]

        rejected_B = student_logp_BV.exp().masked_fill(accepted_BV, 0.0).sum(-1)
        law_B = at(student_logp_BV).exp() * at(accepted_BV) + rejected_B * at(teacher_logp_BV).exp()
        author_B = torch.where(kept_B, int(Author.STUDENT), int(Author.TEACHER))
        return Choice(token_B, author_B, law_B.log()), state


@dataclass(frozen=True)
class _Hands:
    """State of a hand-over stream."""

    given_B: Tensor
    inner: State


@component("rollout")
class Switch(TeacherWarp):
    """`first` writes until `when` says so, then `then` writes the rest, the present token included (AdaSwitch 2510.07842).

    With `stop` the text ends there instead, unfinished and after one token at least, and `then` has only been watching.
    """

    author: Literal["switch"] = "switch"
    first: str = "student"
    then: str = "teacher"
    when: Annotated[Handover, Slot("handover")] = DivergenceJump()
    stop: bool = False
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
        if self.stop:
            end_B = None if state is None else given_B
            return Choice(first.token_B, constant_author(self.first, first.token_B), first.behaviour_logp_B, end_B), _Hands(given_B, inner)
        then = sample_from(logits[self.then], uniform_UB[0], *self.warp_of(self.then))
        token_B = torch.where(given_B, then.token_B, first.token_B)
        author_B = torch.where(given_B, constant_author(self.then, token_B), constant_author(self.first, token_B))
        return Choice(token_B, author_B, torch.where(given_B, then.behaviour_logp_B, first.behaviour_logp_B)), _Hands(given_B, inner)
