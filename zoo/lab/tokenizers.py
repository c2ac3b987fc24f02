"""Another tokenizer in the lab: two small vocabularies of letters, texts split anew by longest match, and a table over the teacher's own prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from zoo.components.alignments import Alignment, Pairing, TimeWarping, Tokens, Vocabularies, Vocabulary
from zoo.lab.laws import Law
from zoo.lab.world import World, world_of

# Both sides have a token of two letters that the other lacks; texts of either fall into spans of one to one, one to two and two to one.
STUDENT = {2: ("a",), 3: ("a", "ab"), 4: ("a", "b", "ab"), 5: ("a", "b", "ab", "c"), 6: ("a", "b", "ab", "c", "d")}
TEACHER = {2: ("a", "aa"), 3: ("a", "b", "ba"), 4: ("a", "b", "ba"), 5: ("a", "b", "ba", "c"), 6: ("a", "b", "ba", "c", "d")}
LONGEST = 5  # tokens of the teacher's that are scored


@dataclass(frozen=True)
class Split:
    """A law's rows in a teacher's tokens: how they pair with the student's, and the row of the teacher's table that stands before each token."""

    pairing: Pairing
    state_M: Tensor


@lru_cache(maxsize=8)
def vocabularies(size: int) -> Vocabularies:
    """The student's tokens in a world of this size, and the teacher's; the stop is the last one on both sides."""
    mine, theirs = (_vocabulary(tuple(piece.encode() for piece in pieces[size])) for pieces in (STUDENT, TEACHER))
    return Vocabularies(mine, theirs)


def teacher_world(size: int) -> World:
    """The prefixes of a teacher's tokens."""
    return world_of(len(vocabularies(size).teacher), LONGEST)


def split(alignment: Alignment, law: Law, world: World, own_SV: Tensor, table_UW: Tensor, same: bool) -> Split:
    """The spans of all rows whose student tokens are learned. `own_SV` and `table_UW` are both sides' logits, whose entropies alignments that warp
    time read; with `same` the teacher has the student's tokens."""
    known = vocabularies(world.vocabulary)
    known = Vocabularies(known.student, known.student) if same else known
    other = world if same else teacher_world(world.vocabulary)
    spans, sequence, begun = list[tuple[int, ...]](), list[int](), list[tuple[int, ...]]()
    state_M, token_M = list[int](), list[int]()
    row_RT = np.where(law.state_RT >= 0, np.cumsum(law.state_RT >= 0).reshape(law.state_RT.shape) - 1, -1)
    entropies = [_relative(table) for table in (own_SV, table_UW)]
    for r, (token_T, state_T) in enumerate(zip(law.token_RT, law.state_RT, strict=True)):
        learned = np.flatnonzero(state_T >= 0)
        mine = _tokens(token_T[: learned[-1] + 1].tolist() if len(learned) else [], known.student)
        theirs = mine if same else _retokenised(mine, known.teacher)
        states, first = _walk(theirs.ids, other), len(state_M)
        if isinstance(alignment, TimeWarping):
            found = alignment.warped(mine, theirs, *([float(h[s]) for s in at] for h, at in zip(entropies, (_walk(mine.ids, world), states), strict=True)))
        else:
            found = alignment.spans(mine, theirs)
        for a, b, c, d in found:
            if (row_RT[r, a:b] >= 0).all():
                spans.append((row_RT[r, a], row_RT[r, b - 1] + 1, first + c, first + d))
                sequence.append(r)
                begun.append(alignment.begun(mine, theirs, (a, b, c, d)))
        state_M += states
        token_M += theirs.ids
    span_G4 = torch.tensor(spans, dtype=torch.long).reshape(-1, 4)
    return Split(Pairing(alignment, known, torch.tensor(token_M), span_G4, torch.tensor(sequence, dtype=torch.long), begun), torch.tensor(state_M))


def _vocabulary(pieces: tuple[bytes, ...]) -> Vocabulary:
    return Vocabulary((*pieces, None), len(pieces), partial(_longest, pieces))


def _longest(pieces: Sequence[bytes], text: bytes) -> list[int]:
    """Token ids of a text: at each place the longest token that fits."""
    found = list[int]()
    while text:
        fits = [(len(piece), number) for number, piece in enumerate(pieces) if text.startswith(piece)]
        if not fits:  # what no token begins with is no text of this vocabulary
            return []
        size, number = max(fits)
        found.append(number)
        text = text[size:]
    return found


def _tokens(ids: Sequence[int], vocabulary: Vocabulary) -> Tokens:
    return Tokens(tuple(ids), tuple(vocabulary.pieces[i] or b"" for i in ids), bool(ids) and ids[-1] == vocabulary.stop)


def _retokenised(mine: Tokens, vocabulary: Vocabulary) -> Tokens:
    ids = [*vocabulary.split(b"".join(mine.words)), *([vocabulary.stop] if mine.stopped else [])]
    return _tokens(ids[:LONGEST], vocabulary)


def _walk(ids: Sequence[int], world: World) -> list[int]:
    """The state before each token."""
    found, state = list[int](), 0
    for token in ids:
        found.append(state)
        state = int(world.children[state, token])
    return found


def _relative(logits_SV: Tensor) -> Tensor:
    """Each state's entropy over the largest possible."""
    logp_SV = logits_SV.detach().log_softmax(-1)
    return -(logp_SV.exp() * logp_SV).sum(-1) / float(np.log(logits_SV.shape[-1]))
