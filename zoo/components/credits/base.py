"""What every credit is, and the sums from the right that most of them are."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.base import Component
from zoo.statistics import Statistic, TokenContext


class Credit(Component):
    """Base of all credits. `outcome` marks those that read a sequence's result beside the reward they are given, by its `name`."""

    outcome: ClassVar[bool] = False

    @property
    def local(self) -> bool:
        """Whether the advantage at t depends on nothing after t."""
        return False

    def critic(self) -> str | None:
        """Name of the value head it needs."""
        return None

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        """Advantage (B, T); entries outside the mask are 0."""
        raise NotImplementedError

    def value_target(self, advantage_BT: Tensor, context: TokenContext) -> Tensor:
        """What its value head regresses, (B, T)."""
        return advantage_BT + context.column(self.statistics()[0])

    def estimator(self) -> str:
        """The coordinate this credit gives to a policy-gradient term."""
        raise NotImplementedError


PerTurn = Annotated[Literal["token", "turn"], Field(exclude_if=lambda value: value == "token")]


def turn_returns(reward_BT: Tensor, context: TokenContext, gamma: float) -> Tensor:
    """G_k = sum over j >= k of gamma^(j-k) R_j on every supervised token of turn k, R_j being the sum of turn j's rewards, (B, T)."""
    mask_BT, turn_BT = context.mask_BT, context.rollout.turns_BT
    total_BK = torch.zeros_like(reward_BT).scatter_add_(1, turn_BT, torch.where(mask_BT, reward_BT, torch.zeros_like(reward_BT)))
    return discounted_sum(total_BK, gamma).gather(1, turn_BT) * mask_BT


def discounted_sum(value_BT: Tensor, gamma: float) -> Tensor:
    """G_t = sum over k >= t of gamma^(k-t) value_k, from the right."""
    total_B, columns = torch.zeros_like(value_BT[:, 0]), []
    for t in range(value_BT.shape[1] - 1, -1, -1):
        total_B = value_BT[:, t] + gamma * total_B
        columns.append(total_B)
    return torch.stack(columns[::-1], 1)


def shifted(value_BT: Tensor) -> Tensor:
    """value_{t+1}, 0 after the end."""
    return torch.cat([value_BT[:, 1:], torch.zeros_like(value_BT[:, :1])], 1)
