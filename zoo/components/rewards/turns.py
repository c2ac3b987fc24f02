"""Rewards of turns: one number for each turn of a dialogue, on the turn's last token."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Context, component
from zoo.components.rewards.base import Reward
from zoo.statistics import TokenContext


@component("reward")
class TurnState(Reward):
    """V(s_k), the state of the environment after turn k: in [0, 1] as the pair's task tells it, or 1 and 0 by one of its checks; `gain` gives
    the change V(s_k) - V(s_{k-1}), V being 0 before the first turn (2605.22240)."""

    kind: Literal["turn_state"] = "turn_state"
    check: str | None = None
    gain: bool = False
    per_turn: ClassVar[bool] = True

    def of_turns(self, states: list[float]) -> list[float]:
        """The rewards of a dialogue's turns from the states after them."""
        return [now - before for before, now in zip([0.0, *states], states, strict=False)] if self.gain else states

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        if name is None:
            raise ValueError("a reward of turns is read by its name")
        return context.turn_rewards[name]


@component("reward")
class TurnJudge(Reward):
    """2 P - 1 for each turn, P the judge's probability of the pair's word `right` against `wrong` behind a context `per: turn`, which shows the turn
    or what followed it; with `neutral` a vote, 0 below that size and else the sign (OpenClaw-RL 2603.10165: -1, 0 or 1 on the next state). A turn
    without a context has 0. An endpoint is asked for its verdict, 1 or -1."""

    kind: Literal["turn_judge"] = "turn_judge"
    by: str = "teacher"
    context: Context
    neutral: float | None = Field(None, ge=0, lt=1)
    per_turn: ClassVar[bool] = True

    @model_validator(mode="after")
    def _turns(self) -> TurnJudge:
        if self.context.per != "turn" or not self.context.made:
            raise ValueError("a judge of turns needs a context with per: turn and a part made of the dialogue: made: [attempt], or [observation]")
        return self

    def asks(self) -> tuple[str, ...]:
        return (self.by,)

    def marks(self, right: list[float]) -> list[float]:
        """The rewards of turns from the judge's probabilities."""
        found = [2.0 * p - 1.0 for p in right]
        return found if self.neutral is None else [0.0 if abs(mark) < self.neutral else math.copysign(1.0, mark) for mark in found]

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        if name is None:
            raise ValueError("a reward of turns is read by its name")
        return context.turn_rewards[name]
