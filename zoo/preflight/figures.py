"""Token by token, the student's answers as both sides see them: overlap, log-ratios, entropies, margins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zoo.failures.probes.scene import Reader, Scene, Seen, Texts

TOP = 4  # tokens on each side whose overlap is counted, and among which the teacher's margin is read
LONG = 10.0  # a log-ratio beyond this is a tail


@dataclass(frozen=True)
class Figures:
    """Means over the tokens of the student's answers: share of common tokens among both sides' top 4; quantiles of A = log q - log p and the share of
    |A| > 10; entropies of student and teacher; the teacher's -log q of these tokens and of its own; the teacher's margin log q_(1) - log q_(2)
    among the student's top 4, in the first and in the second half of the answers, at tokens where the student is not sure."""

    tokens: int
    overlap: float
    ratio: tuple[float, float, float]
    tails: float
    entropy_student: float
    entropy_teacher: float
    surprise: float
    surprise_own: float
    margin_first: float
    margin_second: float

    @property
    def margin(self) -> float:
        """The late margin over the early one; NaN where a half has no undecided token."""
        return self.margin_second / self.margin_first if self.margin_first > 0 else float("nan")


def figures(scene: Scene, teacher: Reader, own: Texts) -> Figures:
    """From the scene's answers, and the teacher's own."""
    length = [max(len(ids), 1) for ids in scene.answers().ids]
    columns: dict[str, list[torch.Tensor]] = {}
    for seen in scene.laws({"student": scene.student, "teacher": teacher}, scene.answers()):
        for name, value_N in _columns(seen, length).items():
            columns.setdefault(name, []).append(value_N.double().cpu())
    found = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
    surprise = [-seen.written_N("teacher").double().cpu() for seen in scene.laws({"teacher": teacher}, own)]
    unsure, late = found["top_student"] < 0.98, found["place"] >= 0.5
    low, middle, high = np.quantile(found["ratio"], [0.01, 0.5, 0.99])
    return Figures(
        len(found["ratio"]), float(found["overlap"].mean()), (float(low), float(middle), float(high)), float((np.abs(found["ratio"]) > LONG).mean()),
        float(found["entropy_student"].mean()), float(found["entropy_teacher"].mean()), float(-found["logq"].mean()), float(torch.cat(surprise).mean()),
        _mean(found["margin"][unsure & ~late]), _mean(found["margin"][unsure & late]),
    )  # fmt: skip


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _columns(seen: Seen, length: list[int]) -> dict[str, torch.Tensor]:
    """Each figure at each token of a chunk."""
    p_NV, q_NV = seen.logp["student"], seen.logp["teacher"]
    k = min(TOP, p_NV.shape[-1])
    mine_NK, theirs_NK = p_NV.topk(k, dim=-1).indices, q_NV.topk(k, dim=-1).indices
    common_N = (mine_NK[:, :, None] == theirs_NK[:, None, :]).any(-1).double().mean(-1)
    best_NK = q_NV.gather(-1, mine_NK).topk(min(2, k), dim=-1).values
    whole_N = torch.tensor([length[row] for row in seen.row_N.tolist()], device=p_NV.device)
    return {
        "overlap": common_N, "ratio": seen.written_N("teacher") - seen.written_N("student"), "logq": seen.written_N("teacher"),
        "entropy_student": -(p_NV.exp() * p_NV).sum(-1), "entropy_teacher": -(q_NV.exp() * q_NV).sum(-1), "top_student": p_NV.amax(-1).exp(),
        "margin": best_NK[:, 0] - best_NK[:, -1], "place": seen.position_N.double() / whole_N,
    }  # fmt: skip
