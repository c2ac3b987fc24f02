"""Measures: numbers for each token that gates compare, weights map and numbers may follow."""

from zoo.components.measures.base import Measure
from zoo.components.measures.made import Combined, Scaled
from zoo.components.measures.places import Events, Length, Position, Repetition, Spent
from zoo.components.measures.states import Confidence, DivergenceOf, EntropyOf, LogRatio, Margin, Mass, NormalisedEntropy, Overlap, Probability, Rank

__all__ = [
    "Combined",
    "Confidence",
    "DivergenceOf",
    "EntropyOf",
    "Events",
    "Length",
    "LogRatio",
    "Margin",
    "Mass",
    "Measure",
    "NormalisedEntropy",
    "Overlap",
    "Position",
    "Probability",
    "Rank",
    "Repetition",
    "Scaled",
    "Spent",
]
