"""DSKD's entries on hidden states: both models get states and heads of their own; gradients are in the student's states and in the learner's map."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests import golden_cross
from tests.golden.fixture import Fixture
from tests.golden.fixture_cross import OTHERS, STUDENT, TEACHER, crossed
from tests.golden.numerics import Array, at_tokens, log_softmax, token_mean
from tests.golden.reference_cross_pairs import same_bytes
from tests.golden.reference_dual import Spaces, dskd, fit
from tests.golden_hidden import central
from tests.golden_kit import RELATIVE, SIX, as_written, load, rollout_of
from zoo.components.alignments import Pairing
from zoo.entry import MethodEntry
from zoo.harness.dual import Crossing, Dual
from zoo.method import Method, annotate
from zoo.statistics import Statistic, TokenContext
from zoo.views import LogitView

OWN, THEIR = 3, 5
STREAMS = {"given": "data", "main": "main"}
States = dict[str, Array]


class Space:
    """An entry on states: those of the student (B, T, 3), those of the teacher by its own tokens (M, 5), heads, a map."""

    def __init__(self, name: str) -> None:
        self.across = name == "dskd_eta"
        self.entry: MethodEntry = load(name)
        self.fixture: Fixture = as_written(self.entry, crossed() if self.across else SIX)
        random = np.random.RandomState(90 + self.across)
        words = (STUDENT, TEACHER) if self.across else (range(7), range(7))
        shared = [(i, words[1].index(word)) for i, word in enumerate(words[0]) if word in words[1]]
        heads = random.standard_normal((len(words[0]), OWN)), random.standard_normal((len(words[1]), THEIR))
        mine, known = zip(*shared, strict=True)
        start = Spaces(*heads, mine, known, np.zeros((THEIR, OWN))).start
        self.spaces = Spaces(*heads, mine, known, start + 0.4 * random.standard_normal(start.shape))
        self.own = {own: random.standard_normal((*self.fixture[name].mask_BT.shape, OWN)) for own, name in STREAMS.items()}
        self.their = {own: 1.5 * random.standard_normal((self.count(own), THEIR)) for own in STREAMS}

    def count(self, own: str) -> int:
        name = STREAMS[own]
        return sum(len(other.ids) for other in OTHERS[name]) if self.across else int(self.fixture[name].mask_BT.sum())

    def pairs(self, own: str) -> list[tuple[int, int]]:
        """Places of single tokens that stand for each other, in the flattened texts of both."""
        data, others = self.fixture[STREAMS[own]], OTHERS[STREAMS[own]]
        if not self.across:
            return [(n, n) for n in range(self.count(own))]
        found, begun = [], (0, 0)
        for ids, mask, other in zip(data.response_BT, data.mask_BT, others, strict=True):
            mine, theirs = [STUDENT[i] for i in ids[mask]], [TEACHER[j] for j in other.ids]
            found += [(begun[0] + a[0], begun[1] + c[0]) for a, c in same_bytes(mine, theirs) if len(a) == len(c) == 1]
            begun = begun[0] + len(mine), begun[1] + len(theirs)
        return found

    def reference(self, states: States) -> tuple[float, ...]:
        """The terms as the card has them."""
        paired = {}
        for own, name in STREAMS.items():
            a, c = zip(*self.pairs(own), strict=True)
            paired[own] = states[own][self.fixture[name].mask_BT][list(a)], self.their[own][list(c)]
        data = self.fixture["data"]
        likelihood = token_mean(-at_tokens(log_softmax(states["given"] @ self.spaces.own.T), data.response_BT), data.mask_BT)
        return dskd(paired["given"], paired["main"], likelihood, self.spaces, across=self.across)

    def carrier(self) -> Dual:
        """The package's learner on both heads."""
        own, theirs = (torch.from_numpy(head) for head in (self.spaces.own, self.spaces.theirs))
        models = [SimpleNamespace(get_output_embeddings=lambda head=head: SimpleNamespace(weight=head)) for head in (own, theirs)]
        shared = torch.tensor(self.spaces.mine), torch.tensor(self.spaces.known)
        carrier = Dual(self.entry.learners["bridge"], *models, shared, (len(own), len(theirs)))  # type: ignore[arg-type]
        np.testing.assert_allclose(carrier.maps["teacher_to_student"].detach().numpy(), self.spaces.start, atol=1e-9)
        carrier.maps["teacher_to_student"].data = torch.from_numpy(self.spaces.bridge)
        return carrier

    def view(self, carrier: Dual, method: Method, own: str, states_BTS: torch.Tensor) -> tuple[LogitView, Crossing]:
        """The tokens of a stream."""
        data = self.fixture[STREAMS[own]]
        place_N = torch.from_numpy(data.mask_BT).flatten().nonzero()[:, 0]
        own_NS, token_N = states_BTS.flatten(0, 1)[place_N], torch.from_numpy(data.response_BT).flatten()[place_N]
        pairing: Pairing | None = None
        their_MT = torch.from_numpy(self.their[own])
        if self.across:
            foreign = golden_cross.Crossed(method, own, self.fixture, STREAMS[own]).foreign["teacher"]
            pairing, their_MT = replace(foreign, states_MH=their_MT).local()
        crossing = Crossing(carrier, token_N, own_NS, their_MT, pairing)
        logits: dict[str, Any] = {"student": lambda: own_NS @ torch.from_numpy(self.spaces.own).T, "seen": crossing.seen_logits}
        crossings = {"seen": (crossing, "student"), "there": (crossing, "teacher")}
        return LogitView(token_N, logits, values={"seen": crossing.agrees_N}, crossings=crossings), crossing


