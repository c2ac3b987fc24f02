"""Six supervised tokens, two responses of four and two, over a vocabulary of six: what every component is tested on.

Everything is float64. The numbers under the padding are ordinary ones, so that a formula that forgets the mask shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.components.base import Slot
from zoo.statistics import LogProb, Statistic, TokenContext
from zoo.tensors import Prompt, Rollout

Array = NDArray[np.float64]

V = 6
MASK = np.array([[True, True, True, True], [True, True, False, False]])
TOKENS = np.array([[0, 3, 5, 1], [2, 4, 0, 0]])
AUTHORS = np.array([[0, 1, 0, 0], [2, 3, 0, 0]])
_random = np.random.RandomState(20)
LOGITS = {name: np.round(1.3 * _random.standard_normal((2, 4, V)), 2) for name in ("student", "old", "reference", "teacher")}


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def logp(name: str) -> Array:
    """Full log-probabilities (B, T, V)."""
    return log_softmax(LOGITS[name])


def sampled(name: str) -> Array:
    """Log-probabilities (B, T) of the tokens that were written."""
    return np.take_along_axis(logp(name), TOKENS[..., None], -1)[..., 0]


def rows(name: str) -> Array:
    """Full log-probabilities of the supervised tokens, (N, V)."""
    return logp(name)[MASK]


def build(slot: str, kind: str, **fields: Any) -> Any:
    """A component as an entry would name it."""
    known = {"term": "term", "schedule": "schedule", "rollout": "author"}
    return Slot(slot).validate({known.get(slot, "kind"): kind, **fields})


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values))


def rollout(group: Sequence[int] = (0, 0)) -> Rollout:
    """The two responses; the tokens were drawn from `old`."""
    return Rollout(
        prompts=(Prompt("a", "a"), Prompt("b", "b")),
        prompt_ids=((1,), (1,)),
        response_BT=tensor(TOKENS),
        mask_BT=tensor(MASK),
        author_BT=tensor(AUTHORS),
        behaviour_logp_BT=tensor(sampled("old")),
        student_logp_BT=tensor(sampled("reference")),
        group_B=torch.tensor(list(group)),
        finished_B=torch.tensor([True, False]),
    )


def context(columns: Mapping[Statistic, Array] | None = None, rewards: Mapping[str, Sequence[float]] | None = None, **changes: Any) -> TokenContext:
    """What is known before the update: the columns asked for, and each written token's log-probabilities."""
    own: dict[Statistic, torch.Tensor] = {LogProb(name): tensor(sampled(name) * MASK) for name in LOGITS}
    own |= {statistic: tensor(values) for statistic, values in (columns or {}).items()}
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in (rewards or {}).items()}
    return TokenContext(replace(rollout(), **changes), own, given)


def per_group(count: int, sizes: Sequence[int], group: Sequence[int]) -> TokenContext:
    """`count` responses of the given lengths in the given groups, for credits and weights that compare answers."""
    width = max(sizes)
    mask = torch.arange(width) < torch.tensor(list(sizes))[:, None]
    zeros = torch.zeros(count, width, dtype=torch.float64)
    whole = Rollout(
        prompts=tuple(Prompt(str(i), "") for i in range(count)),
        prompt_ids=((1,),) * count,
        response_BT=zeros.long(),
        mask_BT=mask,
        author_BT=zeros.long(),
        behaviour_logp_BT=zeros,
        student_logp_BT=zeros,
        group_B=torch.tensor(list(group)),
        finished_B=torch.ones(count, dtype=torch.bool),
    )
    return TokenContext(whole)


def slope(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """Central finite differences of a scalar function."""
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        moved = at.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        found[index] = (above - function(moved)) / (2 * step)
    return found


def gradient(function: Callable[[torch.Tensor], torch.Tensor], at: Array) -> Array:
    """Autograd's gradient of a scalar function."""
    leaf = tensor(at).requires_grad_()
    [found] = torch.autograd.grad(function(leaf), leaf)
    return np.asarray(found.numpy())
