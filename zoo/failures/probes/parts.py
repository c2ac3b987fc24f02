"""What a scene is made of: sizes, models as they read prompts, answers, and chunks of tokens as models see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.components.base import Context
from zoo.tensors import Prompt


@dataclass(frozen=True)
class Sizes:
    """How much a probe asks for; the same numbers at every look of a run. `rollouts` is K, answers a prompt; `failing` answers are begun again, each
    with so many `continuations`; `forced` is M, texts behind a forced token of one of the `states`; `greedy` answers;
    `ends` of answers of each source; `gradient` answers of a stream."""

    prompts: int = 48
    rollouts: int = 8
    failing: int = 104
    continuations: int = 4
    states: int = 96
    forced: int = 16
    greedy: int = 256
    ends: int = 64
    gradient: int = 192
    micro_batches: int = 16
    decode_batch: int = 512


@dataclass(frozen=True)
class Reader:
    """One model as it reads prompts: its weights, the context in which it does, and whose chat format it is shown (`native`: a teacher's own). `own`
    says that its weights are the student's, of some time."""

    name: str
    model: Any
    context: Context | None = None
    own: bool = False
    native: str | None = None


@dataclass(frozen=True)
class Texts:
    """Answers: token ids with their stop token, whether they ended by themselves, and the writer's log-probabilities of the tokens behind `given`."""

    prompts: tuple[Prompt, ...]
    ids: tuple[tuple[int, ...], ...]
    finished: tuple[bool, ...]
    logp: tuple[tuple[float, ...], ...]
    given: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Sequence[int]) -> Texts:
        """Some of them."""
        return Texts(*(tuple(column[i] for i in index) for column in (self.prompts, self.ids, self.finished, self.logp, self.given)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Seen:
    """A chunk of N tokens: answer, position, token, and each reader's log-probabilities (N, V)."""

    row_N: Tensor
    position_N: Tensor
    token_N: Tensor
    logp: Mapping[str, Tensor]

    def written_N(self, name: str) -> Tensor:
        """Log-probability of the written token."""
        return self.logp[name].gather(-1, self.token_N[:, None])[:, 0]