def compare(name: str) -> None:
    """Each term, the gradient in the student's states, and that of the learner's loss in its map."""
    space = Space(name)
    method, carrier = Method(space.entry), space.carrier()
    leaves = {own: torch.from_numpy(states).clone().requires_grad_() for own, states in space.own.items()}
    contexts = {}
    for own in STREAMS:
        rollout, columns = rollout_of(space.entry.rollouts[own], space.fixture[STREAMS[own]]), dict[Statistic, torch.Tensor]()
        annotate(method.statistics(own), space.view(carrier, method, own, leaves[own].detach())[0], rollout.mask_BT, slice(None), columns)
        contexts[own] = TokenContext(rollout, columns)
    prepared, values = method.prepare(contexts), [0.0] * len(space.entry.objective)
    for own, leaf in leaves.items():
        parts = [part for part in prepared if part.stream == own]
        view, crossing = space.view(carrier, method, own, leaf)
        place_N = contexts[own].rollout.mask_BT.flatten().nonzero()[:, 0]
        loss, shares = method.chunk_loss(parts, view, lambda column_BT, at=place_N: column_BT.flatten()[at])  # type: ignore[misc]
        (loss + crossing.fit()).backward()  # type: ignore[no-untyped-call]
        for part, share in zip(parts, shares, strict=True):
            values[part.term] += float(share)
    np.testing.assert_allclose(values, space.reference(space.own), rtol=RELATIVE)
    names = list(STREAMS)
    at = [space.own[own] for own in names]
    for which, own in enumerate(names):
        expected = central(lambda *moved: sum(space.reference(dict(zip(names, moved, strict=True)))), at, which)
        grad = leaves[own].grad
        assert grad is not None
        np.testing.assert_allclose(grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
    fitted = [[c for _, c in space.pairs(own)] for own in names]
    expected = central(
        lambda bridge: sum(fit(space.their[own][rows], space.spaces, bridge) for own, rows in zip(names, fitted, strict=True)), [space.spaces.bridge], 0
    )
    grad = carrier.maps["teacher_to_student"].grad
    assert grad is not None
    np.testing.assert_allclose(grad.numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
