"""What a check says, and from a number to its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from zoo.components.base import Strict
from zoo.errors import ZooError
from zoo.failures.catalogue import load_catalogue
from zoo.failures.detecting import detect
from zoo.failures.logs import RunLogs
from zoo.yamlio import read_yaml

Level = Literal["ok", "amber", "red", "not measured"]
_RANK: dict[Level, int] = {"not measured": 0, "ok": 1, "amber": 2, "red": 3}


class Limit(Strict):
    """One check's limits, as data."""

    amber: float
    red: float
    high: bool
    source: str
    remedy: str

    def level(self, value: float) -> Level:
        """The verdict on a number; NaN is not measured."""
        if math.isnan(value):
            return "not measured"
        sign = 1.0 if self.high else -1.0
        if sign * value > sign * self.red:
            return "red"
        return "amber" if sign * value > sign * self.amber else "ok"


@cache
def limits() -> dict[str, Limit]:
    """All limits by check."""
    data, _ = read_yaml(Path(__file__).with_name("limits.yaml"))
    return {name: Limit.model_validate(dict(found)) for name, found in data.items()}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `says` in a line what was found, `remedy` what to do (for amber and red), `failure_mode` whose catalogue page
    explains it."""

    group: str
    name: str
    level: Level
    says: str
    value: float | None = None
    remedy: str = ""
    failure_mode: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        value = None if self.value is None or not math.isfinite(self.value) else self.value
        return {"group": self.group, "check": self.name, "level": self.level, "value": value, "says": self.says, "remedy": self.remedy,
                "failure_mode": self.failure_mode}  # fmt: skip


def by_limit(group: str, name: str, key: str, value: float, says: str, failure_mode: str | None = None) -> Check:
    """A check of one number against `limits.yaml`."""
    limit = limits()[key]
    level = limit.level(value)
    return Check(group, name, level, says, value, limit.remedy if level in ("amber", "red") else "", failure_mode)


def by_detector(group: str, name: str, mode: str, probes: Mapping[str, Any], reasons: Mapping[str, str] = {}) -> Check:
    """A check that is a detector of the catalogue, asked about one look; `reasons` say why a probe was not taken."""
    failure_mode = load_catalogue()[mode]
    found = detect(RunLogs(probes=probes), failure_mode)
    level: Level = {"silent": "ok", "not_measured": "not measured"}.get(found.level, found.level)  # type: ignore[assignment]
    says = found.reason
    if level == "not measured":
        says = next((reasons[need.split(".")[1]] for need in failure_mode.needs if need.split(".")[1] in reasons), says)
    return Check(group, name, level, says, found.value, failure_mode.remedy if level in ("amber", "red") else "", mode)


def missing(group: str, name: str, reason: str, failure_mode: str | None = None) -> Check:
    """A check that could not be made."""
    return Check(group, name, "not measured", reason, failure_mode=failure_mode)


def verdict(checks: list[Check]) -> Level:
    """The worst of all checks; not measured only where nothing was."""
    if not checks:
        raise ZooError("no check was asked for")
    return max((check.level for check in checks), key=_RANK.__getitem__)
