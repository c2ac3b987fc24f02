"""Scoring by a teacher with another tokenizer: the student's text in the teacher's tokens, the teacher's states there, and which of
them pair with which of the student's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.components.alignments import Alignment, Pairing, Span, TimeWarping, Tokens, Vocabularies
from zoo.components.base import Context
from zoo.harness.contexts import written_ids
from zoo.harness.models import LoadedPair
from zoo.harness.pieces_of import encoded, retokenised, same_tokens, student_tokens
from zoo.tensors import Rollout


@dataclass(frozen=True)
class Foreign:
    """A teacher's states in its own tokens, held as if they were rows of the student's: taking rows keeps the spans that lie wholly in them.

    `states_MH` and `token_M` are the teacher's of the whole batch; `row_N` numbers the student's rows in the batch's order; `span_G4`
    and `sequence_G` are those of a `Pairing`, counted in the batch.
    """

    alignment: Alignment
    vocabularies: Vocabularies
    states_MH: Tensor
    token_M: Tensor
    row_N: Tensor
    sequence_N: Tensor
    span_G4: Tensor
    sequence_G: Tensor
    begun: Sequence[tuple[int, ...]] = field(default=(), repr=False)

    @property
    def device(self) -> torch.device:
        """Where the states are; the bookkeeping is on the CPU."""
        return self.states_MH.device

    def __len__(self) -> int:
        return len(self.row_N)

    def __getitem__(self, at: Any) -> Foreign:
        at = at.cpu() if isinstance(at, Tensor) else at
        row_N = self.row_N[at]
        kept = torch.isin(self.span_G4[:, 0], row_N) & torch.isin(self.span_G4[:, 1] - 1, row_N)
        return replace(
            self, row_N=row_N, sequence_N=self.sequence_N[at], span_G4=self.span_G4[kept], sequence_G=self.sequence_G[kept],
            begun=[b for b, k in zip(self.begun, kept.tolist(), strict=True) if k],
        )  # fmt: skip

    @property
    def breaks_N(self) -> Tensor:
        """Rows (N,) before which a chunk may end: between spans, or between sequences where the alignment reads whole ones."""
        first_N = torch.ones(len(self), dtype=torch.bool)
        if self.alignment.sequences:
            first_N[1:] = self.sequence_N[1:] != self.sequence_N[:-1]
            return first_N
        size_G = self.span_G4[:, 1] - self.span_G4[:, 0]
        inner = [torch.arange(int(a) + 1, int(a + n)) for a, n in zip(self.span_G4[:, 0], size_G, strict=True) if n > 1]
        return ~torch.isin(self.row_N, torch.cat(inner)) if inner else first_N

    def local(self) -> tuple[Pairing, Tensor]:
        """The pairing counted within these rows, and the teacher's states (M, H) that it reads."""
        place = torch.zeros(int(self.row_N.max()) + 1 if len(self) else 1, dtype=torch.long)
        place[self.row_N] = torch.arange(len(self))
        a, b, c, d = self.span_G4.T
        read_M = torch.unique(torch.cat([torch.arange(int(i), int(j)) for i, j in zip(c, d, strict=True)])) if len(c) else torch.zeros(0, dtype=torch.long)
        # A span's teacher rows stay next to each other, since all between them are read.
        begin_G = torch.searchsorted(read_M, c.contiguous())
        start_G = place[a]
        span_G4 = torch.stack([start_G, start_G + b - a, begin_G, begin_G + d - c], 1).to(self.device)
        pairing = Pairing(self.alignment, self.vocabularies, self.token_M[read_M].to(self.device), span_G4, self.sequence_G.to(self.device), self.begun)
        return pairing, self.states_MH[read_M.to(self.device)]


def prompts_for(pair: LoadedPair, model: str, context: Context | None, rollout: Rollout) -> list[tuple[int, ...]]:
    """What a teacher with a tokenizer of its own reads before each response: the prompt in its tokens and chat format; for other beginnings,
    such as the first token of a running text, their text."""
    found = []
    for prompt, ids in zip(rollout.prompts, rollout.prompt_ids, strict=True):
        if context is not None or list(ids) == pair.format_prompt(prompt):
            own = pair.format_prompt(prompt, context, model)
        else:
            own = encoded(pair.tokenizers[model], pair.decode(ids))
        found.append(tuple(own) or (int(pair.tokenizers[model].eos_token_id),))
    return found


