"""Streams: who writes the tokens that a method trains on. Each class is one `author` of the grammar."""

from zoo.components.rollouts.backtracked import Watched, WindowVerify
from zoo.components.rollouts.base import AnyStream, Choice, Policy, Reuse, Stream, When, in_order
from zoo.components.rollouts.blended import Blended
from zoo.components.rollouts.composed import Corpus, Dataset, Mixture, Replay
from zoo.components.rollouts.decoded import Interleaved, Student, Switch, Teacher
from zoo.components.rollouts.derived import Branch, Continued, Edited, Prefix, Reread
from zoo.components.rollouts.due import GroupReward
from zoo.components.rollouts.sampling import Draw, inverse_cdf, sample_from, token_logp, warp

__all__ = [
    "AnyStream",
    "Blended",
    "Branch",
    "Choice",
    "Continued",
    "Corpus",
    "Dataset",
    "Draw",
    "Edited",
    "GroupReward",
    "Interleaved",
    "Mixture",
    "Policy",
    "Prefix",
    "Replay",
    "Reread",
    "Reuse",
    "Stream",
    "Student",
    "Switch",
    "Teacher",
    "Watched",
    "When",
    "WindowVerify",
    "in_order",
    "inverse_cdf",
    "sample_from",
    "token_logp",
    "warp",
]
