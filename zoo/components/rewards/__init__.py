"""Rewards: named feedback, per token (a contrast of scorers) or per sequence (a verifier, a rule, a sum of others)."""

from zoo.components.rewards.ahead import Lookahead, OneAhead
from zoo.components.rewards.answers import Budget, CosineLength, Overlong, Structure, Sum, Verified, Verifier
from zoo.components.rewards.asked import Asked, Consensus, Elsewhere, Judge, Learned, Match, RewardModel, UnitTests
from zoo.components.rewards.base import Answered, Reward, SequenceReward, measured_in_order, on_last
from zoo.components.rewards.tokens import Bellman, CentredLogit, Contrast, StateDivergence
from zoo.components.rewards.turns import TurnJudge, TurnState

__all__ = [
    "Answered",
    "Asked",
    "Bellman",
    "Budget",
    "CentredLogit",
    "Consensus",
    "Contrast",
    "CosineLength",
    "Elsewhere",
    "Judge",
    "Learned",
    "Lookahead",
    "Match",
    "OneAhead",
    "Overlong",
    "Reward",
    "RewardModel",
    "SequenceReward",
    "StateDivergence",
    "Structure",
    "Sum",
    "TurnJudge",
    "TurnState",
    "UnitTests",
    "Verified",
    "Verifier",
    "measured_in_order",
    "on_last",
]