@dataclass(frozen=True)
class Retokenised:
    """A batch in a teacher's tokens: both tokenisations of each response, and a rollout of the teacher's, of which only tokens and mask mean
    anything."""

    pairs: list[tuple[Tokens, Tokens]]
    rollout: Rollout


def retokenise(rollout: Rollout, tokenizer: Any, vocabularies: Vocabularies, stops: Sequence[int], pad_id: int) -> Retokenised:
    """Each response up to its last supervised token, in the teacher's tokens."""
    mine = [student_tokens(ids, vocabularies.student, stops) for ids in written_ids(rollout)]
    if vocabularies.same:
        theirs = [same_tokens(one) for one in mine]
        mine = theirs
    else:
        theirs = [retokenised(one, tokenizer, vocabularies.teacher) for one in mine]
    width, device = max([len(one.ids) for one in theirs] + [1]), rollout.mask_BT.device
    response_BT = torch.tensor([[*one.ids, *[pad_id] * (width - len(one.ids))] for one in theirs], device=device).reshape(len(theirs), width)
    mask_BT = torch.arange(width, device=device) < torch.tensor([len(one.ids) for one in theirs], device=device)[:, None]
    blank_BT = torch.zeros(mask_BT.shape, device=device)
    written = replace(rollout, response_BT=response_BT, mask_BT=mask_BT, author_BT=mask_BT.long(), behaviour_logp_BT=blank_BT, student_logp_BT=blank_BT)
    return Retokenised(list(zip(mine, theirs, strict=True)), written)


def paired(
    alignment: Alignment, vocabularies: Vocabularies, rollout: Rollout, other: Retokenised, states_MH: Tensor, entropies: tuple[Tensor, Tensor] | None = None
) -> Foreign:
    """The teacher's states with all spans whose student tokens are supervised. `entropies` are those of both laws, relative to the
    largest possible, by row, for alignments that warp time."""
    mask_BT, mask_BU = rollout.mask_BT.cpu(), other.rollout.mask_BT.cpu()
    row_BT = torch.where(mask_BT, mask_BT.flatten().cumsum(0).view(mask_BT.shape) - 1, -1)
    start_B = (mask_BU.sum(1).cumsum(0) - mask_BU.sum(1)).tolist()
    spans: list[Span] = []
    sequence: list[int] = []
    begun: list[tuple[int, ...]] = []
    for index, ((mine, theirs), row_T) in enumerate(zip(other.pairs, row_BT.tolist(), strict=True)):
        for span in _spans(alignment, mine, theirs, row_T, start_B[index], entropies):
            a, b, c, d = span
            if all(row >= 0 for row in row_T[a:b]):
                spans.append((row_T[a], row_T[b - 1] + 1, start_B[index] + c, start_B[index] + d))
                sequence.append(index)
                begun.append(alignment.begun(mine, theirs, span))
    token_M = other.rollout.response_BT.cpu()[mask_BU]
    span_G4 = torch.tensor(spans, dtype=torch.long).reshape(-1, 4)
    rows = torch.arange(rollout.tokens)
    return Foreign(alignment, vocabularies, states_MH, token_M, rows, mask_BT.nonzero()[:, 0], span_G4, torch.tensor(sequence, dtype=torch.long), begun)


def _spans(alignment: Alignment, mine: Tokens, theirs: Tokens, row_T: list[int], start: int, entropies: tuple[Tensor, Tensor] | None) -> list[Span]:
    if not isinstance(alignment, TimeWarping) or entropies is None:
        return alignment.spans(mine, theirs)
    own_N, their_M = entropies
    own = [float(own_N[row]) if row >= 0 else 0.0 for row in row_T[: len(mine.ids)]]
    return alignment.warped(mine, theirs, own, their_M[start : start + len(theirs.ids)].tolist())
