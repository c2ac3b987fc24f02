"""The data that travels through one training step.

Shape letters: B sequences, T response positions, P prompt positions, N flattened supervised tokens, V vocabulary,
K support entries, R routed tokens, G group members, H hidden size. Tensor names end in their shape (`advantage_BT`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

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
class Generation:
    """One decoded answer: its token ids (stop token excluded) and whether it stopped by itself."""

    ids: tuple[int, ...]
    finished: bool
