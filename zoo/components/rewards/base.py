"""What every reward is, and what those of whole answers may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Union

import torch
from torch import Tensor

from zoo.components.base import Component
from zoo.statistics import Statistic, TokenContext


@dataclass(frozen=True)
class Answered:
    """One decoded answer: its text without the stop token, its supervised tokens, and whether it ended by itself."""

    text: str
    tokens: int
    finished: bool


# The name of one of the task's checks -> its verdict on each answer, (B,); a reward that the harness gives -> the reward.
Verify = Callable[[Union[str, "SequenceReward"]], Tensor]


def on_last(mask_BT: Tensor) -> Tensor:
    """Where each response's last supervised token is, (B, T)."""
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (positions_T == torch.where(mask_BT, positions_T, torch.full_like(positions_T, -1)).amax(1, keepdim=True)) & mask_BT


class Reward(Component):
    """Base of all rewards. `per_sequence` ones are measured on the whole text; `per_turn` ones on each turn of a dialogue;
    `state_only` ones ignore the written token."""

    per_sequence: ClassVar[bool] = False
    state_only: ClassVar[bool] = False
    per_turn: ClassVar[bool] = False

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return ()

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def asks(self) -> tuple[str, ...]:
        """Teachers that are asked about answers, whose probabilities it does not read token by token."""
        return ()

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        """Reward of each token (B, T), 0 outside the mask; a sequence reward stands on the last supervised token."""
        raise NotImplementedError


class SequenceReward(Reward):
    """Base of rewards that are measured once for each answer and read by their names."""

    per_sequence = True
    adversarial: ClassVar[bool] = False  # from a learner that is trained against the student

    def asks(self) -> tuple[str, ...]:
        """Teachers that are asked about the answers."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Names of other sequence rewards that it is made of."""
        return ()

    def measure(self, answers: Sequence[Answered], values: Mapping[str, Tensor], verify: Verify) -> Tensor:
        """The reward of each answer, (B,), from the answers or from rewards measured before."""
        raise NotImplementedError

    def tokens(self, context: TokenContext, name: str | None) -> Tensor:
        if name is None:
            raise ValueError("a sequence reward is read by its name")
        return on_last(context.mask_BT) * self.verdict(context.rewards[name].to(torch.float32), context)[:, None]

    def verdict(self, measured_B: Tensor, context: TokenContext) -> Tensor:
        """The reward of each sequence, (B,), where it depends on more than was measured."""
        return measured_B


def measured_in_order(names: Sequence[str], rewards: Mapping[str, Reward]) -> dict[str, SequenceReward]:
    """The sequence rewards of those names and all that they are made of, parts before wholes.

    Raises:
        ValueError: a reward is made of itself.
    """
    found: dict[str, SequenceReward] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        reward = rewards.get(name)
        if name in above:
            raise ValueError(f"'{name}' is made of itself ({' of '.join((*above, name))}); remove one of them")
        if isinstance(reward, SequenceReward) and name not in found:
            for part in reward.reads():
                add(part, (*above, name))
            found[name] = reward

    for name in names:
        add(name, ())
    return found
