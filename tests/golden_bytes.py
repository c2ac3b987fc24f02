"""Byte heads on the two texts that student and teacher cut differently: gradients are in the student's last states and in the heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.golden.fixture_cross import OTHERS, STOP, STUDENT, crossed
from tests.golden.numerics import Array
from tests.golden.reference_bytes import SYMBOLS, bld
from tests.golden_cross import Crossed
from tests.golden_hidden import central
from tests.golden_kit import RELATIVE, as_written, load, rollout_of
from zoo.harness.spelling import Heads, Spelling
from zoo.method import Method, annotate
from zoo.statistics import Statistic, TokenContext
from zoo.views import LogitView

WIDTH = 4


def compare(name: str) -> None:
    """Each term, and the gradient of all in the student's states and in the heads."""
    entry = load(name)
    texts = crossed()
    fixture, method, own = as_written(entry, texts.with_stream("corpus", texts["data"])), Method(entry), next(iter(entry.rollouts))
    data, random = fixture["data"], np.random.RandomState(97)
    lengths = data.mask_BT.sum(axis=1).tolist()
    ids = [row[mask].tolist() for row, mask in zip(data.response_BT, data.mask_BT, strict=True)]
    states, head = random.standard_normal((sum(lengths), WIDTH)), random.standard_normal((len(STUDENT), WIDTH))
    heads = random.standard_normal((entry.learners["bytes"].heads, WIDTH, SYMBOLS))

    def reference(states_NS: Array, heads_JSB: Array) -> tuple[float, float, float]:
        return bld("data", ids, np.split(states_NS, np.cumsum(lengths)[:-1]), head, heads_JSB)

    learner, leaf = Heads(entry.learners["bytes"], WIDTH, torch.from_numpy(head)), torch.from_numpy(states).clone().requires_grad_()
    learner.weight_JHB.data = torch.from_numpy(heads)
    pieces = tuple(piece.encode() if piece != STOP else None for piece in STUDENT)

    def view(states_NS: torch.Tensor) -> LogitView:
        pairing, _ = Crossed(method, own, fixture, "data").foreign["teacher"].local()
        shown = (learner, torch.from_numpy(np.concatenate(ids)), states_NS, pieces, STUDENT.index(STOP))
        logits_MW = torch.from_numpy(np.concatenate([other.logits for other in OTHERS["data"]]))
        crossings: dict[str, tuple[Any, str]] = {"heard": (Spelling(*shown, pairing, logits_MW), "teacher"), "spelled": (Spelling(*shown), "teacher")}
        return LogitView(shown[1], {"student": lambda: states_NS @ torch.from_numpy(head).T}, crossings=crossings)

    rollout, columns = rollout_of(entry.rollouts[own], data), dict[Statistic, torch.Tensor]()
    annotate(method.statistics(own), view(leaf.detach()), rollout.mask_BT, slice(None), columns)
    prepared = method.prepare({own: TokenContext(rollout, columns)})
    place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
    loss, shares = method.chunk_loss(prepared, view(leaf), lambda column_BT: column_BT.flatten()[place_N])
    np.testing.assert_allclose([float(share) for share in shares], reference(states, heads), rtol=RELATIVE)
    loss.backward()  # type: ignore[no-untyped-call]
    used = max(len(piece) for piece in STUDENT)
    for which, tensor in enumerate((leaf, learner.weight_JHB)):
        assert tensor.grad is not None
        found = tensor.grad.numpy()
        # Heads beyond the longest token learn nothing; of the others a few columns are compared.
        at = slice(None) if which == 0 else np.s_[:used, :, 95:102]
        wanted = central(lambda s, h: sum(reference(s, _into(heads, h, used))), [states, heads[:used, :, 95:102]], which)
        np.testing.assert_allclose(found[at], wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())
        assert which == 0 or not found[used:].any()


def _into(heads: Array, some: Array, used: int) -> Array:
    """The heads with these columns replaced."""
    changed = heads.copy()
    changed[:used, :, 95:102] = some
    return changed
