"""Credits that sum rewards along the response."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Number, check_range, component
from zoo.components.credits.base import Credit, PerTurn, discounted_sum, shifted, turn_returns
from zoo.statistics import TokenContext


@component("credit")
class Immediate(Credit):
    """A_t = r_t; `per: turn` gives every token of a turn the sum of the turn's rewards."""

    kind: Literal["immediate"] = "immediate"
    per: PerTurn = "token"

    @property
    def local(self) -> bool:
        return self.per == "token"

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        return reward_BT if self.per == "token" else turn_returns(reward_BT, context, 0.0)

    def estimator(self) -> str:
        return "pg_immediate"


class Return(Credit):
    """Credits that sum the rewards from t on, or from t + 1 on. With `per: turn` the steps are the turns of a dialogue: the tokens of turn k
    share the sum over turns j >= k of gamma^(j-k) R_j, R_j being the sum of turn j's rewards."""

    per: PerTurn = "token"
    start: Literal["this", "next"] = Field("this", alias="from")
    per_length: bool = False

    model_config = {"populate_by_name": True}

    @model_validator(mode="after")
    def _whole_turns(self) -> Return:
        if self.per == "turn" and (self.start == "next" or self.per_length or getattr(self, "stride", 1) > 1):
            raise ValueError("per: turn counts whole turns; drop from, per_length and stride")
        return self

    def returns(self, reward_BT: Tensor, context: TokenContext, gamma: float) -> Tensor:
        """Discounted return from t or from t + 1, optionally divided by the number of tokens it sums over; or from the token's turn on."""
        if self.per == "turn":
            return turn_returns(reward_BT, context, gamma)
        mask_BT = context.mask_BT.to(reward_BT)
        return_BT, count_BT = discounted_sum(reward_BT, gamma), discounted_sum(mask_BT, 1.0)
        if self.start == "next":
            return_BT, count_BT = shifted(return_BT), shifted(count_BT)
        if self.per_length:
            return_BT = return_BT / count_BT.clamp(min=1.0)
        return return_BT * mask_BT


@component("credit")
class ReturnToGo(Return):
    """A_t = sum over k >= t of r_k: with the log-ratio as reward, the gradient of the sequence reverse KL (D.1). With a `stride` only
    r_t, r_{t + stride}, ... and the last reward of the sequence count, the last one once (KETCHUP 2504.19024)."""

    kind: Literal["return_to_go"] = "return_to_go"
    stride: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _plain(self) -> ReturnToGo:
        if self.stride > 1 and (self.start == "next" or self.per_length):
            raise ValueError("a stride counts from the token itself and is not divided; drop from and per_length, or the stride")
        return self

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        if self.stride == 1:
            return self.returns(reward_BT, context, 1.0)
        mask_BT = context.mask_BT
        at_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B = torch.where(mask_BT, at_T, torch.zeros_like(at_T)).amax(1)
        final_B = reward_BT.gather(1, last_B[:, None])[:, 0]
        columns: list[Tensor] = []
        for t in range(mask_BT.shape[1] - 1, -1, -1):
            further_B = columns[-self.stride] if len(columns) >= self.stride else torch.zeros_like(final_B)
            missed_B = torch.where(last_B > t, final_B, torch.zeros_like(final_B))
            columns.append(reward_BT[:, t] + torch.where(last_B >= t + self.stride, further_B, missed_B))
        return torch.stack(columns[::-1], 1) * mask_BT

    def estimator(self) -> str:
        return "pg_return_to_go"


@component("credit")
class Discounted(Return):
    """A_t = sum over k >= t of gamma^(k-t) r_k; 0 is immediate credit, 1 return-to-go, in between the gradient of no scalar (D.5)."""

    kind: Literal["discounted"] = "discounted"
    gamma: Number

    @model_validator(mode="after")
    def _inside(self) -> Discounted:
        check_range("gamma", self.gamma, 0.0, 1.0, why="it is a discount")
        return self

    @property
    def local(self) -> bool:
        return self.gamma == 0.0 and self.start == "this" and not self.per_length and self.per == "token"

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        return self.returns(reward_BT, context, self.gamma)

    def estimator(self) -> str:
        return (
            "pg_immediate"
            if self.gamma == 0.0 and self.start == "this" and not self.per_length
            else "pg_return_to_go"
            if self.gamma == 1.0
            else "pg_discounted"
        )


@component("credit")
class KStep(Credit):
    """A_t = sum of the k rewards from t on (KETCHUP's horizon)."""

    kind: Literal["k_step"] = "k_step"
    k: int = Field(ge=1)

    @property
    def local(self) -> bool:
        return self.k == 1

    def advantage(self, reward_BT: Tensor, context: TokenContext) -> Tensor:
        total_BT, ahead_BT = reward_BT, reward_BT
        for _ in range(min(self.k, reward_BT.shape[1]) - 1):
            ahead_BT = shifted(ahead_BT)
            total_BT = total_BT + ahead_BT
        return total_BT * context.mask_BT

    def estimator(self) -> str:
        return "pg_immediate" if self.k == 1 else "pg_kstep"
