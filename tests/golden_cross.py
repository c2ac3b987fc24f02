"""Entries whose teacher has a tokenizer of its own: both tokenisations of two texts, put together by the package, against the references."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import reference_cross as cross
from tests.golden import reference_cross_more as more
from tests.golden.fixture import Fixture
from tests.golden.fixture_cross import OTHERS, STOP, STUDENT, STUDENT_CUTS, TEACHER, TEACHER_CUTS, crossed
from tests.golden.loss import Reference
from tests.golden_kit import RELATIVE, Result, as_written, assert_gradients, fixture_name, load, rewards_of, rollout_of
from zoo.components.alignments import Tokens, Vocabularies, Vocabulary
from zoo.components.rollouts import Corpus, Dataset
from zoo.entry import MethodEntry
from zoo.harness.alignment import Foreign, Retokenised, paired
from zoo.method import Method, annotate
from zoo.statistics import Entropy, Statistic, TokenContext
from zoo.views import LogitView

DATA, BOTH = ("data",), ("data", "main")
CROSSED: dict[str, Reference] = {
    "uld": Reference(cross.uld, DATA),
    "multilevel_ot": Reference(cross.multilevel_ot, DATA),
    "alm": Reference(cross.alm, DATA),
    "gold": Reference(cross.gold),
    "gold_hybrid": Reference(cross.gold_hybrid),
    "simct": Reference(cross.simct),
    "simple_ctkd": Reference(cross.simple_ctkd),
    "cdm": Reference(more.cdm, DATA),
    "xtok_likelihood": Reference(more.xtok_likelihood, DATA),
    "ctpd": Reference(more.ctpd, BOTH),
    "xtoken_pkl": Reference(more.xtoken_pkl, DATA),
}


def _vocabulary(pieces: tuple[str, ...], cuts: dict[str, tuple[str, ...]]) -> Vocabulary:
    def split(text: bytes) -> list[int]:
        return [pieces.index(part) for part in cuts.get(text.decode(), (text.decode(),))]

    return Vocabulary(tuple(piece.encode() if piece != STOP else None for piece in pieces), pieces.index(STOP), split)


KNOWN = Vocabularies(_vocabulary(STUDENT, STUDENT_CUTS), _vocabulary(TEACHER, TEACHER_CUTS))


def _tokens(ids: tuple[int, ...], pieces: tuple[str, ...]) -> Tokens:
    return Tokens(ids, tuple(pieces[i].encode() for i in ids), stopped=True)


class Crossed:
    """One stream of an entry on both tokenisations."""

    def __init__(self, method: Method, own: str, fixture: Fixture, name: str) -> None:
        self.method, self.data, self.rollout = method, fixture[name], rollout_of(method.entry.rollouts[own], fixture[name])
        others = OTHERS[name]
        pairs = [
            (_tokens(tuple(ids[mask].tolist()), STUDENT), _tokens(other.ids, TEACHER))
            for ids, mask, other in zip(self.data.response_BT, self.data.mask_BT, others, strict=True)
        ]
        width = max(len(other.ids) for other in others)
        response_BU = torch.tensor([[*other.ids, *[0] * (width - len(other.ids))] for other in others])
        mask_BU = torch.arange(width) < torch.tensor([len(other.ids) for other in others])[:, None]
        theirs = Retokenised(pairs, type(self.rollout)(**{**vars(self.rollout), "response_BT": response_BU, "mask_BT": mask_BU, "author_BT": mask_BU.long()}))
        logits_MW = torch.from_numpy(np.concatenate([other.logits for other in others]))
        self.place_N = torch.from_numpy(self.data.mask_BT).flatten().nonzero()[:, 0]
        old_NV = torch.from_numpy(self.data.logits["old"]).flatten(0, 1)[self.place_N]
        relative = tuple(self._entropy(logits) for logits in (old_NV, logits_MW))
        self.foreign: dict[str, Foreign] = {
            teacher: paired(alignment, KNOWN, self.rollout, theirs, logits_MW, relative)  # type: ignore[arg-type]
            for teacher, alignment in method.aligned.items()
        }

    @staticmethod
    def _entropy(logits: Tensor) -> Tensor:
        """Entropies relative to the largest possible."""
        view = LogitView(torch.zeros(len(logits), dtype=torch.long), {"it": lambda: logits})
        return Entropy("it").compute(view) / np.log(logits.shape[-1])

    def view(self, student_BTV: Tensor, chunk: slice) -> LogitView:
        """The tokens of a chunk."""
        place_N, locals_ = self.place_N[chunk], {teacher: foreign[chunk].local() for teacher, foreign in self.foreign.items()}
        logits: dict[str, Any] = {teacher: (lambda states=states: states) for teacher, (_, states) in locals_.items()}
        logits["student"] = lambda: student_BTV.flatten(0, 1)[place_N]
        pairings = {teacher: pairing for teacher, (pairing, _) in locals_.items()}
        return LogitView(torch.from_numpy(self.data.response_BT).flatten()[place_N], logits, self.method.targets, pairings=pairings)

    def context(self, own: str) -> TokenContext:
        """Columns and rewards when the stream has been written."""
        columns = dict[Statistic, Tensor]()
        annotate(self.method.statistics(own), self.view(torch.from_numpy(self.data.logits["old"]), slice(None)), self.rollout.mask_BT, slice(None), columns)
        return TokenContext(self.rollout, columns, rewards_of(self.method, own, self.data, self.rollout))

    def chunks(self, apart: bool) -> list[slice]:
        """The whole batch, or one response after the other."""
        ends = [0, *self.data.mask_BT.sum(axis=1).cumsum().tolist()]
        return [slice(a, b) for a, b in pairwise(ends)] if apart else [slice(None)]


def evaluate(entry: MethodEntry, fixture: Fixture, apart: bool = False) -> Result:
    """Value and gradient of an entry on the two texts."""
    method = Method(entry)
    playing = {own: "data" if isinstance(stream, Dataset | Corpus) else fixture_name(stream) for own, stream in entry.rollouts.items()}
    streams = {own: Crossed(method, own, fixture, name) for own, name in playing.items() if own in method.learned}
    prepared = method.prepare({own: stream.context(own) for own, stream in streams.items()})
    known = {part.term: float(part.value) for part in prepared if part.value is not None}
    values, gradients = [known.get(i, 0.0) for i in range(len(entry.objective))], dict[str, Tensor]()
    for own, stream in streams.items():
        parts = [part for part in prepared if part.stream == own]
        student_BTV = torch.from_numpy(stream.data.logits["student"]).clone().requires_grad_()
        for chunk in stream.chunks(apart):
            place_N = stream.place_N[chunk]
            loss, shares = method.chunk_loss(parts, stream.view(student_BTV, chunk), lambda column_BT, at=place_N: column_BT.flatten()[at])  # type: ignore[misc]
            loss.backward()  # type: ignore[no-untyped-call]
            for part, share in zip(parts, shares, strict=True):
                values[part.term] += 0.0 if part.term in known else float(share)
        assert student_BTV.grad is not None
        gradients[playing[own]] = student_BTV.grad
    return Result(values, gradients)


def assert_equal(entry: MethodEntry, reference: Reference, *, apart: bool = False) -> None:
    fixture = as_written(entry, crossed())
    result, expected = evaluate(entry, fixture, apart), reference(fixture)
    assert_gradients(result, reference.gradient(fixture))
    assert result.values == pytest.approx(list(expected.per_term.values()), rel=RELATIVE)


def compare(name: str) -> None:
    """The entry's value and gradients against the reference's."""
    assert_equal(load(name), CROSSED[name])
