"""What each record file holds, as typed, frozen models. Unknown extra keys are kept: old readers can read newer records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from zoo.errors import ZooError, suggest

Status = Literal["success", "diverged", "oom", "timeout", "error", "cancelled", "orphaned"]
Family = Literal["in_distribution", "out_of_distribution", "retention"]
MEAN_TOLERANCE = 1e-6


def _plain_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"'{name}' cannot name a folder; use letters, digits, '-' and '_'")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    version: Literal[1] = Field(alias="schema")
    uuid: Name


class Budget(BaseModel):
    """`asked` and `spent` in the comparison's unit; `spent` also counts everything else that was used up."""

    model_config = ConfigDict(frozen=True, extra="allow")

    unit: str
    asked: int
    spent: dict[str, float | None]


class Failure(BaseModel):
    """Why a run ended early: the exception's type and one line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    message: str


class Evidence(BaseModel):
    """How well the entry's objective is supported: by official code, the paper's text, its abstract, or inference."""

    model_config = ConfigDict(frozen=True, extra="allow")

    level: Literal["code", "paper_text", "abstract", "inferred"]
    source: str = ""


class Run(_Content):
    """One attempt to train one method with one seed; the anchors `student` and `teacher` are runs that train nothing."""

    kind: Literal["run"]
    run_key: str
    created: AwareDatetime
    status: Status
    comparison: Name
    method: Name
    pair: str
    seed: int
    asked: dict[str, Any]
    resolved: dict[str, Any]
    entry_digest: str | None
    budget: Budget
    phases: dict[str, dict[str, float | None]]
    final: dict[str, float | None]
    error: Failure | None
    weights_note: str | None
    provenance: dict[str, Any]
    evidence: Evidence | None = None


class TaskResult(BaseModel):
    """One task's scores: every metric and filter, and the headline's score on each item, [doc_id, score] each."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    family: Family
    headline: str
    metrics: dict[str, float | None]
    n: int = Field(gt=0)
    truncated_share: Annotated[float, Field(ge=0, le=1)] | None
    mean_length: float | None
    items: list[tuple[int | str, float]]

    @model_validator(mode="after")
    def _agrees_with_its_items(self) -> Self:
        if self.metrics.get(self.headline) is None:
            raise ValueError(f"the headline '{self.headline}' has no value among the metrics{suggest(self.headline, self.metrics)}")
        if len(self.items) != self.n or len(dict(self.items)) != self.n:
            raise ValueError(f"n is {self.n}, but there are {len(self.items)} items with {len(dict(self.items))} different doc ids")
        mean = sum(score for _, score in self.items) / self.n
        if abs(mean - self.score) > MEAN_TOLERANCE:
            raise ValueError(f"the headline says {self.score:.6f}, but the mean of its items is {mean:.6f}")
        return self

    @property
    def score(self) -> float:
        """The headline's value."""
        value = self.metrics[self.headline]
        assert value is not None
        return value


class Eval(_Content):
    """One suite evaluated on one model; `uuid` and `run_key` are those of the run it belongs to."""

    kind: Literal["eval"]
    run_key: str
    comparison: Name
    method: Name
    pair: str
    seed: int
    suite: Name
    suite_digest: str
    model: Literal["student", "teacher", "trained"]
    batch_size: int
    lm_eval_version: str
    tasks: dict[str, TaskResult] = Field(min_length=1)


class Event(_Content):
    """A later correction of the attempt `target`; `by` is the attempt that supersedes it."""

    kind: Literal["event"]
    created: AwareDatetime
    action: Literal["supersede", "invalidate", "annotate"]
    target: Name
    reason: str = Field(min_length=1)
    by: Name | None

    @model_validator(mode="after")
    def _names_a_replacement_where_due(self) -> Self:
        if (self.action == "supersede") != (self.by is not None):
            raise ValueError("`by` names the replacing attempt of a `supersede` event, and is null for the other actions")
        return self


class ProvocationRun(_Content):
    """One toy run made to show a failure mode, its control, or a healthy one (`failure_mode` null): what every detector said, as
    [level, value, first step, reason], and the accuracy on the validation prompts as [step, share]."""

    kind: Literal["provocation"]
    run_key: str
    created: AwareDatetime
    comparison: Name
    method: Name
    failure_mode: str | None
    arm: Literal["provocation", "control", "healthy"]
    seed: int
    pair: str
    status: Literal["success", "diverged"]
    error: str | None
    accuracy: list[tuple[int, float]]
    prompts: int
    spent: dict[str, int]
    seconds: float
    findings: dict[str, tuple[Literal["silent", "amber", "red", "not_measured"], float | None, int | None, str]]
    provenance: dict[str, Any]


class Failures(_Content):
    """What every detector said of one attempt, by failure mode, as [level, value, first step, reason]; the evidence lies in the logs."""

    kind: Literal["failures"]
    run_key: str
    comparison: Name
    method: Name
    seed: int
    findings: dict[str, tuple[Literal["silent", "amber", "red", "not_measured"], float | None, int | None, str]] = Field(min_length=1)


class Curve(_Content):
    """At most 40 steps of one attempt: the columns' names, and one list of numbers for each step."""

    kind: Literal["curve"]
    run_key: str
    comparison: Name
    method: Name
    seed: int
    columns: list[str] = Field(min_length=1)
    points: list[list[float | None]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if any(len(point) != len(self.columns) for point in self.points):
            raise ValueError(f"every point should have {len(self.columns)} numbers, one for each column")
        return self


Content = type[Run] | type[Eval] | type[Event] | type[ProvocationRun] | type[Failures] | type[Curve]
PLAIN: dict[str, Content] = {"run.json": Run, "provocation.json": ProvocationRun, "failures.json": Failures, "curve.json": Curve}


def content_type(name: str, path: Path) -> Content:
    """The model that a record's file name calls for."""
    if name in PLAIN:
        return PLAIN[name]
    for prefix, kind in (("eval-", Eval), ("event-", Event)):
        if name.startswith(prefix) and name.endswith(".json"):
            return kind
    raise ZooError(f"{path}: not a record's name; use run.json, eval-<suite>.json, failures.json, curve.json or event-<uuid>.json")
