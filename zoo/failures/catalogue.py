"""The catalogue of failure modes: `registry/failure_modes/FMxx.yaml`, one file each, thresholds as data with their source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zoo.components.base import Strict
from zoo.errors import suggest
from zoo.paths import data_root
from zoo.yamlio import load_declared

Cause = Literal["harness", "tokens", "estimator", "pair", "signal", "states", "symptom", "cost"]  # in the order of triage
When = Literal["static", "preflight", "training", "evaluation"]
TABLES = ("steps", "rollouts", "tokens", "curve", "probes", "info")


class Threshold(Strict):
    """Where an alarm fires. `source` says whose number it is; `was` keeps the number or rule that a recalibration replaced."""

    amber: float | None = None
    red: float | None = None
    source: str = Field(min_length=1)
    was: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Threshold:
        if self.amber is None and self.red is None:
            raise ValueError("give amber, red or both")
        return self


class FailureMode(Strict):
    """One failure mode. `metric` is the formula as the detector computes it; `needs` are the columns without which nothing can be said
    (`tokens.kl`, `steps.loss.*`, `probes.rescue.gain`, `info.pair`); `constants` are numbers of the metric that are no thresholds."""

    id: str = Field(pattern=r"^FM\d\d$")
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    cause: Cause
    when: When
    symptom: str
    mechanism: str
    metric: str
    thresholds: dict[str, Threshold] = Field(min_length=1)
    constants: dict[str, float] = {}
    needs: tuple[Annotated[str, Field(pattern=r"^[a-z]+\.\S+$")], ...] = ()
    remedy: str
    exposed: str
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_tables(self) -> FailureMode:
        for need in self.needs:
            table = need.split(".")[0]
            if table not in TABLES:
                raise ValueError(f"needs: '{need}' names no table of the logs{suggest(table, TABLES)}")
        clash = set(self.thresholds) & set(self.constants)
        if clash:
            raise ValueError(f"constants: '{min(clash)}' is a threshold as well; rename one")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Thresholds and constants as detectors read them: `ess.amber`, `ess.red`, `tokens`."""
        found = dict(self.constants)
        for name, threshold in self.thresholds.items():
            for level in ("amber", "red"):
                if (value := getattr(threshold, level)) is not None:
                    found[f"{name}.{level}"] = value
        return found


def folder() -> Path:
    """Where the catalogue lies."""
    return data_root() / "registry" / "failure_modes"


def load_failure_mode(name: str | Path) -> FailureMode:
    """One failure mode by id, or from a YAML file.

    Raises:
        ZooError: no such mode, a mistake in its file, or a file whose name is not its id.
    """
    return load_declared(FailureMode, "failure_mode", name)


@cache
def load_catalogue() -> dict[str, FailureMode]:
    """All failure modes by id.

    Raises:
        ZooError: a mistake in a file.
    """
    return {file.stem: load_failure_mode(file) for file in sorted(folder().glob("FM*.yaml"))}
