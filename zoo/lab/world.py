"""A language model small enough to enumerate: V tokens of which the last one stops, at most T of them, one row of logits per prefix.

All numbers are float64. Tables are drawn from named seeds and rounded to three decimals, so that they are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.seeds import seed_for

Array = NDArray[np.float64]
STOP_SHIFT = -0.8  # added to the stop token's logit, so that most texts reach the horizon


@dataclass(frozen=True)
class World:
    """Its size; `states` are all prefixes without the stop token that are shorter than the horizon, in order of length."""

    vocabulary: int
    horizon: int

    def __post_init__(self) -> None:
        if not (2 <= self.vocabulary <= 6 and 1 <= self.horizon <= 5):
            raise ValueError("a world has 2 to 6 tokens and a horizon of 1 to 5")

    @property
    def stop(self) -> int:
        """The token that ends a text."""
        return self.vocabulary - 1

    @cached_property
    def states(self) -> tuple[tuple[int, ...], ...]:
        """Every prefix after which a token is drawn."""
        found: list[tuple[int, ...]] = [()]
        layer: list[tuple[int, ...]] = [()]
        for _ in range(self.horizon - 1):
            layer = [(*prefix, token) for prefix in layer for token in range(self.stop)]
            found += layer
        return tuple(found)

    @cached_property
    def children(self) -> NDArray[np.int64]:
        """The state after each state and token, (S, V); -1 where the text is over."""
        index = {prefix: i for i, prefix in enumerate(self.states)}
        return np.array([[index.get((*prefix, v), -1) if v != self.stop else -1 for v in range(self.vocabulary)] for prefix in self.states])

    @cached_property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """Every text: ended by the stop token, or cut at the horizon."""
        return tuple((*prefix, v) for i, prefix in enumerate(self.states) for v in range(self.vocabulary) if self.children[i, v] < 0)

    @cached_property
    def codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers that tell texts apart, in ascending order, and the text of each."""
        codes = np.array([sum((v + 1) * (self.vocabulary + 1) ** t for t, v in enumerate(text)) for text in self.texts])
        return np.sort(codes), np.argsort(codes)

    def table(self, name: str, scale: float = 1.0) -> Tensor:
        """Logits (S, V) that belong to a name."""
        return torch.from_numpy(_drawn(name, len(self.states), self.vocabulary, scale).copy())


@lru_cache(maxsize=512)
def _drawn(name: str, states: int, vocabulary: int, scale: float) -> Array:
    random = np.random.Generator(np.random.Philox(key=np.array([seed_for("lab", name), 0], dtype=np.uint64)))
    logits_SV = scale * random.standard_normal((states, vocabulary))
    logits_SV[:, -1] += STOP_SHIFT
    return np.round(logits_SV, 3)


@lru_cache(maxsize=64)
def world_of(vocabulary: int, horizon: int) -> World:
    """The world of a size; worlds of one size are one object, so that its enumerations are made once."""
    return World(vocabulary, horizon)
