"""Columns: on which entries laws over two vocabularies are compared."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.alignments.base import Columns, Rows
from zoo.components.alignments.spans import unlike
from zoo.components.alignments.vocabulary import Vocabularies, Vocabulary
from zoo.components.base import component

NOTHING = -1e4  # a log-probability of nothing, as of a view


def _padded(student_GK: Tensor, teacher_GK: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the width of the wider one, with nothing in the new columns."""
    width = max(student_GK.shape[-1], teacher_GK.shape[-1])
    pad = torch.nn.functional.pad
    return tuple(pad(one, (0, width - one.shape[-1]), value=NOTHING) for one in (student_GK, teacher_GK))  # type: ignore[return-value]


@component("columns")
class Rank(Columns):
    """The i-th largest probability of one side with the i-th largest of the other, the shorter one filled up with zeros (ULD 2402.12030);
    `of: unshared` takes the tokens that only one of them has (GOLD's second part)."""

    kind: Literal["rank"] = "rank"
    of: Literal["all", "unshared"] = "all"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        if self.of == "unshared":
            mine, theirs = rows.pairing.vocabularies.unshared
            student_GV, teacher_GW = student_GV[:, mine.to(student_GV.device)], teacher_GW[:, theirs.to(student_GV.device)]
        return _padded(student_GV.sort(-1, descending=True).values, teacher_GW.sort(-1, descending=True).values)


@component("columns")
class Shared(Columns):
    """The tokens that both vocabularies have, by their bytes, and the stop (KDFlow 2603.01875); `renormalise` makes both sides sum to one on
    them, else the mass outside is left out (GOLD's first part)."""

    kind: Literal["shared"] = "shared"
    renormalise: bool = True
    routing = "fixed_set"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        mine, theirs = (ids.to(student_GV.device) for ids in rows.pairing.vocabularies.shared)
        student_GK, teacher_GK = student_GV[:, mine], teacher_GW[:, theirs]
        return (student_GK.log_softmax(-1), teacher_GK.log_softmax(-1)) if self.renormalise else (student_GK, teacher_GK)


@component("columns")
class Units(Columns):
    """The shared tokens, and the span itself where it is more than one token: score (1/k) sum_j log p(v_j) over its k tokens against log p of
    the shared ones at the span's beginning, both sides normalised over all of them (SimCT 2605.07711)."""

    kind: Literal["units"] = "units"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        mine, theirs = (ids.to(student_GV.device) for ids in rows.pairing.vocabularies.shared)
        a, b, c, d = rows.pairing.span_G4.T
        own_G, their_G = rows.span_logp
        whole_G = (b - a > 1) | (d - c > 1)
        nothing_G = torch.full_like(own_G, NOTHING)
        own_G1, their_G1 = (torch.where(whole_G, x, nothing_G)[:, None] for x in (own_G / (b - a), their_G / (d - c)))
        return torch.cat([student_GV[:, mine], own_G1], -1).log_softmax(-1), torch.cat([teacher_GW[:, theirs], their_G1], -1).log_softmax(-1)


@component("columns")
class Event(Columns):
    """Two entries, the span's text and everything else (ALM 2503.20083): l / tau and log(1 - exp(l / tau)), l being the sum of its tokens'
    log-probabilities less 1e-6."""

    kind: Literal["event"] = "event"
    tau: float = Field(100.0, gt=0)
    routing = "sampled_token"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        own_G, their_G = rows.span_logp
        return self._both(own_G), self._both(their_G)

    def _both(self, logp_G: Tensor) -> Tensor:
        tempered_G = (logp_G.clamp(max=0.0) - 1e-6) / self.tau
        # log(1 - e^x) by the form that does not cancel on its side of -log 2.
        near_G = torch.log(-torch.expm1(tempered_G.clamp(min=-0.7)))
        far_G = torch.log1p(-tempered_G.clamp(max=-0.6).exp())
        return torch.stack([tempered_G, torch.where(tempered_G > -0.6931, near_G, far_G)], -1)


