"""Responses put together from pieces: a given beginning and what follows it, and texts whose end was replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.tensors import Author, Rollout


def content_lengths(rollout: Rollout, stop_ids: Sequence[int]) -> Tensor:
    """Tokens of each response without its stop token, (B,)."""
    stop_S = torch.tensor(list(stop_ids), device=rollout.response_BT.device)
    return (rollout.written_BT & ~torch.isin(rollout.response_BT, stop_S)).sum(1)


def heads_of(rollout: Rollout, length_B: Tensor) -> list[list[int]]:
    """The first tokens of each response."""
    return [ids[:length] for ids, length in zip(rollout.response_BT.tolist(), length_B.tolist(), strict=True)]


def spliced(given: Rollout, rest: Rollout, length_B: Tensor, *, limit: int, learn_given: bool, pad_id: int) -> Rollout:
    """The first `length_B` tokens of one rollout followed by the responses of another, cut at `limit` tokens.

    Every token keeps its author and its log-probabilities; `learn_given` says whether the first ones are supervised.
    """
    size_B = length_B + rest.mask_BT.sum(1)
    width = max(int(size_B.clamp(max=limit).max()), 1)
    at_T = torch.arange(width, device=length_B.device)
    first_BT = at_T < length_B[:, None]
    written_BT = at_T < size_B[:, None]

    def column(name: str) -> Tensor:
        one_BT, other_BT = getattr(given, name), getattr(rest, name)
        from_one_BT = one_BT.gather(1, at_T.clamp(max=one_BT.shape[1] - 1).expand(len(length_B), -1))
        from_other_BT = other_BT.gather(1, (at_T - length_B[:, None]).clamp(0, other_BT.shape[1] - 1))
        empty = pad_id if name == "response_BT" else 0
        return torch.where(first_BT, from_one_BT, from_other_BT).masked_fill(~written_BT, empty)

    names = ("response_BT", "author_BT", "behaviour_logp_BT", "student_logp_BT")
    mask_BT = written_BT if learn_given else written_BT & ~first_BT
    columns: dict[str, Any] = {name: column(name) for name in names}
    return replace(rest, mask_BT=mask_BT, finished_B=rest.finished_B & (size_B <= limit), **columns)


def edited(source: Rollout, ids: Sequence[Sequence[int]], *, learn_all: bool, stop_ids: Sequence[int], pad_id: int) -> Rollout:
    """The source with other responses. Up to its first changed token a response keeps the source's columns; from there on the tokens
    are computed, and nobody's probabilities are known."""
    device, width = source.response_BT.device, max(len(row) for row in ids)
    response_BT = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in ids], device=device)
    written_BT = torch.arange(width, device=device) < torch.tensor([len(row) for row in ids], device=device)[:, None]

    def kept(column_BT: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(column_BT, (0, max(width - column_BT.shape[1], 0)), value=value)[:, :width]

    same_BT = (kept(source.response_BT, pad_id) == response_BT) & kept(source.written_BT, False) & written_BT
    same_BT = same_BT.cumprod(1).bool()
    unknown_BT = torch.zeros(written_BT.shape, device=device).masked_fill(written_BT, float("nan"))
    return replace(
        source,
        response_BT=response_BT,
        mask_BT=written_BT if learn_all else written_BT & ~same_BT,
        author_BT=torch.where(same_BT, kept(source.author_BT, 0), written_BT.long() * int(Author.COMPUTED)),
        behaviour_logp_BT=torch.where(same_BT, kept(source.behaviour_logp_BT, 0.0), unknown_BT),
        student_logp_BT=torch.where(same_BT, kept(source.student_logp_BT, 0.0), unknown_BT),
        finished_B=torch.tensor([row[-1] in stop_ids for row in ids], device=device),
    )
