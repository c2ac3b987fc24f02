"""DSKD with cross-model attention on hidden states and embeddings: gradients are in the student's last states and in the learner's maps."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.golden.fixture_cross import OTHERS, STUDENT, TEACHER, crossed
from tests.golden.numerics import Array, at_tokens, kl, log_softmax
from tests.golden.reference_dual import Side, cma_seen, cma_there
from tests.golden_cross import Crossed
from tests.golden_hidden import central
from tests.golden_kit import RELATIVE, as_written, load, rollout_of
from zoo.harness.dual import Attention, Crossing
from zoo.method import Method, annotate
from zoo.statistics import Statistic, TokenContext
from zoo.views import LogitView

OWN, THEIR = 3, 5


class Attending:
    """The entry on states and embeddings of both sides."""

    def __init__(self, name: str) -> None:
        self.entry = load(name)
        self.fixture = as_written(self.entry, crossed())
        self.data, random = self.fixture["data"], np.random.RandomState(96)
        self.lengths = self.data.mask_BT.sum(axis=1).tolist(), [len(other.ids) for other in OTHERS["data"]]
        self.ids = self.data.response_BT[self.data.mask_BT], np.concatenate([other.ids for other in OTHERS["data"]])
        shapes = (len(STUDENT), OWN), (len(TEACHER), THEIR)
        self.heads = [random.standard_normal(shape) for shape in shapes]
        self.embeddings = [random.standard_normal(shape) for shape in shapes]
        self.last, self.read = ([random.standard_normal((sum(n), d)) for n, d in zip(self.lengths, (OWN, THEIR), strict=True)] for _ in range(2))
        self.maps = [random.standard_normal(shape) for shape in ((2 * OWN, 2 * THEIR), (THEIR, OWN), (OWN, THEIR))]

    def sides(self, own_NS: Array) -> list[tuple[Side, Side]]:
        """Both sides of each response."""
        last, found = (own_NS, self.last[1]), []
        for rows in zip(*([slice(*ends) for ends in pairwise([0, *np.cumsum(n)])] for n in self.lengths), strict=True):
            found.append(tuple(Side(last[s][at], self.read[s][at], self.embeddings[s][self.ids[s][at]]) for s, at in enumerate(rows)))
        return found  # type: ignore[return-value]

    def reference(self, own_NS: Array, query: Array, forth: Array, back: Array, *, rate: float = 0.5) -> tuple[float, float, float, float]:
        """(1 - r) CE, r L_stu, r L_tea, and the learner's own sum of cross-entropies.

        L_stu: KL(sg softmax z_t2s || pi) where z_t2s is largest at the written token; L_tea: KL(T || softmax z_s2t). The card sums over tokens. Taken
        (entry): sums over the number of the student's tokens.
        """
        log_q, number = log_softmax(own_NS @ self.heads[0].T), len(own_NS)
        fixed = self.sides(self.last[0])
        log_p = log_softmax(np.concatenate([cma_seen(*both, self.maps[0], self.maps[1], self.heads[0]) for both in fixed]))
        right = log_p.argmax(axis=-1) == self.ids[0]
        there = log_softmax(np.concatenate([cma_there(*both, self.maps[0], self.maps[2], self.heads[1]) for both in self.sides(own_NS)]))
        log_teacher = log_softmax(self.last[1] @ self.heads[1].T)
        fitted = log_softmax(np.concatenate([cma_seen(*both, query, forth, self.heads[0]) for both in fixed]))
        return (
            (1.0 - rate) * float(-at_tokens(log_q, self.ids[0]).mean()),
            rate * float(kl(log_p, log_q)[right].sum() / number),
            rate * float(kl(log_teacher, there).sum() / number),
            float(-at_tokens(fitted, self.ids[0]).sum()),
        )

    def learner(self) -> Attention:
        """The package's learner with these maps."""
        models = [
            SimpleNamespace(
                get_output_embeddings=lambda head=head: SimpleNamespace(weight=torch.from_numpy(head)),
                get_input_embeddings=lambda table=table: SimpleNamespace(weight=torch.from_numpy(table)),
            )
            for head, table in zip(self.heads, self.embeddings, strict=True)
        ]
        learner = Attention(self.entry.learners["bridge"], *models, (len(STUDENT), len(TEACHER)), ("golden",))  # type: ignore[arg-type]
        for name, value in zip(("query", "teacher_to_student", "student_to_teacher"), self.maps, strict=True):
            learner.maps[name].data = torch.from_numpy(value)
        return learner

    def view(self, learner: Attention, method: Method, own_NS: torch.Tensor) -> tuple[LogitView, Crossing]:
        """All tokens."""
        own = next(iter(self.entry.rollouts))
        pairing, _ = Crossed(method, own, self.fixture, "data").foreign["teacher"].local()
        states = [torch.cat([last, torch.from_numpy(read)], -1) for last, read in zip((own_NS, torch.from_numpy(self.last[1])), self.read, strict=True)]
        crossing = Crossing(learner, torch.from_numpy(self.ids[0]), *states, pairing)
        logits: dict[str, Any] = {"student": lambda: own_NS @ torch.from_numpy(self.heads[0]).T, "seen": crossing.seen_logits}
        crossings = {"seen": (crossing, "student"), "there": (crossing, "teacher")}
        return LogitView(crossing.token_N, logits, values={"seen": crossing.agrees_N}, crossings=crossings), crossing


def compare(name: str) -> None:
    """Each term, the gradient in the student's states, and those of the learner's loss and of the last term in its maps."""
    at = Attending(name)
    method, learner, own = Method(at.entry), at.learner(), next(iter(at.entry.rollouts))
    leaf = torch.from_numpy(at.last[0]).clone().requires_grad_()
    rollout, columns = rollout_of(at.entry.rollouts[own], at.data), dict[Statistic, torch.Tensor]()
    annotate(method.statistics(own), at.view(learner, method, leaf.detach())[0], rollout.mask_BT, slice(None), columns)
    prepared = method.prepare({own: TokenContext(rollout, columns)})
    view, crossing = at.view(learner, method, leaf)
    place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
    loss, shares = method.chunk_loss(prepared, view, lambda column_BT: column_BT.flatten()[place_N])
    *expected, fitted = at.reference(at.last[0], *at.maps)
    np.testing.assert_allclose([float(share) for share in shares], expected, rtol=RELATIVE)
    np.testing.assert_allclose(crossing.fit().item(), fitted, rtol=RELATIVE)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    wanted = central(lambda own_NS: sum(at.reference(own_NS, *at.maps)[:3]), [at.last[0]], 0)
    np.testing.assert_allclose(leaf.grad.numpy(), wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())
    for which, key in enumerate(("query", "teacher_to_student")):
        wanted = central(lambda *maps: at.reference(at.last[0], *maps, at.maps[2])[3], at.maps[:2], which)
        found = torch.autograd.grad(crossing.fit(), learner.maps[key], retain_graph=True)[0].numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())
