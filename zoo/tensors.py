"""The data that travels through one training step.

Shape letters: B sequences, T response positions, P prompt positions, N flattened supervised tokens, V vocabulary,
K support entries, R routed tokens, G group members, H hidden size. Tensor names end in their shape (`advantage_BT`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor


class Author(IntEnum):
    """Who wrote a token; a column of every batch that gates can read."""

    STUDENT = 0
    TEACHER = 1
    DATASET = 2
    CORPUS = 3
    ENVIRONMENT = 4
    COMPUTED = 5


class Role(IntEnum):
    """What a token of an episode is: a writer's text, its call of a tool, its final answer, or what the environment said."""

    TEXT = 0
    CALL = 1
    ANSWER = 2
    REPLY = 3


@dataclass(frozen=True)
class Prompt:
    """One task instance: what the student is shown, and the named fields that verifiers and privileged contexts read.

    `text` is the user-visible prompt before any chat template; `fields` may hold `solution` (a full gold response),
    `answer`, `hint`, `domain` and others.
    """

    id: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """One stream's batch of sequences: prompts, right-padded responses, and columns about each response token.

    `mask_BT` marks supervised tokens (never environment or padding). `behaviour_logp_BT` is the log-probability under
    whoever drew the token at the time (the mixture, for mixtures; NaN where unknown, as for data sets);
    `student_logp_BT` is the student's own at that time (NaN where it was not computed). `finished_B` is true where a
    stop token was written before the length limit. `version` counts optimizer steps of the student at writing.

    Streams with an environment have two more columns: `turn_BT`, the writer's turn that a token belongs to, counted from 0 (a reply belongs to
    the turn that it answers), and `role_BT`. `judged` says which text a verifier reads: all of it, or the writer's last turn.
    """

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    response_BT: Tensor
    mask_BT: Tensor
    author_BT: Tensor
    behaviour_logp_BT: Tensor
    student_logp_BT: Tensor
    group_B: Tensor
    finished_B: Tensor
    version: int = 0
    turn_BT: Tensor | None = None
    role_BT: Tensor | None = None
    judged: Literal["all", "last_turn"] = "all"

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tokens(self) -> int:
        """Number of supervised tokens."""
        return int(self.mask_BT.sum())

    @property
    def written_BT(self) -> Tensor:
        """Tokens of the text: up to the last supervised one. Unsupervised ones, such as a given beginning, may lie before it."""
        return self.mask_BT.flip(1).cummax(1).values.flip(1)

    @property
    def turns_BT(self) -> Tensor:
        """Each token's turn; 0 throughout where nobody answers."""
        return torch.zeros_like(self.author_BT) if self.turn_BT is None else self.turn_BT

    @property
    def roles_BT(self) -> Tensor:
        """Each token's role; text throughout where nobody answers."""
        return torch.zeros_like(self.author_BT) if self.role_BT is None else self.role_BT

    @property
    def span_BT(self) -> Tensor:
        """Each token's span, counted from 0: a run of tokens of one turn, one role and one author."""
        kind_BT = (self.turns_BT * len(Role) + self.roles_BT) * len(Author) + self.author_BT
        changes_BT = torch.zeros_like(kind_BT)
        changes_BT[:, 1:] = (kind_BT[:, 1:] != kind_BT[:, :-1]).long()
        return changes_BT.cumsum(1)

    def rows(self, index: Sequence[int]) -> Rollout:
        """The same columns for some of the sequences, in the given order."""
        at = torch.as_tensor(list(index), dtype=torch.long, device=self.response_BT.device)
        picked = {f.name: getattr(self, f.name)[at] for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in index),
            prompt_ids=tuple(self.prompt_ids[i] for i in index),
            **picked,
        )

    def to(self, device: torch.device | str) -> Rollout:
        """The same rollout with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Episode:
    """A dialogue as text: what it opened with, what the writer said in each turn, and what the environment said to that (None: nothing)."""

    opening: str
    said: tuple[str, ...] = ()
    replies: tuple[str | None, ...] = ()

    def before(self, turn: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The writer's and the environment's texts before a turn, or in the whole dialogue; the opening is the environment's first."""
        upto = len(self.said) if turn is None else turn
        return self.said[:upto], (self.opening, *(reply for reply in self.replies[:upto] if reply is not None))


@dataclass(frozen=True)
class Generation:
    """One decoded answer: its token ids (stop token excluded) and whether it stopped by itself."""

    ids: tuple[int, ...]
    finished: bool


def smallest(value: Tensor, counted: Tensor, place: int, total: Callable[[Tensor], Tensor]) -> Tensor:
    """The entry at `place` (from 0) among the counted entries of the global batch in ascending order.

    Found by bisection over the order of floating-point numbers, so it needs sums of counts alone and is exact.
    """
    kind, bits = (torch.int64, 63) if value.dtype == torch.float64 else (torch.int32, 31)
    # Adding 0 makes -0 one with 0; the bits of negative numbers grow downwards.
    key = (value + 0.0).contiguous().view(kind)
    key = torch.where(key < 0, key ^ (2**bits - 1), key)
    low, high = -(2**bits), 2**bits - 1
    while low < high:
        middle = (low + high) // 2
        if int(total(((key <= middle) & counted).sum())) > place:
            high = middle
        else:
            low = middle + 1
    found = torch.tensor(low if low >= 0 else low ^ (2**bits - 1), dtype=kind, device=value.device)
    return found.view(value.dtype)
