"""What two vocabularies have in common, from the bytes of their tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of each token, None for one that is no text; the stop token; and how the tokenizer splits a text of bytes."""

    pieces: tuple[bytes | None, ...]
    stop: int
    split: Callable[[bytes], Sequence[int]] = field(compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """The first token of each text."""
        found: dict[bytes, int] = {}
        for number, piece in enumerate(self.pieces):
            if piece:
                found.setdefault(piece, number)
        return found


@dataclass(frozen=True)
class Vocabularies:
    """The student's and a teacher's vocabulary; `same` where one tokenizer makes both, so that each token meets itself, text or not."""

    student: Vocabulary
    teacher: Vocabulary
    same: bool = False
    _made: dict[Any, Tensor] = field(default_factory=dict, compare=False, repr=False)
    _made_bytes: dict[bytes, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def shared(self) -> tuple[Tensor, Tensor]:
        """Ids (K,) of the tokens with the same bytes in both, and of the stop tokens, in the student's order."""
        if self.same:
            return torch.arange(len(self.student)), torch.arange(len(self.student))
        mine = self.student.numbers
        pairs = [(i, self.teacher.numbers[piece]) for piece, i in mine.items() if piece in self.teacher.numbers]
        pairs = sorted({*pairs, (self.student.stop, self.teacher.stop)})
        return torch.tensor([i for i, _ in pairs]), torch.tensor([j for _, j in pairs])

    @cached_property
    def unshared(self) -> tuple[Tensor, Tensor]:
        """Ids of the others, of each side."""
        own, theirs = (set(ids.tolist()) for ids in self.shared)
        return (
            torch.tensor([i for i in range(len(self.student)) if i not in own], dtype=torch.long),
            torch.tensor([j for j in range(len(self.teacher)) if j not in theirs], dtype=torch.long),
        )

    def spread(self, most: int) -> Tensor:
        """A sparse map W (V_S, V_T), at most `most` entries a row (X-Token 2605.21699): a student token whose bytes the teacher has goes there
        whole, any other one in equal parts to the first `most` pieces into which the teacher splits it; the stop goes to the stop."""
        if most in self._made:
            return self._made[most]
        place, value = [], []
        for i, piece in enumerate(self.student.pieces):
            if self.same:
                into = [i]
            elif i == self.student.stop:
                into = [self.teacher.stop]
            elif not piece:
                continue
            else:
                into = [self.teacher.numbers[piece]] if piece in self.teacher.numbers else list(self.teacher.split(piece))[:most]
            place += [(i, j) for j in into]
            value += [1.0 / max(len(into), 1)] * len(into)
        index = torch.tensor(place, dtype=torch.long).reshape(-1, 2).T
        self._made[most] = torch.sparse_coo_tensor(index, torch.tensor(value), (len(self.student), len(self.teacher)), check_invariants=True).coalesce()
        return self._made[most]

    @cached_property
    def _ordered(self) -> tuple[list[bytes], list[int]]:
        """The teacher's texts in order, with their tokens."""
        pairs = sorted((piece, number) for number, piece in enumerate(self.teacher.pieces) if piece)
        return [piece for piece, _ in pairs], [number for _, number in pairs]

    def continuing(self, begun: bytes) -> tuple[Tensor, Tensor]:
        """The teacher's tokens (K,) whose bytes begin with these, and the byte that follows in each; 256 for the stop, where nothing has begun,
        257 where the token ends."""
        if begun not in self._made_bytes:
            texts, numbers = self._ordered
            low, high = bisect_left(texts, begun), bisect_left(texts, begun + b"\xff" * (max(map(len, texts), default=0) + 1))
            found = [(numbers[k], texts[k][len(begun)] if len(texts[k]) > len(begun) else 257) for k in range(low, high)]
            found += [] if begun else [(self.teacher.stop, 256)]
            self._made_bytes[begun] = (
                torch.tensor([number for number, _ in found], dtype=torch.long),
                torch.tensor([byte for _, byte in found], dtype=torch.long),
            )
        return self._made_bytes[begun]

    @cached_property
    def splits(self) -> list[tuple[int, ...]]:
        """How the student's tokenizer splits each of the teacher's tokens; the stop is the stop, what is no text is ()."""
        if self.same:
            return [(i,) for i in range(len(self.student))]
        found = [tuple(self.student.split(piece)) if piece else () for piece in self.teacher.pieces]
        found[self.teacher.stop] = (self.student.stop,)
        return found

    def following(self, begun: tuple[int, ...]) -> Tensor:
        """For each teacher token (V_T,), the student token that comes next in it behind these; -1 where it does not begin with them."""
        if begun not in self._made:
            size = len(begun)
            self._made[begun] = torch.tensor([parts[size] if len(parts) > size and parts[:size] == begun else -1 for parts in self.splits])
        return self._made[begun]
