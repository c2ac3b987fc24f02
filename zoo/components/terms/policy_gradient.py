"""The score-function term: a detached per-token advantage times the gradient of the written token's log-probability."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.baselines import Baseline, NoBaseline
from zoo.components.credits import Credit
from zoo.components.ratios import Ratio
from zoo.components.routings import Routing, SampledRouting, Spread
from zoo.components.shapings import shape_values
from zoo.components.terms.advantage import Advantage, RewardSlot, Summand
from zoo.components.terms.base import Signal, TokenTerm, unique
from zoo.statistics import LogProb, Statistic, TokenContext, View


@component("term")
class PolicyGradientTerm(TokenTerm, Advantage):
    """-A rho for each token; order: reward, credit, baseline, shaping, gates, weights, denominator.

    `plus` adds further advantages, each with a reward, a credit and all else of its own, to A before gates, weights and ratio.
    """

    term: Literal["policy_gradient"] = "policy_gradient"
    reward: Annotated[Any, RewardSlot("reward")]
    credit: Annotated[Credit, Slot("credit")]
    baseline: Annotated[Baseline, Slot("baseline")] = NoBaseline()
    plus: tuple[Summand, ...] = ()
    routing: Annotated[Routing, Slot("routing")] = SampledRouting()
    ratio: tuple[Annotated[Ratio, Slot("ratio")], ...] = Field(())

    @model_validator(mode="after")
    def _one_value(self) -> PolicyGradientTerm:
        if self.credit.critic() is not None and self.baseline.critic() is not None:
            raise ValueError(f"credit {self.credit.kind} already subtracts a learned value; drop baseline: value")  # type: ignore[attr-defined]
        return self

    def advantages(self) -> tuple[PolicyGradientTerm | Summand, ...]:
        """All that is added up: the term itself, then its summands."""
        return (self, *self.plus)

    def split(self) -> tuple[PolicyGradientTerm, ...]:
        """A term for each of the advantages: the gradient is the sum of theirs where nothing clips it."""
        alone = self.model_copy(update={"plus": ()})
        others = [
            {
                "reward": s.reward,
                "credit": s.credit,
                "baseline": s.baseline,
                "shaping": s.shaping,
                "gates": (*s.gates, *self.gates),
                "weights": (*s.weights, *self.weights),
            }
            for s in self.plus
        ]
        return (alone, *(alone.model_copy(update=other) for other in others))

    def parts(self) -> tuple[tuple[str, Any], ...]:
        return (*super().parts(), *((self.on, part) for summand in self.plus for part in summand.parts()))

    def reward_names(self) -> tuple[str, ...]:
        return unique([*super().reward_names(), *(name for each in self.advantages() for name in each.own_reward_names())])

    def scorers(self, rewards: Mapping[str, Any]) -> tuple[str, ...]:
        read = [name for each in self.advantages() for name in each.own_scorers(rewards)]
        read += [s for ratio in self.ratio for s in ratio.scorers()]
        return unique([*read, *super().scorers(rewards)])

    def statistics(self, rewards: Mapping[str, Any]) -> tuple[Statistic, ...]:
        own = [statistic for each in self.advantages() for statistic in each.own_statistics(rewards)]
        own += [LogProb(s) for ratio in self.ratio for s in ratio.scorers()]
        return unique([*own, *super().statistics(rewards)])

    def update_scorers(self) -> tuple[str, ...]:
        if self.routing.spread:
            return tuple(s for s in getattr(self.reward, "of", ()) if s != "student")
        teacher = getattr(self.routing, "teacher", None)
        return () if teacher is None else (teacher,)

    def prepare(self, contexts: Mapping[str, TokenContext], rewards: Mapping[str, Any]) -> tuple[Signal, ...]:
        context = contexts[self.on]
        credited_BT = self.credited(context, rewards)
        advantage_BT = self.shaped(credited_BT, context)
        for summand in self.plus:
            advantage_BT = advantage_BT + summand.added(context, rewards)
        columns = {
            "advantage": advantage_BT,
            "student": context.rollout.student_logp_BT.nan_to_num(0.0),
            "behaviour": context.rollout.behaviour_logp_BT.nan_to_num(0.0),
        }
        columns |= {s: context.logp_BT(s) for ratio in self.ratio for s in ratio.scorers()}
        if self.routing.spread:
            columns["noise"] = _noise(context)
        if self.critic() is not None:
            # A baseline's head predicts the return itself.
            columns["value_target"] = credited_BT if self.credit.critic() is None else self.credit.value_target(credited_BT, context)
        return (self.gated(context, advantage_BT, columns),)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        if isinstance(self.routing, Spread):
            return self._spread(self.routing, view, columns_N)
        advantage_N, logp_N = columns_N["advantage"], LogProb("student").compute(view)
        loss_N = self._surrogate(advantage_N, logp_N, columns_N)
        redirect = self._redirected(view)
        if redirect is None:
            return loss_N
        rho_NV, applies_N = redirect
        student_logp_NV = view.logp_NV("student")
        received_N = (rho_NV * student_logp_NV).sum(-1)
        return torch.where(applies_N & (advantage_N < 0), advantage_N.abs() * (logp_N - received_N), loss_N)

    def _spread(self, routing: Spread, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        """-sum over candidates of weight * A * log p; the written one goes by its ratio."""
        student_logp_NV = view.logp_NV("student")
        index_NR, weight_NR = routing.candidates(student_logp_NV.detach(), view.token_N, columns_N["noise"])
        value_NR = self.reward.value({s: view.logp_NV(s).detach().gather(-1, index_NR) for s in self.reward.of})
        advantage_NR = shape_values(self.shaping, "advantage", value_NR)
        logp_NR = student_logp_NV.gather(-1, index_NR)
        loss_NR = -advantage_NR * logp_NR
        if self.ratio:
            written_N = self._surrogate(advantage_NR[:, 0], logp_NR[:, 0], columns_N)
            loss_NR = torch.cat([written_N[:, None], loss_NR[:, 1:]], -1)
        return (weight_NR * loss_NR).sum(-1)

    def _surrogate(self, advantage_N: Tensor, logp_N: Tensor, columns_N: Mapping[str, Tensor]) -> Tensor:
        if not self.ratio:
            return -advantage_N * logp_N
        rho_N, inside_N = torch.ones_like(logp_N), torch.ones_like(logp_N)
        for ratio in self.ratio:
            factor_N = ratio.factor(logp_N, columns_N)
            rho_N, inside_N = (rho_N, inside_N * factor_N) if ratio.masks else (rho_N * factor_N, inside_N)
        if all(ratio.frozen for ratio in self.ratio):
            return -advantage_N * rho_N * inside_N * logp_N
        loss_N = -advantage_N * rho_N
        for ratio in self.ratio:
            clipped_N = ratio.clip(rho_N)
            if clipped_N is not None:
                loss_N = torch.maximum(loss_N, -advantage_N * clipped_N)
        return loss_N * inside_N

    def _redirected(self, view: View) -> tuple[Tensor, Tensor] | None:
        teacher = getattr(self.routing, "teacher", None)
        if teacher is None:
            return None
        return self.routing.redirect(view.logp_NV("student").detach(), view.logp_NV(teacher), view.token_N)


def _noise(context: TokenContext) -> Tensor:
    """A random 64-bit number for each token, (B, T): a function of the prompt, the student's version and the sequence alone, whatever
    stands behind the sequence or beside it."""
    rollout = context.rollout
    noise_BT = torch.zeros(rollout.mask_BT.shape, dtype=torch.long)
    for row, (prompt, ids, mask) in enumerate(zip(rollout.prompts, rollout.response_BT.tolist(), rollout.mask_BT.tolist(), strict=True)):
        places = [t for t, supervised in enumerate(mask) if supervised]
        written = f"{prompt.id}:{rollout.version}:{[ids[t] for t in places]}"
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(written.encode()).digest()[:7], "big"))
        noise_BT[row, places] = torch.randint(-(2**62), 2**62, (len(places),), generator=generator)
    return noise_BT.to(rollout.mask_BT.device)
