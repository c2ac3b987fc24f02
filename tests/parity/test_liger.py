"""Liger's chunked JSD, the one of its losses that runs on a CPU: hidden states and heads in, chunks of tokens inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.both import LABELS_BT, STUDENT_BTV, TEACHER_BTV, Loss, assert_same, ours, theirs
from tests.parity.test_trl import named

chunked: Any = pytest.importorskip(
    "liger_kernel.chunked_loss", reason="`make test` installs it without Triton, which it needs on a GPU alone; else: pip install 'opd-zoo[parity]'"
)
HEAD_VV = torch.eye(6, dtype=torch.float64)


def liger(beta: float, chunk_size: int = 1024, soft: float = 1.0, hard: float = 0.0, temperature: float = 1.0, teacher_BTV: Tensor = TEACHER_BTV) -> Loss:
    """An identity head makes hidden states logits; a wider teacher has a head of its own."""
    head_WW = torch.eye(teacher_BTV.shape[-1], dtype=torch.float64)
    module = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=hard, weight_soft_loss=soft, beta=beta, temperature=temperature, compiled=False, chunk_size=chunk_size
    )
    return theirs(lambda student_BTV: module(student_BTV.flatten(0, 1), HEAD_VV, teacher_BTV.flatten(0, 1), head_WW, LABELS_BT.flatten()))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("chunk_size", [1, 3, 1024])
def test_chunked_jsd(beta: float, chunk_size: int) -> None:
    assert_same(ours({"divergence": named(beta)}), liger(beta, chunk_size))


def test_temperature() -> None:
    assert_same(ours({"divergence": named(0.5), "temperature": 2.5}), liger(0.5, temperature=2.5))


def test_the_hard_loss_is_the_likelihood_of_the_same_tokens() -> None:
    value = float(torch.nn.functional.cross_entropy(STUDENT_BTV.flatten(0, 1), LABELS_BT.flatten()))
    assert liger(0.5, soft=0.0, hard=1.0).value == pytest.approx(value)


def test_a_wider_teacher_takes_probability_for_entries_that_the_student_lacks() -> None:
    """Liger fills the student's missing logits with 0, as probable as any other entry of logit 0; the zoo cuts the teacher's to the
    common vocabulary. Two padded entries that the teacher never predicts should not change the loss."""
    wider_BTV = torch.nn.functional.pad(TEACHER_BTV, (0, 2), value=-1e4)
    common = ours({"divergence": "forward_kl"}).value
    assert liger(0.0).value == pytest.approx(common)
    assert common == pytest.approx(1.23199, abs=1e-5) and liger(0.0, teacher_BTV=wider_BTV).value == pytest.approx(1.39133, abs=1e-5)
