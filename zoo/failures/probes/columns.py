"""The student's answers token by token, as student and teacher see them: one pass of each model, shared by all that reads it in a look."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.failures.probes.scene import Reader, Scene, Seen

TOP = 4  # tokens on each side whose overlap is counted, and among which the teacher's margin is read

Columns = dict[str, NDArray[Any]]


def columns(scene: Scene, teacher: Reader) -> Columns:
    """One entry a token of `scene.answers()`: `row` (answer), `position`, `token`, `logp` and `logq` of the written token, `top_student` (the
    student's largest probability), `overlap` (share of common tokens among both sides' top 4), `entropy_student`, `entropy_teacher` (nats), `margin`
    (the teacher's log-probability of its best less its second among the student's top 4)."""
    found: Columns = scene.kept(("columns", teacher.name), lambda: _columns(scene, teacher))
    return found


def _columns(scene: Scene, teacher: Reader) -> Columns:
    parts: dict[str, list[torch.Tensor]] = {}
    for seen in scene.laws({"student": scene.student, "teacher": teacher}, scene.answers()):
        for name, value_N in _of_chunk(seen).items():
            parts.setdefault(name, []).append(value_N.cpu())
    return {name: torch.cat(each).numpy() for name, each in parts.items()}


def _of_chunk(seen: Seen) -> dict[str, torch.Tensor]:
    p_NV, q_NV = seen.logp["student"], seen.logp["teacher"]
    k = min(TOP, p_NV.shape[-1])
    mine_NK, theirs_NK = p_NV.topk(k, dim=-1).indices, q_NV.topk(k, dim=-1).indices
    best_NK = q_NV.gather(-1, mine_NK).topk(min(2, k), dim=-1).values
    return {
        "row": seen.row_N, "position": seen.position_N, "token": seen.token_N, "logp": seen.written_N("student").double(),
        "logq": seen.written_N("teacher").double(), "top_student": p_NV.amax(-1).exp().double(),
        "overlap": (mine_NK[:, :, None] == theirs_NK[:, None, :]).any(-1).double().mean(-1), "entropy_student": -(p_NV.exp() * p_NV).sum(-1).double(),
        "entropy_teacher": -(q_NV.exp() * q_NV).sum(-1).double(), "margin": (best_NK[:, 0] - best_NK[:, -1]).double(),
    }  # fmt: skip


def special_share(scene: Scene, found: Columns) -> tuple[float, float]:
    """Special tokens' share of the sum of |log q - log p|, and of the tokens."""
    gap, special = np.abs(found["logq"] - found["logp"]), np.isin(found["token"], sorted(scene.special))
    return float(gap[special].sum() / max(gap.sum(), 1e-12)), float(special.mean()) if len(special) else 0.0
