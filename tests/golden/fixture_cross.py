"""Two texts that student and teacher cut into different tokens, for teachers with a tokenizer of their own.

The student has seven tokens and the teacher nine; five of them are shared, the stop among them. Each stream holds both texts: `abcab` and `cbcda` in `data`,
the other way round in `main`. The student cuts the first into five tokens, the teacher into three; of the second both have four, and they cut its middle
differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from .fixture import Fixture, Stream
from .numerics import Array, log_softmax

STOP = ""  # the text of a stop token
STUDENT = ("a", "b", "c", "d", "bc", "cda", STOP)
TEACHER = ("b", "ab", "a", "ca", "cd", "c", "d", "abc", STOP)
# How either side's tokenizer cuts the other's tokens that it has not.
STUDENT_CUTS = {"ab": ("a", "b"), "ca": ("c", "a"), "cd": ("c", "d"), "abc": ("a", "bc")}
TEACHER_CUTS = {"bc": ("b", "c"), "cda": ("cd", "a")}
TEXTS = {
    "abcab": (("a", "b", "c", "a", "b", STOP), ("ab", "ca", "b", STOP)),
    "cbcda": (("c", "bc", "d", "a", STOP), ("c", "b", "cd", "a", STOP)),
}
ORDER = {"data": ("abcab", "cbcda"), "main": ("cbcda", "abcab")}
WIDTH = 6


@dataclass(frozen=True)
class Other:
    """The teacher's side of one response: its tokens and its logits (U, 9)."""

    ids: tuple[int, ...]
    logits: Array

    @property
    def logp(self) -> Array:
        """Log-probabilities (U, 9)."""
        return log_softmax(self.logits)


def _others(name: str, seed: int) -> tuple[Other, ...]:
    random, found = np.random.RandomState(seed), []
    for text in ORDER[name]:
        ids = tuple(TEACHER.index(piece) for piece in TEXTS[text][1])
        found.append(Other(ids, np.round(1.4 * random.standard_normal((len(ids), len(TEACHER))), 2)))
    return tuple(found)


OTHERS: Mapping[str, tuple[Other, ...]] = {"data": _others("data", 114), "main": _others("main", 276)}


def _stream(name: str, seed: int) -> Stream:
    random = np.random.RandomState(seed)
    noise = partial(random.standard_normal, (2, WIDTH, len(STUDENT)))
    student = 1.2 * noise()
    texts = [TEXTS[text][0] for text in ORDER[name]]
    response_BT = np.array([[STUDENT.index(text[t]) if t < len(text) else 0 for t in range(WIDTH)] for text in texts])
    return Stream(
        logits={"student": np.round(student, 2), "old": np.round(student + 0.35 * noise(), 2), "reference": np.round(student + 0.5 * noise(), 2)},
        response_BT=response_BT,
        mask_BT=np.array([[t < len(text) for t in range(WIDTH)] for text in texts]),
        group_B=np.array([0, 0]),
        reward_B=np.array([1.0, 0.0]),
        gold_BT=response_BT,
        value_BT=np.round(random.standard_normal((2, WIDTH)), 2),
    )


def crossed() -> Fixture:
    """The two streams; what the teacher reads of them is in `OTHERS`."""
    return Fixture({"data": _stream("data", 194), "main": _stream("main", 81)})
