"""What is logged of each token of a diagnosed sequence: two distributions compared, without gradient. docs/logs.md lists the columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.statistics import View, kl_NV

TAIL = 1e-3  # teacher probabilities below this are its tail
SMALL, LARGE = 4, 16  # of the overlaps; at most a quarter of the vocabulary


def student_columns(view: View, stop_ids: Tensor) -> dict[str, Tensor]:
    """Columns that need no teacher, each (N,)."""
    logp_NV = view.logp_NV("student")
    return {
        "logp_student": logp_NV.gather(-1, view.token_N[:, None])[:, 0],
        "entropy_student": _entropy(logp_NV),
        "stop_student": logp_NV[:, stop_ids].exp().sum(-1),
    }


def teacher_columns(view: View, teacher: str, stop_ids: Tensor, support: Any = None) -> dict[str, Tensor]:
    """Columns that compare the student p with a teacher q over the same vocabulary, each (N,). `support` is the entry's own set of compared tokens;
    without one it is the teacher's top 16."""
    p_NV, q_NV = view.logp_NV("student"), view.logp_NV(teacher)
    size = q_NV.shape[-1]
    small, large = min(SMALL, max(size // 4, 1)), min(LARGE, max(size // 4, 1))
    best_p, best_q = p_NV.topk(large, -1).indices, q_NV.topk(large, -1).indices
    chosen = None if support is None else support.select(p_NV, q_NV, view.token_N)
    index_NK, valid_NK = chosen if chosen is not None else (best_q, torch.ones_like(best_q, dtype=torch.bool))
    terms_NV = q_NV.exp() * (q_NV - p_NV)
    whole_N = terms_NV.abs().sum(-1)
    two_N2 = q_NV.gather(-1, best_p[:, :small]).topk(min(2, small), -1).values
    return {
        "logp_teacher": q_NV.gather(-1, view.token_N[:, None])[:, 0],
        "entropy_teacher": _entropy(q_NV),
        "kl": kl_NV(p_NV, q_NV),
        "kl_forward": terms_NV.sum(-1),
        "overlap_k4": _shared(best_p[:, :small], best_q[:, :small]),
        "overlap_k16": _shared(best_p, best_q),
        "support_student_mass": _mass(p_NV, index_NK, valid_NK),
        "support_teacher_mass": _mass(q_NV, index_NK, valid_NK),
        "margin": two_N2[:, 0] - two_N2[:, -1],
        "tail_share": torch.where(whole_N > 0, (terms_NV.abs() * (q_NV.exp() < TAIL)).sum(-1) / whole_N.clamp(min=1e-30), torch.zeros_like(whole_N)),
        "stop_teacher": q_NV[:, stop_ids].exp().sum(-1),
        "routed_k4": routed(p_NV, best_q[:, :small], view.token_N),
        "best_agree": (best_p[:, 0] == best_q[:, 0]).float(),
        "best_of_teacher_student": p_NV.gather(-1, best_q[:, :1])[:, 0].exp(),
    }


def routed(p_NV: Tensor, best_NK: Tensor, token_N: Tensor) -> Tensor:
    """Share of the mass that a small step down on the written token y gives to others which reaches the teacher's best K, y left out:
    dp_j ~ p_j (p_j + p_y - sum p^2), positive parts only (catalogue D.9, exact to first order for a step on the logits)."""
    p_NV = p_NV.exp()
    written_N1 = p_NV.gather(-1, token_N[:, None])
    gain_NV = (p_NV * (p_NV + written_N1 - p_NV.square().sum(-1, keepdim=True))).clamp(min=0)
    gain_NV = gain_NV.scatter(-1, token_N[:, None], 0.0)
    total_N = gain_NV.sum(-1)
    return torch.where(total_N > 0, gain_NV.gather(-1, best_NK).sum(-1) / total_N.clamp(min=1e-30), torch.zeros_like(total_N))


def repeated(ids: list[int], n: int, times: int, window: int) -> list[bool]:
    """Of each token whether it lies in an n-gram that has by then begun `times` times within the last `window` tokens, itself counted."""
    found = [False] * len(ids)
    places: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(ids) - n + 1):
        seen = places.setdefault(tuple(ids[start : start + n]), [])
        seen.append(start)
        if sum(start - other < window for other in seen) >= times:
            found[start : start + n] = [True] * n
    return found


def _entropy(logp_NV: Tensor) -> Tensor:
    p_NV = logp_NV.exp()
    return -torch.where(p_NV > 0, p_NV * logp_NV, torch.zeros_like(p_NV)).sum(-1)


def _shared(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    return (one_NK[:, :, None] == other_NK[:, None, :]).any(-1).float().mean(-1)


def _mass(logp_NV: Tensor, index_NK: Tensor, valid_NK: Tensor) -> Tensor:
    return (logp_NV.gather(-1, index_NK).exp() * valid_NK).sum(-1)
