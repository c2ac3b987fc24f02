"""A divergence whose temperature is computed for each token: value and gradient against numpy, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zoo.method import Method

from .compose import contexts_of, entry_of, legal, loss_of
from .six import LOGITS, MASK, Array, log_softmax, logp, rollout, tensor

HELLINGER = {"kind": "divergence", "by": "hellinger"}
HARD: dict[str, Any] = {"kind": "log_tanh", "of": {"kind": "scaled", "of": HELLINGER, "by": "median"}}
TERM: dict[str, Any] = {"term": "divergence", "divergence": "reverse_kl", "temperature_by": HARD, "rescale": True, "reduce": "token_mean"}


def temperatures(base: float = 1.0) -> Array:
    s = np.sqrt(((np.sqrt(np.exp(logp("student"))) - np.sqrt(np.exp(logp("teacher")))) ** 2).sum(-1) / 2)
    return np.asarray(base * np.exp(-0.5 * np.tanh(np.log(s / np.median(s[MASK])))))


def expected(student: Array, base: float = 1.0) -> float:
    t = temperatures(base)[..., None]
    p, q = log_softmax(student / t), log_softmax(LOGITS["teacher"] / t)
    return float(((t[..., 0] ** 2) * (np.exp(p) * (p - q)).sum(-1))[MASK].mean())


def loss(term: dict[str, Any], student: torch.Tensor, chunk: int = 4) -> torch.Tensor:
    method = Method(legal(entry_of([term])))
    models = {"student": student, "teacher": tensor(LOGITS["teacher"])}
    prepared = method.prepare(contexts_of(method, {"main": rollout()}, models, {}))
    return loss_of(method, prepared, {"main": rollout()}, models, chunk=chunk)


@pytest.mark.parametrize("base", [1.0, 2.0])
def test_value_and_gradient(base: float) -> None:
    leaf = tensor(LOGITS["student"]).requires_grad_()
    found = loss({**TERM, "temperature": base}, leaf)
    assert float(found.detach()) == pytest.approx(expected(LOGITS["student"], base), rel=1e-6)
    [slope] = torch.autograd.grad(found, leaf)
    at, step = (0, 1, 2), 1e-5
    moved = [LOGITS["student"].copy() for _ in range(2)]
    moved[0][at] += step
    moved[1][at] -= step
    frozen = (expected(moved[0], base) - expected(moved[1], base)) / (2 * step)
    assert float(slope[at]) == pytest.approx(frozen, rel=1e-4), "temperatures are constants of the step"


def test_a_factor_of_one_changes_nothing_and_chunks_neither() -> None:
    plain = {key: value for key, value in TERM.items() if key != "temperature_by"}
    one = {"kind": "log_tanh", "of": HELLINGER, "c": 0.0}
    student = tensor(LOGITS["student"])
    assert float(loss({**TERM, "temperature_by": one}, student)) == pytest.approx(float(loss(plain, student)), rel=1e-12)
    assert float(loss(TERM, student, chunk=1)) == pytest.approx(float(loss(TERM, student, chunk=6)), rel=1e-12)
