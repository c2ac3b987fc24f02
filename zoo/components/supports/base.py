"""What every support is, what becomes of the mass outside it, and how two distributions are cut to it.

Mass handling follows the catalogue's D.11 and its corrections: `raw` leaks, `renormalise` frees the total, `detach` and
`tail_bucket` restore it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from zoo.components.base import Component, Slot, component

ABSENT = -1e30  # stands for log 0 where -inf would turn a gradient into NaN


class Mass(Component):
    """What to do with the probability outside the support."""

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        """The two sets of log-probabilities to compare."""
        return student_logp_NK, teacher_logp_NK


@component("mass")
class Raw(Mass):
    """Leave both as they are. For a reverse KL this moves mass off the support (D.11), so it has to be asked for."""

    kind: Literal["raw"] = "raw"


@component("mass")
class Detach(Mass):
    """Leave both as they are and stop the gradient of the log-ratio (reverse KL only)."""

    kind: Literal["detach"] = "detach"


@component("mass")
class Renormalise(Mass):
    """Make the teacher, or both sides, sum to one on the support."""

    kind: Literal["renormalise"] = "renormalise"
    shorthand = "side"
    side: Literal["teacher", "both"]

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        teacher_logp_NK = teacher_logp_NK.log_softmax(-1)
        return (student_logp_NK.log_softmax(-1) if self.side == "both" else student_logp_NK), teacher_logp_NK


@component("mass")
class TailBucket(Mass):
    """Add one entry that holds all the mass outside the support; the result is a lower bound of the full divergence."""

    kind: Literal["tail_bucket"] = "tail_bucket"

    def apply(self, student_logp_NK: Tensor, teacher_logp_NK: Tensor) -> tuple[Tensor, Tensor]:
        return self._with_tail(student_logp_NK), self._with_tail(teacher_logp_NK)

    @staticmethod
    def _with_tail(logp_NK: Tensor) -> Tensor:
        # The clamp keeps log(1 - P_S) finite where rounding takes P_S to 1; there the bucket has no gradient.
        total_N1 = logp_NK.logsumexp(-1, keepdim=True).exp().clamp(max=1.0 - 1e-7)
        return torch.cat([logp_NK, torch.log1p(-total_N1)], -1)


class Support(Component):
    """Base of all supports; `routing` is the coordinate it gives to a direct loss, `truncated` whether mass is left out."""

    routing: ClassVar[str]
    truncated: ClassVar[bool] = True

    def select(self, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor] | None:
        """Vocabulary indices (N, K) and which of them count (N, K); None for the whole vocabulary."""
        raise NotImplementedError


class Truncated(Support):
    """Supports that leave entries out; `mass` says what becomes of them, `with_sampled` adds the written token."""

    mass: Annotated[Mass, Slot("mass")] | None = None
    with_sampled: bool = False

    def finish(self, index_NK: Tensor, valid_NK: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        """Append the written token where it is not in the support yet, if asked."""
        if not self.with_sampled:
            return index_NK, valid_NK
        missing_N1 = ~((index_NK == token_N[:, None]) & valid_NK).any(-1, keepdim=True)
        return torch.cat([index_NK, token_N[:, None]], -1), torch.cat([valid_NK, missing_N1], -1)


def restrict(support: Support, student_logp_NV: Tensor, teacher_logp_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides' log-probabilities on the support, after its mass handling; absent entries hold `ABSENT` on both sides."""
    chosen = support.select(student_logp_NV, teacher_logp_NV, token_N)
    if chosen is None:
        return student_logp_NV, teacher_logp_NV
    index_NK, valid_NK = chosen
    student_NK = student_logp_NV.gather(-1, index_NK).masked_fill(~valid_NK, ABSENT)
    teacher_NK = teacher_logp_NV.gather(-1, index_NK).masked_fill(~valid_NK, ABSENT)
    mass = getattr(support, "mass", None)
    if mass is None:
        return student_NK, teacher_NK
    student_NK, teacher_NK = mass.apply(student_NK, teacher_NK)
    # Where nothing is on the support, renormalising makes absent entries of it.
    present_NK = torch.nn.functional.pad(valid_NK, (0, student_NK.shape[-1] - valid_NK.shape[-1]), value=True)
    return student_NK.masked_fill(~present_NK, ABSENT), teacher_NK.masked_fill(~present_NK, ABSENT)
