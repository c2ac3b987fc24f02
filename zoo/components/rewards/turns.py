"""Rewards of turns: one number for each turn of a dialogue, on the turn's last token."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from zoo.components.base import component
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
