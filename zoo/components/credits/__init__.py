"""Credit: from a per-token reward to the advantage of each token.

Signs and origins: reward r_t of the written token, discount counted from t (B-survey derivations D.1, D.5; MiniLLM
2306.08543 for the return that starts after t; GRPO 2402.03300 for groups). A sequence reward stands on the last token.
"""

from zoo.components.credits.base import Credit, discounted_sum, shifted
from zoo.components.credits.groups import BayesOdds, Group, LeaveOneOut
from zoo.components.credits.returns import Discounted, Immediate, KStep, Return, ReturnToGo
from zoo.components.credits.valued import Gae, PathConsistency

__all__ = [
    "BayesOdds",
    "Credit",
    "Discounted",
    "Gae",
    "Group",
    "Immediate",
    "KStep",
    "LeaveOneOut",
    "PathConsistency",
    "Return",
    "ReturnToGo",
    "discounted_sum",
    "shifted",
]
