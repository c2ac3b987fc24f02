"""What all alignments share: how the tokens of two tokenisations pair, and what the pairs of a chunk of tokens hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from zoo.components.alignments.spans import Span, Tokens
from zoo.components.alignments.vocabulary import Vocabularies
from zoo.components.base import Component, Slot

TINY = 1e-8


@dataclass(frozen=True)
class Pairing:
    """The G spans of a chunk of N student tokens and M teacher tokens: rows (a, b, c, d) of `span_G4` count within the chunk, `sequence_G`
    numbers their sequences, `begun` holds what an alignment notes about each span."""

    alignment: Alignment
    vocabularies: Vocabularies
    token_M: Tensor
    span_G4: Tensor
    sequence_G: Tensor
    begun: Sequence[tuple[int, ...]] = ()


@dataclass(frozen=True)
class Rows:
    """A pairing with both sides' log-probabilities, each over its own vocabulary."""

    pairing: Pairing
    student_NV: Tensor
    teacher_MW: Tensor
    token_N: Tensor

    @property
    def written_N(self) -> Tensor:
        """The student's log-probability of each written token."""
        return self.student_NV.gather(-1, self.token_N[:, None])[:, 0]

    @property
    def written_M(self) -> Tensor:
        """The teacher's."""
        return self.teacher_MW.gather(-1, self.pairing.token_M[:, None])[:, 0]

    @property
    def span_logp(self) -> tuple[Tensor, Tensor]:
        """The log-probability of each span's text (G,), by the chain rule, under the student and under the teacher."""
        a, b, c, d = self.pairing.span_G4.T
        return _sums(self.written_N, a, b), _sums(self.written_M, c, d)


def _sums(value_N: Tensor, start_G: Tensor, end_G: Tensor) -> Tensor:
    """Sums of stretches, each on its own, so that none depends on what stands before it."""
    owner_K, row_K = stretches(start_G, end_G)
    return torch.zeros(len(start_G), dtype=value_N.dtype, device=value_N.device).index_add(0, owner_K, value_N[row_K])


def stretches(start_G: Tensor, end_G: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of every stretch, the stretch's number and the row."""
    size_G = end_G - start_G
    owner_K = torch.repeat_interleave(torch.arange(len(start_G), device=start_G.device), size_G)
    first_G = size_G.cumsum(0) - size_G
    return owner_K, torch.arange(len(owner_K), device=start_G.device) - first_G[owner_K] + start_G[owner_K]


class Columns(Component):
    """How the entries of two laws over different vocabularies meet: K columns on which a divergence compares them. `routing` is the
    coordinate that it gives to a direct loss; `sequences` marks those that read whole sequences."""

    routing: ClassVar[str] = "full_vocab"
    sequences: ClassVar[bool] = False

    def compare(self, rows: Rows, student_GV: Tensor, teacher_GW: Tensor) -> tuple[Tensor, Tensor]:
        """Log-masses (G, K) of both sides; the arguments are each span's own rows."""
        raise NotImplementedError


class Alignment(Component):
    """Base of all alignments. `written` says that spans stand for the same text, so that their log-probabilities compare; `law` that a law
    over the student's own vocabulary results, which any part may read; `warps` that pairing reads the laws' entropies."""

    kind: str
    written: ClassVar[bool] = True
    law: ClassVar[bool] = False
    warps: ClassVar[bool] = False
    columns: Annotated[Any, Slot("columns")] | None = None

    @property
    def sequences(self) -> bool:
        """Whether chunks must hold whole sequences."""
        return self.columns is not None and self.columns.sequences

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        """Which stretches stand for each other in one response."""
        raise NotImplementedError

    def begun(self, student: Tokens, teacher: Tokens, span: Span) -> tuple[int, ...]:
        """What has to be known about a span beside its place."""
        return ()

    def place(self, span_G4: Tensor) -> Tensor:
        """The student's row (G,) at which a span's loss stands."""
        return span_G4[:, 1] - 1

    def own_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Each span's row under the student and under the teacher."""
        _, b, _, d = rows.pairing.span_G4.T
        return rows.student_NV[b - 1], rows.teacher_MW[d - 1]

    def compared(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Log-masses (G, K) to be compared at `place`."""
        if self.columns is None:
            raise ValueError("this alignment compares no laws; give it columns")
        return self.columns.compare(rows, *self.own_rows(rows))  # type: ignore[no-any-return]

    def shared_N(self, rows: Rows) -> Tensor:
        """A span's log-probability under the teacher, split over the student's tokens (N,); the student's own where nothing is paired."""
        return rows.written_N


class TextAlignment(Alignment):
    """Base of alignments whose spans cover the same text.

    The log-probability of a span splits over its tokens `share: proportional` to the student's own, log q_i = (L_T / L_S) log p_i
    (BTB 2606.09456; even where |L_S| < 1e-8), or `even`. Spans of more than `longest` tokens on either side say nothing. `only: single`
    leaves out all but one-to-one spans.
    """

    merge: str = "last"
    share: str = "proportional"
    longest: int | None = Field(None, ge=1)
    only: str = "all"

    def pairs(self, student: Tokens, teacher: Tokens) -> list[Span]:
        """All spans."""
        raise NotImplementedError

    def spans(self, student: Tokens, teacher: Tokens) -> list[Span]:
        most = 1 if self.only == "single" else self.longest
        return [s for s in self.pairs(student, teacher) if most is None or max(s[1] - s[0], s[3] - s[2]) <= most]

    def place(self, span_G4: Tensor) -> Tensor:
        return span_G4[:, 0] if self.merge == "first" else span_G4[:, 1] - 1

    def own_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        a, b, c, d = rows.pairing.span_G4.T
        if self.merge == "first":
            return rows.student_NV[a], rows.teacher_MW[c]
        before_S, before_T = _sums(rows.written_N, a, b - 1), _sums(rows.written_M, c, d - 1)
        return rows.student_NV[b - 1] + before_S[:, None], rows.teacher_MW[d - 1] + before_T[:, None]

    def shared_N(self, rows: Rows) -> Tensor:
        a, b, _, _ = rows.pairing.span_G4.T
        own_G, their_G = rows.span_logp
        owner_K, row_K = stretches(a, b)
        written_N = rows.written_N
        even_G = their_G / (b - a)
        flat_G = (own_G.abs() < TINY) if self.share == "proportional" else torch.ones_like(own_G, dtype=torch.bool)
        ratio_G = their_G / torch.where(flat_G, torch.ones_like(own_G), own_G)
        parts_K = torch.where(flat_G[owner_K], even_G[owner_K], ratio_G[owner_K] * written_N[row_K])
        return written_N.index_copy(0, row_K, parts_K)
