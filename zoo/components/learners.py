"""Learners: what is trained beside the student, with an objective and an optimizer of its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zoo.components.base import Component, component


class Learner(Component):
    """Base of all learners."""


@component("learner")
class ValueHead(Learner):
    """A linear critic on the student's last hidden state, without gradient into the student; it regresses the returns that
    the credit's advantages imply (advantage + value)."""

    kind: Literal["value_head"] = "value_head"
    learning_rate: float = Field(1e-3, gt=0)


@component("learner")
class Projector(Learner):
    """Linear maps from the student's hidden states to a teacher's, one for each layer that a representation term reads; trained by that
    term's own loss."""

    kind: Literal["projector"] = "projector"
    learning_rate: float = Field(5e-4, gt=0)
