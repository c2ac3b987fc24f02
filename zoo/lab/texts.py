"""References for losses that no state has alone: of labels, of spans, of pairs of texts, of an answer's own share in a mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.lab import references as ref
from zoo.lab.descents import own_loss
from zoo.lab.exact import Weighing
from zoo.lab.laws import Law
from zoo.lab.measured import Measured, weights
from zoo.lab.world import Array

if TYPE_CHECKING:
    from zoo.lab.claims import TermReferences

DIFFERENCES = ((-1 / 12, 2), (8 / 12, 1), (-8 / 12, -1), (1 / 12, -2))  # weights of the values so many steps away
STEP = 1e-4  # of the central differences, in logits; the error is its fourth power with five points


def differentiated(value: Callable[[Tensor], float], base_SV: Tensor) -> Array:
    """The gradient of a number in the student's table."""
    found = np.zeros(tuple(base_SV.shape))
    for index in np.ndindex(*found.shape):
        for factor, offset in DIFFERENCES:
            moved_SV = base_SV.clone()
            moved_SV[index] += offset * STEP
            found[index] += factor * value(moved_SV) / STEP
    return found


def of_labels(at: TermReferences) -> Array:
    """The gradient of the labels' cross-entropy: what is expected to be the label in each state."""
    assert at.law.label_RT is not None
    return ref.cross_entropy_field(replace(at.law, token_RT=at.law.label_RT).tokens(*at.p.shape), at.p)


def of_rows(at: TermReferences, found: Measured) -> Array:
    """The gradient of the mean loss, texts held fixed."""
    plain = at.tables.read_in(None)
    read = own_loss(at.bench, plain, found)
    return differentiated(lambda moved_SV: read(plain.at(moved_SV)), plain.student.detach())


def of_pairs(at: TermReferences, term: Any, found: Measured) -> Array:
    """The gradient of the mean loss of pairs, the pairs and everybody but the student held fixed."""
    plain = at.tables.read_in(None)

    def value(moved_SV: Tensor) -> float:
        with Weighing() as weighing, torch.no_grad():
            tables, asked = plain.moved(moved_SV), list[str]()
            contexts = {n: at.bench.context(n, law, tables, weighing.weigher(weights(law)), asked) for n, law in found.laws.items()}
            chosen, rejected = contexts[term.chosen], contexts[term.rejected]
            kept_B = term._kept(chosen, term.keep_chosen) & term._kept(rejected, term.keep_rejected)
            loss_B = term.loss.losses(term._sums(chosen), term._sums(rejected), kept_B, chosen.total)
            mass_B = torch.from_numpy(found.laws[term.chosen].probability_R) * kept_B
            return float(term.coefficient * (mass_B * torch.where(kept_B, loss_B, 0.0)).sum() / mass_B.sum())

    return differentiated(value, plain.student.detach())


def measured_reward(at: TermReferences, term: Any, found: Measured) -> Array | None:
    """A reward without a formula as the component itself gives it, (S, V), since a state is a whole beginning; None where it depends on what
    is written later, or beside."""
    with Weighing() as weighing, torch.no_grad():
        context = at.bench.context(term.on, at.law, at.tables.read_in(None), weighing.weigher(weights(at.law)), [])
        name = term.reward if isinstance(term.reward, str) else None
        reward_RT = term.resolved_reward(at.bench.entry.rewards).tokens(context, name).double().numpy()
    at_RT = at.law.state_RT >= 0
    place = at.law.state_RT[at_RT], at.law.token_RT[at_RT]
    values_SV = np.zeros_like(at.p)
    values_SV[place] = reward_RT[at_RT]
    return values_SV if np.allclose(values_SV[place], reward_RT[at_RT], rtol=1e-12, atol=1e-12) else None


def credited(law: Law, reward_SV: Array, gamma: float, steps: float, start: str) -> Array:
    """The return of each written token, (R, T)."""
    learned_RT = law.state_RT >= 0
    reward_RT = np.where(learned_RT, reward_SV[np.maximum(law.state_RT, 0), law.token_RT], 0.0)
    found = np.zeros_like(reward_RT)
    for t in range(reward_RT.shape[1]):
        for k in range(t + (start == "next"), reward_RT.shape[1]):
            if k - t < steps:
                found[:, t] += gamma ** (k - t) * reward_RT[:, k]
    return np.where(learned_RT, found, 0.0)


def own_share(law: Law, p_SV: Array, credited_RT: Array) -> Array:
    """The mean of an answer's own mean advantage times its score: what a mean that holds the answer itself takes away, as a gradient of the loss."""
    learned_RT, found = law.state_RT >= 0, np.zeros_like(p_SV)
    mean_R = credited_RT.sum(1) / np.maximum(learned_RT.sum(1), 1)
    weight_RT = np.where(learned_RT, (law.probability_R * mean_R)[:, None], 0.0)
    np.add.at(found, (law.state_RT[learned_RT], law.token_RT[learned_RT]), weight_RT[learned_RT])
    return np.asarray((found - found.sum(-1, keepdims=True) * p_SV) / law.learned)
