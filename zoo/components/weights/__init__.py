"""Weights: soft factors on a term's tokens, without gradient."""

from zoo.components.weights.ahead import ContinuationSupport, Resemblance
from zoo.components.weights.base import Weight
from zoo.components.weights.measured import LogTanh, Mapped, Normalised, Segments, SignedEntropy, SoftGate, SpanDiscrepancy
from zoo.components.weights.plain import PassRate, Perplexity, RewardWeight
from zoo.components.weights.several import Disagreement
from zoo.components.weights.signed import EvidenceRatio, SignAgreement

__all__ = [
    "ContinuationSupport",
    "Disagreement",
    "EvidenceRatio",
    "LogTanh",
    "Mapped",
    "Normalised",
    "PassRate",
    "Perplexity",
    "Resemblance",
    "RewardWeight",
    "Segments",
    "SignAgreement",
    "SignedEntropy",
    "SoftGate",
    "SpanDiscrepancy",
    "Weight",
]
