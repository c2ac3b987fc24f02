"""Texts that an endpoint writes, as a stream's responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoo.harness.endpoint.client import Endpoint, Question
from zoo.tensors import Author


def written_by(endpoint: Endpoint, questions: Sequence[Question]) -> list[str]:
    """The answers' texts, or what goes on from the beginnings; a reply that repeats its beginning counts without it."""
    replies = endpoint.ask(questions)
    return [reply.removeprefix(question.begun) if question.begun else reply for reply, question in zip(replies, questions, strict=True)]


def columns_of(ids: Sequence[Sequence[int]], limit: int, pad_id: int, device: torch.device, author: Author = Author.TEACHER) -> dict[str, Any]:
    """A rollout's columns for texts whose probabilities nobody knows: a closed teacher's, or given ones."""
    width = min(limit, max(1, *map(len, ids)))
    length_B = torch.tensor([len(row) for row in ids], device=device)
    mask_BT = torch.arange(width, device=device) < length_B[:, None]
    unknown_BT = torch.zeros(mask_BT.shape, device=device).masked_fill(mask_BT, float("nan"))
    return {
        "response_BT": torch.tensor([[*row, *[pad_id] * width][:width] for row in ids], device=device),
        "mask_BT": mask_BT,
        "author_BT": mask_BT.long() * int(author),
        "behaviour_logp_BT": unknown_BT,
        "student_logp_BT": unknown_BT.clone(),
        "finished_B": length_B <= limit,
    }
