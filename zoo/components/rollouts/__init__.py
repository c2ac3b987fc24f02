"""Streams: who writes the tokens that a method trains on. Each class is one `author` of the grammar."""

from zoo.components.rollouts.base import AnyStream, Choice, Policy, Reuse, Stream
from zoo.components.rollouts.composed import Corpus, Dataset, Mixture, Replay
from zoo.components.rollouts.decoded import Interleaved, Student, Switch, Teacher
from zoo.components.rollouts.sampling import Draw, inverse_cdf, sample_from, token_logp, warp

__all__ = [
    "AnyStream",
    "Choice",
    "Corpus",
    "Dataset",
    "Draw",
    "Interleaved",
    "Mixture",
    "Policy",
    "Replay",
    "Reuse",
    "Stream",
    "Student",
    "Switch",
    "Teacher",
    "inverse_cdf",
    "sample_from",
    "token_logp",
    "warp",
]
