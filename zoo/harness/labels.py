"""Given text as a scorer and as a writer: all probability on the token that stands at the same index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ZooError, suggest
from zoo.harness.decode import Stepper
from zoo.harness.models import LoadedPair
from zoo.tensors import Prompt, Rollout


def label_ids(pair: LoadedPair, field: str, prompt: Prompt) -> list[int]:
    """A prompt's given answer as token ids, ended by the stop token.

    Raises:
        ZooError: the prompt has no such field.
    """
    if field not in prompt.fields:
        raise ZooError(f"prompt '{prompt.id}' has no field '{field}' for a teacher of kind labels{suggest(field, prompt.fields)}")
    return [*pair.tokenizer.encode(prompt.fields[field], add_special_tokens=False), pair.stop_ids[0]]


def labels_N(pair: LoadedPair, field: str, rollout: Rollout) -> Tensor:
    """The label of each supervised token: the given answer's token of the same index, the stop token from its end on."""
    width = rollout.mask_BT.shape[1]
    rows = [(ids + [ids[-1]] * width)[:width] for ids in (label_ids(pair, field, prompt) for prompt in rollout.prompts)]
    return torch.tensor(rows, device=rollout.mask_BT.device)[rollout.mask_BT]


def point_mass(token_N: Tensor, vocabulary: int) -> Tensor:
    """Logits (N, V) of a law that is sure of one token."""
    return torch.full((len(token_N), vocabulary), -torch.inf, device=token_N.device).scatter_(1, token_N[:, None], 0.0)


class LabelStepper(Stepper):
    """Given answers in place of a model that decodes; what it reads of each row is the answer itself."""

    def __init__(self, like: Stepper) -> None:
        super().__init__(like.model, pad_id=like.pad_id, vocab_size=like.vocab_size, graphs=False)
        self.given: list[Sequence[int]] = []
        self.place = 0

    def prefill(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Tensor:
        self.given, self.place = list(prompts), 0
        return self._now()

    def step(self, token_B: Tensor) -> Tensor:
        """Whatever was written, the next given token."""
        self.place += 1
        return self._now()

    def _now(self) -> Tensor:
        token_B = torch.tensor([row[min(self.place, len(row) - 1)] for row in self.given], device=self.model.device)
        return point_mass(token_B, self.vocab_size)
