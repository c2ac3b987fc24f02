"""Parts of a context that are made during the run."""

from zoo.components.contexts.base import Answers, Checked, Judge, Lesson, Part, TextPart, Texts
from zoo.components.contexts.texts import (
    Ablated,
    Attempt,
    Feedback,
    GivenField,
    OtherPrompt,
    Outcome,
    PartialSolution,
    Peer,
    PeerFailure,
    PeerSuccess,
    Reflection,
    pass_rates,
    rate_text,
)
from zoo.components.contexts.turns import Experience, HiddenState, History, Observation

__all__ = [
    "Ablated",
    "Answers",
    "Attempt",
    "Checked",
    "Experience",
    "Feedback",
    "GivenField",
    "HiddenState",
    "History",
    "Judge",
    "Lesson",
    "Observation",
    "OtherPrompt",
    "Outcome",
    "Part",
    "PartialSolution",
    "Peer",
    "PeerFailure",
    "PeerSuccess",
    "Reflection",
    "TextPart",
    "Texts",
    "pass_rates",
    "rate_text",
]
