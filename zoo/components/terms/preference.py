"""Terms on whole-sequence log-probabilities: a preference between two streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Slot, component
from zoo.components.preferences import Preference, Sums
from zoo.components.terms.base import Signal, Term, unique
from zoo.statistics import LogProb, Statistic, TokenContext, View


@component("term")
class LogProbLossTerm(Term):
    """Mean over pairs of a preference of `chosen` over `rejected`, sequence i of one against sequence i of the other.

    Both streams answer the same prompts in the same order. A pair counts where every `keep_chosen` gate holds on its
    chosen side and every `keep_rejected` gate on its rejected side. `reference` is the scorer that margins are taken
    against. The loss is a function of few numbers per pair, so its slope in each sequence's log-probability is taken
    exactly beforehand and the update is a weighted likelihood: micro-batches may then separate the two sides of a pair.
    """

    term: Literal["log_prob_loss"] = "log_prob_loss"
    loss: Annotated[Preference, Slot("preference")]
    chosen: str
    rejected: str
    reference: str = "reference"
    keep_chosen: tuple[Annotated[Any, Slot("gate")], ...] = Field(())
    keep_rejected: tuple[Annotated[Any, Slot("gate")], ...] = Field(())
    live = True

    @model_validator(mode="after")
    def _no_single_stream(self) -> LogProbLossTerm:
        if self.gates or self.weights or self.shaping or self.on != "main":
            raise ValueError("log_prob_loss reads `chosen` and `rejected`; use keep_chosen and keep_rejected in place of on, gates, weights, shaping")
        return self

    def streams(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)

    def parts(self) -> tuple[tuple[str, Any], ...]:
        return (*((self.chosen, gate) for gate in self.keep_chosen), *((self.rejected, gate) for gate in self.keep_rejected))

    def statistics(self, rewards: Mapping[str, Any]) -> tuple[Statistic, ...]:
        own: tuple[Statistic, ...] = (LogProb("student"), *((LogProb(self.reference),) if self.loss.needs_reference else ()))
        return unique([*own, *super().statistics(rewards)])

    def scorers(self, rewards: Mapping[str, Any]) -> tuple[str, ...]:
        return unique([*super().scorers(rewards), *((self.reference,) if self.loss.needs_reference else ())])

    def prepare(self, contexts: Mapping[str, TokenContext], rewards: Mapping[str, Any]) -> tuple[Signal, ...]:
        chosen, rejected = contexts[self.chosen], contexts[self.rejected]
        if [p.id for p in chosen.rollout.prompts] != [p.id for p in rejected.rollout.prompts]:
            raise ValueError(f"streams '{self.chosen}' and '{self.rejected}' answer different prompts; give them the same prompts and group")
        kept_B = self._kept(chosen, self.keep_chosen) & self._kept(rejected, self.keep_rejected)
        with torch.enable_grad():
            sides = [self._sums(context) for context in (chosen, rejected)]
            pairs = chosen.total(kept_B.to(torch.float32).sum()).clamp(min=1.0)
            loss_B = torch.where(kept_B, self.loss.losses(sides[0], sides[1], kept_B, chosen.total), torch.zeros_like(sides[0].total_B))
            value = self.coefficient * loss_B.sum() / pairs
            slopes = torch.autograd.grad(value, [side.total_B for side in sides])
        signals = []
        for name, context, slope_B in zip(self.streams(), (chosen, rejected), slopes, strict=True):
            kept_BT = context.mask_BT & kept_B[:, None]
            own = value.detach() if name == self.chosen else None
            signals.append(Signal(name, kept_BT, slope_B.detach()[:, None] * kept_BT, value=own, reduced=True))
        return tuple(signals)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        return LogProb("student").compute(view)

    @staticmethod
    def _kept(context: TokenContext, gates: tuple[Any, ...]) -> Tensor:
        kept_B = context.mask_BT.any(1)
        for gate in gates:
            kept_B = kept_B & gate.keep(context, None).any(1)
        return kept_B

    def _sums(self, context: TokenContext) -> Sums:
        mask_BT = context.mask_BT
        total_B = (context.logp_BT("student") * mask_BT).sum(1).detach().requires_grad_()
        reference = context.columns[LogProb(self.reference)] if self.loss.needs_reference else None
        reference_B = None if reference is None else (reference * mask_BT).sum(1)
        return Sums(total_B, mask_BT.sum(1), reference_B)
