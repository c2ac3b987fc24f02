"""The documented parts of an entry: where the method was published, how solid its formula is, what we do differently."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from zoo.components.base import Strict, Text
from zoo.coordinates import Access, Granularity, Signal
from zoo.errors import in_yaml


def _quoted(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Identifiers have five digits after the dot since January 2015, and YAML has dropped the trailing zeros.
        written = f"{value:.{5 if value >= 1501 else 4}f}"
        raise PydanticCustomError("text", 'is a number; quote it: "{written}"', {"written": written})
    return value


def _figure(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("text", "should be a number or text, not {got}", {"got": in_yaml(value)})
    return value


ArxivId = Annotated[str, Text(r"\d{4}\.\d{4,5}", 'an arXiv id like "2306.13649"'), BeforeValidator(_quoted)]
EntryId = Annotated[str, Text(r"[a-z][a-z0-9_]*", "lower-case letters, digits and underscores, a letter first")]
FixedPoint = Annotated[str, Text(r"teacher|none|tilted: .+", "teacher, none or 'tilted: <formula>'")]
FailureMode = Annotated[str, Text(r"FM\d\d", "a failure mode of the catalogue, FM01 to FM29")]
Figure = Annotated[float | str, BeforeValidator(_figure)]


class Paper(Strict):
    """Where the method was published. `part` tells entries of one paper apart."""

    arxiv: ArxivId | None = None
    year: int | None = None
    first_author: str | None = None
    venue: str | None = None
    url: str | None = None
    part: str | None = None


class Evidence(Strict):
    """How solid the formula is, and where it was read."""

    level: Literal["code", "paper_text", "abstract", "inferred"]
    source: str


class SurveyCoordinates(Strict):
    """What a survey printed, one value each; null where it printed none."""

    feedback_signal: Signal | None = None
    teacher_access: Access | None = None
    loss_granularity: Granularity | None = None


class Deviation(Strict):
    """One difference between the paper and this entry."""

    field: str
    paper: Any
    ours: Any
    reason: str


class Reported(Strict):
    """A figure of the paper itself, with its setting; never mixed with ours."""

    setting: str
    metric: str
    value: Figure
    source: str


class Reproduction(Strict):
    """What the zoo offers to see an analysis' finding again: entries to run, commands, and the detectors that should fire."""

    entries: tuple[EntryId, ...] = ()
    commands: tuple[Annotated[str, Text(r"zoo .+", "a command of this package, 'zoo ...'")], ...] = ()
    detectors: tuple[FailureMode, ...] = ()
    missing: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Reproduction:
        if not (self.entries or self.commands or self.detectors or self.missing):
            raise ValueError("names nothing; give entries, commands or detectors, or say under missing what the zoo lacks")
        return self
