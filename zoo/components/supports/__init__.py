"""Supports: the vocabulary entries on which two distributions are compared, and what becomes of the mass outside."""

from zoo.components.supports.base import ABSENT, Detach, Mass, Raw, Renormalise, Support, TailBucket, Truncated, restrict
from zoo.components.supports.kinds import Full, Nucleus, OneSide, OverlapTopK, Quantile, Sampled, StudentTopK, TeacherTopK, TopK, UnionTopK
from zoo.components.supports.sets import FixedSet, Voted

__all__ = [
    "ABSENT",
    "Detach",
    "FixedSet",
    "Full",
    "Mass",
    "Nucleus",
    "OneSide",
    "OverlapTopK",
    "Quantile",
    "Raw",
    "Renormalise",
    "Sampled",
    "StudentTopK",
    "Support",
    "TailBucket",
    "TeacherTopK",
    "TopK",
    "Truncated",
    "UnionTopK",
    "Voted",
    "restrict",
]
