"""Further signals across tokenizers: a chunk's log-ratio shared among its tokens, and states drawn together where both have read the same text.

Notation as in `reference_cross`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Terms
from .fixture_cross import STUDENT, TEACHER
from .numerics import Array
from .reference_cross import rows
from .reference_cross_pairs import Pair, same_bytes
from .reference_opd_policy import clipped


def shared_advantage(fixture: Fixture, *, longest: int = 6, clamp: float = 10.0) -> Array:
    """A_i = (L_T / L_S - 1) log p_i in each shortest chunk of equal text, held within 10; 0 in chunks longer than six tokens on a side, (B, T)."""
    stream = fixture["main"]
    found_BT = np.zeros(stream.mask_BT.shape)
    for i, row in enumerate(rows(fixture, "main", stream.logits["old"])):
        for pair in same_bytes(*row.words):
            own, their = row.chance(pair)
            for t in pair[0] if max(len(pair[0]), len(pair[1])) <= longest else ():
                found_BT[i, t] = np.clip((their / own - 1.0) * row.q[t, row.mine[t]], -clamp, clamp)
    return found_BT


def btb(fixture: Fixture, *, longest: int = 6) -> Loss:
    """PPO's surrogate of that advantage, clip 0.2 / 0.28, token mean (2606.09456, code); no whitening, no KL. Dual clip left out (entry)."""
    stream = fixture["main"]
    advantage_BT = shared_advantage(fixture, longest=longest)

    def loss(student: Mapping[str, Array]) -> Terms:
        value_BT = clipped(stream, student["main"], advantage_BT, 0.2, 0.28)
        return {"policy": float(value_BT[stream.mask_BT].sum() / stream.mask_BT.sum())}

    return loss


def ends(fixture: Fixture) -> list[tuple[int, Pair]]:
    """The row and the last places of each pair of spans of equal text."""
    stream = fixture["main"]
    found = []
    for i, row in enumerate(rows(fixture, "main", stream.logits["old"])):
        found += [(i, pair) for pair in same_bytes([STUDENT[k] for k in row.mine], [TEACHER[k] for k in row.theirs])]
    return found


def oprd_bridge(fixture: Fixture, student_LBTH: Array, teacher_LBUH: Array, map_LHH: Array) -> float:
    """mean over layers and places of |M h/|M h| - t/|t||^2, both states behind the last token of a span (2606.06021, code's form).

    M is a learned map to the teacher's width (entry), in place of fitted principal components.
    """
    total = []
    for h, t, m in zip(student_LBTH, teacher_LBUH, map_LHH, strict=True):
        for i, (mine, theirs) in ends(fixture):
            mapped, target = m @ h[i, mine[-1]], t[i, theirs[-1]]
            total.append(((mapped / np.linalg.norm(mapped) - target / np.linalg.norm(target)) ** 2).sum())
    return float(np.mean(total))
