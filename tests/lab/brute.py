"""An enumeration of its own, in plain numpy and loops: every text, its probability, its advantage, its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Text = tuple[int, ...]


def prefixes(vocabulary: int, horizon: int) -> list[Text]:
    """States in order of length: every prefix without the stop token (the last one)."""
    return [p for length in range(horizon) for p in product(range(vocabulary - 1), repeat=length)]


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


class Brute:
    """A student p and a teacher q as tables over prefixes."""

    def __init__(self, student: Array, teacher: Array, vocabulary: int, horizon: int) -> None:
        self.V, self.T, self.states = vocabulary, horizon, prefixes(vocabulary, horizon)
        self.at = {s: i for i, s in enumerate(self.states)}
        self.p, self.q = softmax(student), softmax(teacher)

    def texts(self, law: Array | None = None) -> Iterator[tuple[Text, float]]:
        """Every text with its probability."""
        law = self.p if law is None else law

        def walk(text: Text, mass: float) -> Iterator[tuple[Text, float]]:
            if len(text) == self.T or (text and text[-1] == self.V - 1):
                yield text, mass
                return
            for v in range(self.V):
                yield from walk((*text, v), mass * law[self.at[text], v])

        yield from walk((), 1.0)

    def log_ratio(self, text: Text) -> Array:
        """log q - log p of each token."""
        return np.array([np.log(self.q[self.at[text[:t]], text[t]] / self.p[self.at[text[:t]], text[t]]) for t in range(len(text))])

    def score(self, text: Text, weight: Array) -> Array:
        """sum over t of weight_t * gradient of log p(y_t)."""
        found = np.zeros_like(self.p)
        for t, token in enumerate(text):
            s = self.at[text[:t]]
            found[s] += weight[t] * (np.eye(self.V)[token] - self.p[s])
        return found

    def mean(self, advantage: Callable[[Text], Array], law: Array | None = None) -> Array:
        """The loss gradient of a score function: minus its mean."""
        return np.asarray(-sum(mass * self.score(text, advantage(text)) for text, mass in self.texts(law)))

    def second(self, advantage: Callable[[Text], Array]) -> float:
        return float(sum(mass * (self.score(text, advantage(text)) ** 2).sum() for text, mass in self.texts()))

    def differentiate(self, value: Callable[[Brute], float], student: Array, teacher: Array, step: float = 1e-5) -> Array:
        """Central differences of any number that depends on the student's table."""
        found = np.zeros_like(student)
        for index in np.ndindex(*student.shape):
            ends = []
            for sign in (1, -1):
                moved = student.copy()
                moved[index] += sign * step
                ends.append(value(Brute(moved, teacher, self.V, self.T)))
            found[index] = (ends[0] - ends[1]) / (2 * step)
        return found

    def sequence_kl(self) -> float:
        """KL(P || Q) over texts."""
        return -sum(mass * self.log_ratio(text).sum() for text, mass in self.texts())

    def state_kl(self) -> Array:
        return np.asarray((self.p * np.log(self.p / self.q)).sum(-1))

    def visits(self) -> Array:
        found = np.zeros(len(self.states))
        for text, mass in self.texts():
            for t in range(len(text)):
                found[self.at[text[:t]]] += mass
        return found


def to_go(reward: Array, gamma: float = 1.0) -> Array:
    """sum over k >= t of gamma^(k - t) reward_k."""
    return np.array([sum(gamma ** (k - t) * reward[k] for k in range(t, len(reward))) for t in range(len(reward))])
