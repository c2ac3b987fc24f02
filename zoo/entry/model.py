"""What an entry is: a method, or an analysis of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import zoo.components  # noqa: F401  registers all components
from zoo.components.base import Slot, Strict
from zoo.components.learners import Learner
from zoo.components.rewards import Reward
from zoo.components.rollouts import Stream
from zoo.components.teachers import Teacher
from zoo.components.terms.base import Term
from zoo.components.updates import AdamW, Update
from zoo.coordinates import Coordinates
from zoo.entry.fields import Deviation, EntryId, Evidence, FailureMode, FixedPoint, Paper, Reported, Reproduction, SurveyCoordinates

ANALYSIS = {"executable": False, "blocked_by": "an analysis of other methods, with nothing of its own to train"}


class MethodEntry(Strict):
    """One method: who writes the tokens, who judges them, and an objective that is a sum of terms."""

    id: EntryId
    name: str
    paper: Paper
    surveys: tuple[Literal["A", "B"], ...] = ()
    survey_leaf: str | None = None
    variant_of: str | None = None
    identical_core_to: str | None = None
    evidence: Evidence
    coordinates: Coordinates | None = None
    survey_coordinates: dict[Literal["A", "B"], SurveyCoordinates] = {}
    survey_disagreement: dict[Literal["A", "B"], str] = {}
    fixed_point: FixedPoint
    rollouts: dict[str, Annotated[Stream, Slot("rollout")]] = {}
    teachers: dict[str, Annotated[Teacher, Slot("teacher")]] = {}
    rewards: dict[str, Annotated[Reward, Slot("reward")]] = {}
    learners: dict[str, Annotated[Learner, Slot("learner")]] = {}
    objective: tuple[Annotated[Term, Slot("term")], ...] = ()
    update: Annotated[Update, Slot("update")] = AdamW()
    published: dict[str, Any] = {}
    deviations: tuple[Deviation, ...] = ()
    reported: tuple[Reported, ...] = ()
    known_failures: tuple[FailureMode, ...] = ()
    notes: str | None = None
    anchor: Literal["student", "teacher", "trained"] | None = None
    executable: bool = True
    blocked_by: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> MethodEntry:
        if self.executable != (self.blocked_by is None):
            raise ValueError("executable: false needs blocked_by with the reason, and an executable entry has none")
        if self.anchor in ("student", "teacher"):
            if self.objective or self.rollouts:
                raise ValueError(f"the anchor '{self.anchor}' is not trained, so it has neither objective nor rollouts")
        elif not self.rollouts:
            raise ValueError("rollout (or rollouts) is required and missing: who writes the tokens")
        elif not self.objective:
            raise ValueError("objective is required and missing: a list of terms")
        elif self.coordinates is None and self.anchor is None:
            raise ValueError("coordinates are required; write the ones that `zoo check` derives")
        return self