@component("columns")
class JointRank(Columns):
    """The k columns of largest probability summed over the sequence, one order for each side and the same at all its positions (Multi-Level OT
    2412.14528, which sums over the batch). `standardise` divides the logits by their standard deviation over the vocabulary first."""

    kind: Literal["joint_rank"] = "joint_rank"
    k: int = Field(50, ge=1)
    standardise: bool = True
    routing = "teacher_topk"
    sequences = True

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        return _padded(*(self._ranked(one, rows.pairing.sequence_G) for one in (student_GV, teacher_GW)))

    def _ranked(self, logp_GV: Tensor, sequence_G: Tensor) -> Tensor:
        if self.standardise:
            logp_GV = (logp_GV / (logp_GV.std(-1, keepdim=True) + 1e-4)).log_softmax(-1)
        number_G = torch.unique(sequence_G, return_inverse=True)[1]
        width = int(number_G.max()) + 1 if len(number_G) else 0
        total_BV = logp_GV.new_zeros(width, logp_GV.shape[-1]).index_add(0, number_G, logp_GV.detach().exp())
        order_BK = total_BV.topk(min(self.k, logp_GV.shape[-1]), -1).indices
        return logp_GV.gather(-1, order_BK[number_G])


@component("columns")
class Projected(Columns):
    """The student's law carried over to the teacher's vocabulary by a fixed sparse map, log(p W), on the teacher's k most probable tokens
    (X-Token 2605.21699): a token that the teacher has too goes there whole, any other one in equal parts to the first `most` pieces into which
    the teacher splits it."""

    kind: Literal["projected"] = "projected"
    k: int = Field(ge=1)
    most: int = Field(4, ge=1)
    routing = "teacher_topk"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        known, device = rows.pairing.vocabularies, student_GV.device
        index_GK = teacher_GW[:, : len(known.teacher)].topk(min(self.k, len(known.teacher)), -1).indices
        mapped_GW = torch.sparse.mm(known.spread(self.most).to(device, student_GV.dtype).T, student_GV[:, : len(known.student)].exp().T).T
        return mapped_GW.gather(-1, index_GK).clamp(min=1e-30).log(), teacher_GW.gather(-1, index_GK)


@component("columns")
class TopMapped(Columns):
    """Both sides' top-k tokens, each with its counterpart (CDM 2502.11104): the token with the same bytes, else the unused one among the other
    side's top-k whose text is nearest, if the edit distance over both lengths is below `threshold`. First the teacher's k, then the
    student's, both sides normalised over all pairs; tokens without a counterpart are left out on both sides."""

    kind: Literal["top_mapped"] = "top_mapped"
    k: int = Field(100, ge=1)
    threshold: float = Field(0.1, ge=0, le=1)
    routing = "union_topk"

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        known = rows.pairing.vocabularies
        sizes = len(known.student), len(known.teacher)
        mine, theirs = (x[:, :n].detach().topk(min(self.k, n), -1).indices.tolist() for x, n in zip((student_GV, teacher_GW), sizes, strict=True))
        pairs = [self._pairs(known, *row) for row in zip(mine, theirs, strict=True)]
        width = max([len(row) for row in pairs] + [1])
        index_GK2 = torch.tensor([[*row, *[(0, 0)] * (width - len(row))] for row in pairs], device=student_GV.device).reshape(-1, width, 2)
        count_G1 = torch.tensor([[len(row)] for row in pairs], device=student_GV.device)
        absent_GK = torch.arange(width, device=student_GV.device) >= count_G1
        student_GK, teacher_GK = student_GV.gather(-1, index_GK2[..., 0]), teacher_GW.gather(-1, index_GK2[..., 1])
        return tuple(x.masked_fill(absent_GK, NOTHING).log_softmax(-1) for x in (student_GK, teacher_GK))  # type: ignore[return-value]

    def _pairs(self, known: Vocabularies, mine: list[int], theirs: list[int]) -> list[tuple[int, int]]:
        student, teacher = known.student, known.teacher
        forth = self._mapped([(j, teacher.pieces[j]) for j in theirs], teacher.stop, student, mine)
        back = self._mapped([(i, student.pieces[i]) for i in mine], student.stop, teacher, theirs)
        return [*((i, j) for j, i in forth), *back]

    def _mapped(self, tokens: list[tuple[int, bytes | None]], stop: int, other: Vocabulary, candidates: list[int]) -> list[tuple[int, int]]:
        """Each token with its counterpart on the other side."""
        exact = {number: other.stop if number == stop else other.numbers.get(piece or b"") for number, piece in tokens}
        used, found = {i for i in exact.values() if i is not None}, []
        for number, piece in tokens:
            match = exact[number]
            if match is None and piece:
                free = [(unlike(piece, text), i) for i in candidates if i not in used and (text := other.pieces[i])]
                far, near = min(free, default=(1.0, -1))
                match = near if far < self.threshold else None
                used.update([] if match is None else [match])
            if match is not None:
                found.append((number, match))
        return found
