"""One batch as the zoo and as another library's trainer see it: logits, labels, and an objective's loss with its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.components.compose import contexts_of, entry_of, legal, loss_of
from tests.components.six import LOGITS, rollout, tensor
from zoo.method import Method

IGNORED = -100
ROLLOUT = rollout()
MASK_BT = ROLLOUT.mask_BT
LABELS_BT = ROLLOUT.response_BT.masked_fill(~MASK_BT, IGNORED)
TEACHER_BTV = tensor(LOGITS["teacher"])
STUDENT_BTV = tensor(LOGITS["student"])
TOLERANCE = 1e-6  # the zoo's scales are float32 by design


@dataclass(frozen=True)
class Loss:
    """A scalar and its gradient in the student's logits (B, T, V)."""

    value: float
    gradient_BTV: Tensor


def ours(term: Mapping[str, Any], student_BTV: Tensor = STUDENT_BTV, teacher_BTV: Tensor = TEACHER_BTV) -> Loss:
    """One divergence term on the batch; `reduce` is the mean over its tokens unless the term says otherwise."""
    method = Method(legal(entry_of([{"term": "divergence", "reduce": "token_mean", **term}])))
    leaf = student_BTV.clone().requires_grad_()
    models, streams = {"student": leaf, "teacher": teacher_BTV}, {"main": ROLLOUT}
    prepared = method.prepare(contexts_of(method, streams, {name: logits.detach() for name, logits in models.items()}, {}))
    return _with_gradient(loss_of(method, prepared, streams, models), leaf)


def theirs(loss: Callable[[Tensor], Tensor], student_BTV: Tensor = STUDENT_BTV) -> Loss:
    """A function of the student's logits."""
    leaf = student_BTV.clone().requires_grad_()
    return _with_gradient(loss(leaf), leaf)


def _with_gradient(loss: Tensor, leaf: Tensor) -> Loss:
    [gradient_BTV] = torch.autograd.grad(loss, leaf)
    return Loss(float(loss.detach()), gradient_BTV)


def assert_same(one: Loss, other: Loss) -> None:
    """Value and gradient agree, the padding's zeros included."""
    np.testing.assert_allclose(one.value, other.value, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(one.gradient_BTV.numpy(), other.gradient_BTV.numpy(), rtol=0, atol=TOLERANCE)
    assert not one.gradient_BTV[~MASK_BT].any()
