"""Divergences between student p and teacher q, as per-entry contributions whose sum over the support is the value."""

from zoo.components.divergences.adaptive import AdaptiveKL, Decoupled, EntrywiseKL
from zoo.components.divergences.base import Divergence, FDivergence
from zoo.components.divergences.families import Alpha, AlphaBeta, PearsonChi2, SquaredHellinger, TotalVariation
from zoo.components.divergences.kl import ForwardKL, GeneralizedJSD, ReverseKL, SkewForwardKL, SkewReverseKL
from zoo.components.divergences.sampled import K1, K2, K3
from zoo.components.divergences.scores import LogitDifference, PlackettLuce, StudentEntropy
from zoo.components.divergences.transport import Sinkhorn

__all__ = [
    "K1", "K2", "K3", "AdaptiveKL", "Alpha", "AlphaBeta", "Decoupled", "Divergence", "EntrywiseKL", "FDivergence", "ForwardKL", "GeneralizedJSD",
    "LogitDifference", "PearsonChi2", "PlackettLuce", "ReverseKL", "Sinkhorn", "SkewForwardKL", "SkewReverseKL", "SquaredHellinger", "StudentEntropy",
    "TotalVariation",
]  # fmt: skip
