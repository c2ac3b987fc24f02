"""Learners: what is trained beside the student, with an objective and an optimizer of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zoo.components.base import Component, Slot, component


class Learner(Component):
    """Base of all learners."""


@component("learner")
class ValueHead(Learner):
    """A linear critic on the student's last hidden state, without gradient into the student; it regresses the returns that
    the credit's advantages imply (advantage + value)."""

    kind: Literal["value_head"] = "value_head"
    learning_rate: float = Field(1e-3, gt=0)


@component("learner")
class Peer(Learner):
    """A copy of one of the pair's models that learns beside the student, on the same sequences, by terms of its own. In these `student` is
    the learner itself and `pupil` the entry's student, as it is now."""

    kind: Literal["peer"] = "peer"
    model: str = "teacher"
    objective: tuple[Annotated[Any, Slot("term")], ...] = Field(min_length=1)
    learning_rate: float = Field(1e-3, gt=0)


@component("learner")
class TeacherAdapter(Learner):
    """A low-rank module on one of the pair's models, whose own weights stay (2106.09685; peft, optional extra `peft`); its terms are written
    as those of a peer."""

    kind: Literal["adapter"] = "adapter"
    model: str = "teacher"
    objective: tuple[Annotated[Any, Slot("term")], ...] = Field(min_length=1)
    learning_rate: float = Field(1e-3, gt=0)
    module: Annotated[Any, Slot("adapter")]


@component("learner")
class Projector(Learner):
    """Linear maps from the student's hidden states to a teacher's, one for each layer that a representation term reads; trained by that
    term's own loss."""

    kind: Literal["projector"] = "projector"
    learning_rate: float = Field(5e-4, gt=0)
