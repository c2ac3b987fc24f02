"""Streams of given texts, and streams made of other streams: mixtures and replay."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, Strict, component, extremes
from zoo.components.rollouts.base import AnyStream, Choice, Logits, State, Stream, TeacherWarp, author_of
from zoo.components.rollouts.decoded import Student, Teacher
from zoo.components.rollouts.sampling import inverse_cdf, warp


@component("rollout")
class Dataset(Stream):
    """Given responses: the prompt's `field`, ended by the stop token (cut, and then unfinished, at the length limit)."""

    author: Literal["dataset"] = "dataset"
    field: str = "solution"


@component("rollout")
class Corpus(Stream):
    """Text without a prompt: every token after the first is supervised. Without a corpus, the prompt and its `field` are one text."""

    author: Literal["corpus"] = "corpus"
    field: str = "solution"


GIVEN: dict[str, type[Dataset] | type[Corpus]] = {"dataset": Dataset, "corpus": Corpus}


@component("rollout")
class Mixture(TeacherWarp):
    """Several authors by weight; the keys of `of` are `student`, `dataset`, `corpus` or names of teachers.

    `per: sequence` draws each response's author (GKD 2306.13649); `per: group_member` gives each prompt's first `student: 7`
    responses to the student, the next `teacher: 1` to the teacher (weights are counts adding up to `group`); `per: token` draws
    every token from sum_a w_a p_a (MiniLLM 2306.08543): the author first, by weight, then the token from that author, which is
    the same law; `per: turn` draws the author of each turn of a dialogue (DAgger 2605.12913). With `per: token` the author column
    names the author drawn and the behaviour log-probability is the mixture's.
    """

    author: Literal["mixture"] = "mixture"
    of: dict[str, Number] = Field(min_length=2)
    per: Literal["sequence", "token", "group_member", "turn"]
    draws: ClassVar[int] = 2
    in_turns: ClassVar[bool] = True

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if any(extremes(weight)[0] < 0 for weight in self.of.values()) or not self.names:
            raise ValueError("weights in 'of' must be at least 0, and one of them positive")
        if self.per in ("token", "turn") and (given := [name for name in self.of if name in GIVEN]):
            raise ValueError(f"'{given[0]}' {'has no next-token distribution' if self.per == 'token' else 'is one given text'}; mix it with per: sequence")
        if (self.per == "turn" and self.environment is None) or (self.per in ("sequence", "group_member") and self.environment is not None):
            raise ValueError(f"per: {self.per} {'needs an environment' if self.per == 'turn' else 'and an environment do not go together; use per: turn'}")
        counts = [extremes(weight) for weight in self.of.values()]
        if self.per == "group_member" and (sum(low for low, _ in counts) != self.group or any(low != high or low != int(low) for low, high in counts)):
            raise ValueError(f"with per: group_member the weights in 'of' are counts that add up to group ({self.group})")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Authors of positive weight, in the order written."""
        return tuple(name for name, weight in self.of.items() if extremes(weight)[1] > 0)

    @property
    def shares(self) -> tuple[float, ...]:
        """Their weights, adding up to 1."""
        total = sum(self.of.values())
        return tuple(self.of[name] / total for name in self.names)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in GIVEN)

    def part(self, name: str) -> Stream:
        """One author's own stream, with this stream's length, warp and context."""
        temperature, top_p = self.warp_of(name)
        limits: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "context": self.context_of(name)}
        common = {"temperature": temperature, "top_p": top_p, **limits}
        if name in GIVEN:
            return GIVEN[name](**common)
        return Student(**common) if name == "student" else Teacher(teacher=name, **common)

    def author_at(self, member: int, uniform: float) -> str:
        """Who writes a whole response: by its own uniform, or by its place in the group."""
        at = (member + 0.5) / self.group if self.per == "group_member" else uniform
        reached = 0.0
        for name, share in zip(self.names, self.shares, strict=True):
            reached += share
            if at < reached:
                return name
        return self.names[-1]

    def choose(self, state: State, logits: Logits, uniform_UB: Tensor) -> tuple[Choice, State]:
        laws = [warp(logits[name], *self.warp_of(name)).log_softmax(-1) for name in self.names]
        share_A = torch.tensor(self.shares, dtype=torch.float64, device=uniform_UB.device)
        which_B = (uniform_UB[1][:, None] >= share_A.cumsum(-1)[:-1]).sum(-1)
        chosen_BV = laws[0]
        for index, law_BV in enumerate(laws[1:], start=1):
            chosen_BV = torch.where((which_B == index)[:, None], law_BV, chosen_BV)
        token_B = inverse_cdf(chosen_BV, uniform_UB[0])
        each_AB = torch.stack([law_BV.gather(-1, token_B[:, None])[:, 0] for law_BV in laws])
        mixed_B = torch.logsumexp(each_AB + share_A.log().to(each_AB.dtype)[:, None], dim=0)
        authors_A = torch.tensor([int(author_of(name)) for name in self.names], device=token_B.device)
        return Choice(token_B, authors_A[which_B], mixed_B), state


class AdaptivePhi(Strict):
    """The probability of the student's own text: `start`, raised by `step` whenever the validation loss has risen by `eps`."""

    start: float = Field(0.0, ge=0.0, le=1.0)
    step: float = Field(0.1, ge=0.0, le=1.0)
    eps: float = Field(0.1, ge=0.0)


@component("rollout")
class Replay(Stream):
    """Fresh text, text from a first-in first-out buffer, or given text, by an adaptive probability phi (DistiLLM 2402.03898).

    At progress s, with one uniform u for the whole batch: u < phi (1 - s), or u < phi and the buffer not full: write by `of` and
    remember; else u < phi: a random batch from the buffer; else `otherwise`.
    """

    author: Literal["replay"] = "replay"
    of: AnyStream = Student()
    otherwise: AnyStream = Dataset()
    capacity: int = Field(1000, ge=1)
    phi: AdaptivePhi = AdaptivePhi()

    @model_validator(mode="after")
    def _inner(self) -> Self:
        for inner in (self.of, self.otherwise):
            if isinstance(inner, Replay):
                raise ValueError("a replay inside a replay has no meaning; name a plain author")
            if self.group != 1 or inner.group != 1:
                raise ValueError("replay mixes answers of many steps, so groups fall apart; leave group at 1")
        own = {name: type(self).model_fields[name].default for name in ("temperature", "top_p", "context", "max_new_tokens", "horizon_share")}
        if misplaced := [name for name, default in own.items() if getattr(self, name) != default]:
            raise ValueError(f"write '{min(misplaced)}' inside 'of', the stream that is decoded")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.of.reads + self.otherwise.reads))
