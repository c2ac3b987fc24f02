"""What an entry is: a method, or an analysis of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

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

RUNS = ("rollouts", "teachers", "rewards", "learners", "objective", "coordinates", "fixed_point", "anchor")
ANALYSIS = {"executable": False, "blocked_by": "an analysis of other methods, with nothing of its own to train"}


class MethodEntry(Strict):
    """One method: who writes the tokens, who judges them, and an objective that is a sum of terms.

    An analysis (`kind: analysis`) has findings in place of an objective; it is listed and shown, never run. A method that cannot run here
    (`executable: false`, `blocked_by`) may lack the objective, where not even its core can be written.
    """

    id: EntryId
    name: str
    kind: Literal["method", "analysis"] = "method"
    scope: Literal["text", "multimodal", "diffusion", "system"] = "text"
    paper: Paper
    surveys: tuple[Literal["A", "B"], ...] = ()
    survey_leaf: str | None = None
    variant_of: str | None = None
    identical_core_to: str | None = None
    evidence: Evidence
    coordinates: Coordinates | None = None
    survey_coordinates: dict[Literal["A", "B"], SurveyCoordinates] = {}
    survey_disagreement: dict[Literal["A", "B"], str] = {}
    fixed_point: FixedPoint | None = None
    lab_metric: Literal["own_loss", "kl_to_teacher", "expected_reward", "none"] = "own_loss"
    lab_reason: str | None = None
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
    findings: tuple[str, ...] = ()
    reproduce_with: Reproduction | None = None
    notes: str | None = None
    anchor: Literal["student", "teacher", "trained"] | None = None
    executable: bool = True
    blocked_by: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _analyses_never_run(cls, data: Any) -> Any:
        return {**ANALYSIS, **data} if isinstance(data, Mapping) and data.get("kind") == "analysis" else data

    @model_validator(mode="after")
    def _complete(self) -> MethodEntry:
        if self.executable != (self.blocked_by is None):
            raise ValueError("executable: false needs blocked_by with the reason, and an executable entry has none")
        if self.kind == "analysis":
            return self._analysis()
        if (self.lab_metric == "none") != (self.lab_reason is not None):
            raise ValueError("lab_metric: none needs lab_reason (why no number falls), and any other metric has none")
        if self.findings or self.reproduce_with:
            raise ValueError("findings and reproduce_with belong to kind: analysis; a method has reported and notes")
        if self.anchor in ("student", "teacher"):
            if self.objective or self.rollouts:
                raise ValueError(f"the anchor '{self.anchor}' is not trained, so it has neither objective nor rollouts")
        elif self.executable or self.objective or self.rollouts:
            self._runs()
        elif self.coordinates is not None:
            raise ValueError("coordinates follow from an objective, and there is none; keep what the surveys print under survey_coordinates")
        return self

    def _runs(self) -> None:
        if not self.rollouts:
            raise ValueError("rollout (or rollouts) is required and missing: who writes the tokens")
        if not self.objective:
            raise ValueError("objective is required and missing: a list of terms")
        if self.fixed_point is None:
            raise ValueError("fixed_point is required and missing: teacher, none or 'tilted: <formula>'")
        if self.coordinates is None and self.anchor is None:
            raise ValueError("coordinates are required; write the ones that `zoo check` derives")

    def _analysis(self) -> MethodEntry:
        runs = [name for name in RUNS if getattr(self, name)] or ["executable: true"] * self.executable
        if runs:
            raise ValueError(f"an analysis is never run, so it has no {runs[0]}; name the entries that show its finding under reproduce_with")
        if not self.findings or self.reproduce_with is None:
            raise ValueError("an analysis needs findings (a list) and reproduce_with (entries, commands or detectors that show them here)")
        return self
