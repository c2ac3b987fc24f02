"""Gates: which tokens a term acts on. Computed without gradient, after the advantage; a gated token keeps its place in the
denominator unless the term's reduction says `over: kept`."""

from zoo.components.gates.ahead import ContinuationMatch, FutureGap
from zoo.components.gates.base import Gate, Threshold
from zoo.components.gates.chosen import Acceptance, ChangePoint, ClassBalance, EntropyChunks, Finished, TokenSet
from zoo.components.gates.measured import MeasureThreshold, Quantile, Share
from zoo.components.gates.plain import (
    AdvantageGate,
    AgreementGate,
    AuthorGate,
    Position,
    ProbabilityGap,
    RewardGate,
    StudentEntropy,
    TeacherEntropy,
    TopEntropyShare,
)
from zoo.components.gates.remembering import Hysteresis, Persistent, Remembering
from zoo.components.gates.turns import RoleGate, TurnGate

__all__ = [
    "Acceptance",
    "AdvantageGate",
    "AgreementGate",
    "AuthorGate",
    "ChangePoint",
    "ClassBalance",
    "ContinuationMatch",
    "EntropyChunks",
    "Finished",
    "FutureGap",
    "Gate",
    "Hysteresis",
    "MeasureThreshold",
    "Persistent",
    "Position",
    "ProbabilityGap",
    "Quantile",
    "Remembering",
    "RewardGate",
    "RoleGate",
    "Share",
    "StudentEntropy",
    "TeacherEntropy",
    "Threshold",
    "TokenSet",
    "TopEntropyShare",
    "TurnGate",
]
