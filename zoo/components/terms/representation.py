"""Terms on hidden states: the student's towards a teacher's, at the visited states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from zoo.components.base import component
from zoo.components.terms.base import TokenTerm
from zoo.statistics import View


@component("term")
class RepresentationTerm(TokenTerm):
    """(1/L) sum over the chosen layers of d(h_S, h_T) for each token, teacher fixed; a teacher of another depth is read at like shares of it.

    `mse` is |h_S - h_T|^2 / H, the mean over coordinates (UniSD 2605.06597), `normalised_mse` |h_S - h_T|^2 of both at length 1, a sum (the code of
    OPRD 2606.06021), `cosine` 1 - cos.
    `projector` names a learner that maps the student's states to the teacher's width first. The last layer is read after the final norm.
    """

    term: Literal["representation"] = "representation"
    teacher: str = "teacher"
    layers: Literal["all", "odd", "even", "last"] = "last"
    distance: Literal["mse", "normalised_mse", "cosine"] = "mse"
    projector: str | None = None

    def update_scorers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def token_loss(self, view: View, columns_N: Mapping[str, Tensor]) -> Tensor:
        losses = []
        for place, (student_NH, teacher_NH) in enumerate(zip(view.states("student", self.layers), view.states(self.teacher, self.layers), strict=True)):
            mapped_NH = student_NH if self.projector is None else view.projected(self.projector, student_NH, place)
            losses.append(self._apart(mapped_NH, teacher_NH.detach()))
        return torch.stack(losses).mean(0)

    def _apart(self, student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1.0 - torch.nn.functional.cosine_similarity(student_NH, teacher_NH, dim=-1)
        if self.distance == "mse":
            return (student_NH - teacher_NH).square().mean(-1)
        student_NH, teacher_NH = (torch.nn.functional.normalize(h, dim=-1) for h in (student_NH, teacher_NH))
        return (student_NH - teacher_NH).square().sum(-1)
