"""Gates on what is known of a token without a measure: entropies, rewards, authors, places, the advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.gates.base import Gate, Threshold
from zoo.statistics import Entropy, LogProb, Statistic, TokenContext, View
from zoo.tensors import Author


@component("gate")
class TeacherEntropy(Threshold):
    """H(q) in nats."""

    kind: Literal["teacher_entropy"] = "teacher_entropy"
    teacher: str = "teacher"

    def scorers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Entropy(self.teacher),)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return self.passes(context.column(Entropy(self.teacher)))


@dataclass(frozen=True)
class Agreement:
    """1 where a projected teacher's best token is that of the teacher itself, else 0."""

    scorer: str

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.scorer,)

    def compute(self, view: View) -> Tensor:
        return view.value_N(self.scorer)


@component("gate")
class AgreementGate(Gate):
    """Tokens at which a projected teacher, seen in the student's space, has the best token of the teacher itself (DSKD v2 2504.11426)."""

    kind: Literal["agreement"] = "agreement"
    of: str

    def scorers(self) -> tuple[str, ...]:
        return (self.of,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Agreement(self.of),)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return context.column(Agreement(self.of)) > 0


@component("gate")
class StudentEntropy(Threshold):
    """H(p) in nats."""

    kind: Literal["student_entropy"] = "student_entropy"

    def statistics(self) -> tuple[Statistic, ...]:
        return (Entropy("student"),)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return self.passes(context.column(Entropy("student")))


@component("gate")
class TopEntropyShare(Gate):
    """The share of each response's tokens with the highest student entropy (at least one token)."""

    kind: Literal["top_entropy_share"] = "top_entropy_share"
    share: float = Field(gt=0, le=1)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Entropy("student"),)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        entropy_BT = context.column(Entropy("student")).masked_fill(~mask_BT, -torch.inf)
        rank_BT = torch.sort(entropy_BT, dim=1, descending=True, stable=True).indices.argsort(1)
        # Rounding must not turn 0.6 * 25 into 16 tokens.
        kept_B1 = (mask_BT.sum(1, keepdim=True).double() * self.share - 1e-6).ceil().clamp(min=1)
        return (rank_BT < kept_B1) & mask_BT


@component("gate")
class ProbabilityGap(Threshold):
    """q(y) - p(y) of the written token (AOPD 2605.06387)."""

    kind: Literal["probability_gap"] = "probability_gap"
    teacher: str = "teacher"

    def scorers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def statistics(self) -> tuple[Statistic, ...]:
        return (LogProb("student"), LogProb(self.teacher))

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return self.passes(context.logp_BT(self.teacher).exp() - context.logp_BT("student").exp())


@component("gate")
class RewardGate(Threshold):
    """A named sequence reward, of the sequence itself or averaged over its group; or (`scope: turn`) a named reward of turns."""

    kind: Literal["reward"] = "reward"
    name: str
    scope: Literal["turn", "sequence", "group"] = "sequence"
    outcome = True

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        if self.scope == "turn":
            return self.passes(context.turn_sum(context.turn_rewards[self.name])[0]) & context.mask_BT
        reward_B = context.rewards[self.name].to(torch.float32)
        if self.scope == "group":
            reward_B = context.group_mean(reward_B)
        return self.passes(reward_B)[:, None] & context.mask_BT


@component("gate")
class AuthorGate(Gate):
    """Tokens written by the student, the teacher, or taken from the data set."""

    kind: Literal["author"] = "author"
    wrote: Literal["student", "teacher", "dataset", "corpus"] = Field(alias="is")

    model_config = {"populate_by_name": True}

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return context.rollout.author_BT == int(Author[self.wrote.upper()])


@component("gate")
class Position(Threshold):
    """Position in the response, counted from 0."""

    kind: Literal["position"] = "position"

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        mask_BT = context.mask_BT
        return self.passes(torch.arange(mask_BT.shape[1], device=mask_BT.device)).expand_as(mask_BT)


@component("gate")
class AdvantageGate(Threshold):
    """The term's own advantage."""

    kind: Literal["advantage"] = "advantage"
    reads_advantage = True

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        if advantage_BT is None:
            raise ValueError("an advantage gate stands in a policy_gradient term")
        return self.passes(advantage_BT)
