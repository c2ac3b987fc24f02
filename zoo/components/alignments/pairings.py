"""Alignments: which positions of two tokenisations of one text pair."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.alignments.base import Alignment, Rows, TextAlignment, stretches
from zoo.components.alignments.spans import Span, Tokens, byte_spans, common, covers, positions, running_text, time_warping, unlike, with_stops
from zoo.components.base import component

NOTHING = -1e4  # a log-probability of nothing, as of a view


@component("alignment")
class ByteSpans(TextAlignment):
    """The shortest spans that cover the same bytes, by two pointers over the ends of the tokens (ALM 2503.20083, GOLD, CTPD 2601.11865).

    A span of several tokens has one row of each law: `merge: last`, log p_last(v) + sum of the earlier tokens' log p(y_k), which is not
    normalised (GOLD's Bayesian rule), or `first`, the law of its first token.
    """

    kind: Literal["byte_spans"] = "byte_spans"
    merge: Literal["last", "first"] = "last"
    share: Literal["proportional", "even"] = "proportional"
    only: Literal["all", "single"] = "all"

    def pairs(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return byte_spans(student, teacher)


@component("alignment")
class RunningText(TextAlignment):
    """Greedy spans of running texts: each closes with a token that both sides share, and reaches back to the previous one that did
    (SimCT 2605.07711, KDFlow 2603.01875); otherwise as `byte_spans`."""

    kind: Literal["running_text"] = "running_text"
    merge: Literal["last", "first"] = "first"
    share: Literal["proportional", "even"] = "proportional"
    only: Literal["all", "single"] = "all"

    def pairs(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return running_text(student, teacher)


@component("alignment")
class Positions(Alignment):
    """The k-th token of one answer with the k-th token of the other, up to the end of the shorter one, whatever they say (ULD 2402.12030)."""

    kind: Literal["positions"] = "positions"
    written = False

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return positions(student, teacher)


@component("alignment")
class BytePrefix(Alignment):
    """Each student token with the teacher's tokens that hold its bytes (BLD 2604.07466): every byte is read at the teacher's token that it lies in,
    behind that token's own bytes so far. For teachers of kind byte_law."""

    kind: Literal["byte_prefix"] = "byte_prefix"
    columns: None = None
    written = False

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        found, ends, theirs = list[Span](), student.ends, teacher.ends
        same = common(b"".join(student.words), b"".join(teacher.words))
        for i, end in enumerate(ends):
            begin = end - len(student.words[i])
            if begin < end <= same and not any(low < end and begin < high for low, high in teacher.spoiled):
                found.append((i, i + 1, bisect_right(theirs, begin), bisect_left(theirs, end) + 1))
        return with_stops(found, student, teacher)

    def begun(self, student: Tokens, teacher: Tokens, span: Span) -> tuple[int, ...]:
        """For each byte, the teacher's token among the span's and how many of its bytes come before."""
        i, _, c, _ = span
        if i >= len(student.words):
            return (0, 0)
        starts = [0, *teacher.ends]
        begin = student.ends[i] - len(student.words[i])
        own = [bisect_right(teacher.ends, begin + k) for k in range(len(student.words[i]))]
        return tuple(number for k, j in enumerate(own) for number in (j - c, begin + k - starts[j]))


@component("alignment")
class WholeResponse(Alignment):
    """Every token with the whole of the other side's response: what meets what is left to attention (DSKD-CMA 2406.17328)."""

    kind: Literal["whole_response"] = "whole_response"
    columns: None = None
    written = False

    @property
    def sequences(self) -> bool:
        return True

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return [(i, i + 1, 0, len(teacher.ids)) for i in range(len(student.ids))] if teacher.ids else []


@component("alignment")
class TimeWarping(Alignment):
    """Dynamic time warping over the texts of the tokens (CDM 2502.11104): a cell costs ed(a, b) / (|a| + |b|) * H_S(i) / log V_S * H_T(j) / log V_T, ed
    being the edit distance; the path goes down, right or both. Each student token meets the mean of the teacher's log-laws in its row."""

    kind: Literal["dtw"] = "dtw"
    written = False
    warps = True

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return self.warped(student, teacher, [1.0] * len(student.ids), [1.0] * len(teacher.ids))

    def warped(self, student: Tokens, teacher: Tokens, mine: list[float], theirs: list[float]) -> list[Span]:
        """The spans with these relative entropies at the positions."""
        far = {(a, b): unlike(a, b) for a in set(student.pieces) for b in set(teacher.pieces)}
        cost = [[far[a, b] * h * g for b, g in zip(teacher.pieces, theirs, strict=True)] for a, h in zip(student.pieces, mine, strict=True)]
        path = time_warping(cost)
        rows = {i: [j for at, j in path if at == i] for i, _ in path}
        return [(i, i + 1, row[0], row[-1] + 1) for i, row in rows.items()]

    def own_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        a, _, c, d = rows.pairing.span_G4.T
        owner_K, row_K = stretches(c, d)
        total_GW = rows.teacher_MW.new_zeros(len(a), rows.teacher_MW.shape[-1]).index_add(0, owner_K, rows.teacher_MW[row_K])
        return rows.student_NV[a], (total_GW / (d - c)[:, None]).log_softmax(-1)


@component("alignment")
class PrefixCover(Alignment):
    """The teacher's law over the student's next token (2512.14954), by one cover: at the last teacher token that ends before it, with
    the student tokens r begun since, Q(u) = sum of T(v) over teacher tokens v that the student splits into r, u, ... , normalised.

    Exact where that teacher token is the only cut of the text so far, as it is for a deterministic tokenizer whose tokens the student's
    merges refine; covers with later cuts count nothing.
    """

    kind: Literal["prefix_cover"] = "prefix_cover"
    columns: None = None
    least: float = Field(1e-8, gt=0, lt=1)
    law = True

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        return [span for span in covers(student, teacher) if self._first(student, teacher, span) is not None]

    def begun(self, student: Tokens, teacher: Tokens, span: Span) -> tuple[int, ...]:
        first = self._first(student, teacher, span)
        assert first is not None
        return student.ids[first : span[0]]

    @staticmethod
    def _first(student: Tokens, teacher: Tokens, span: Span) -> int | None:
        """The student token that begins where the teacher's token does; none where that lies inside one."""
        if span[0] >= len(student.words):
            return span[0]
        start = sum(len(piece) for piece in teacher.pieces[: span[2]])
        begins = [0, *student.ends]
        return begins.index(start) if start in begins[: span[0] + 1] else None

    def compared(self, rows: Rows) -> tuple[Tensor, Tensor]:
        a = rows.pairing.span_G4[:, 0]
        return rows.student_NV[a], self.law_GV(rows)

    def law_GV(self, rows: Rows) -> Tensor:
        """The law over the student's vocabulary at each span; the student's own, without gradient, where the cover holds less than `least`."""
        pairing, found = rows.pairing, rows.student_NV.detach()[rows.pairing.span_G4[:, 0]].clone()
        alike: dict[tuple[int, ...], list[int]] = {}
        for g, begun in enumerate(pairing.begun):
            alike.setdefault(begun, []).append(g)
        size = rows.student_NV.shape[-1]
        for begun, at in alike.items():
            place_G = torch.tensor(at, device=found.device)
            next_W = pairing.vocabularies.following(begun).to(found.device)
            next_W = torch.nn.functional.pad(next_W, (0, rows.teacher_MW.shape[-1] - len(next_W)), value=-1)
            next_W = torch.where(next_W < 0, size, next_W)
            mass_GW = rows.teacher_MW[pairing.span_G4[place_G, 2]].exp()
            mass_GV = mass_GW.new_zeros(len(at), size + 1).index_add(1, next_W, mass_GW)[:, :size]
            total_G1 = mass_GV.sum(-1, keepdim=True)
            law_GV = (mass_GV / total_G1.clamp(min=self.least)).log().clamp(min=NOTHING)
            found[place_G] = torch.where(total_G1 >= self.least, law_GV.to(found), found[place_G])
        return found

    def shared_N(self, rows: Rows) -> Tensor:
        a, law_GV = rows.pairing.span_G4[:, 0], self.law_GV(rows)
        return rows.written_N.index_copy(0, a, law_GV.gather(-1, rows.token_N[a][:, None])[:, 0])
