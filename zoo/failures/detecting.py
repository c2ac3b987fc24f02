"""The detectors by failure mode, and how they are asked."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

from zoo.errors import ZooError
from zoo.failures.catalogue import FailureMode, load_catalogue
from zoo.failures.finding import Finding
from zoo.failures.levels import Limits
from zoo.failures.logs import NotMeasured, RunLogs

Detector = Callable[[RunLogs, Limits], Finding]
_DETECTORS: dict[str, Detector] = {}


def detector(failure_mode: str) -> Callable[[Detector], Detector]:
    """Register a pure function `(logs, limits) -> Finding` as the detector of a failure mode.

    Raises:
        ZooError: that mode has a detector already.
    """

    def register(function: Detector) -> Detector:
        if failure_mode in _DETECTORS:
            raise ZooError(f"{failure_mode} has two detectors ({_DETECTORS[failure_mode].__module__} and {function.__module__}); remove one")
        _DETECTORS[failure_mode] = function
        return function

    return register


@cache
def _load() -> None:
    """Import every module of detectors: a new file needs no other change."""
    for name, wanted in (("zoo.failures.detectors", ""), ("zoo.failures", "probes")):
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
            if module.name.startswith(wanted):
                importlib.import_module(f"{name}.{module.name}")


def known_detectors() -> Mapping[str, Detector]:
    """The detectors by failure mode."""
    _load()
    return dict(sorted(_DETECTORS.items()))


def detect(logs: RunLogs, mode: FailureMode) -> Finding:
    """What one failure mode's detector finds in a run. What is not there to be read, and an error in a detector, are findings of level
    not_measured: a report never ends a run."""
    found = known_detectors().get(mode.id)
    if found is None:
        return Finding(mode.id, "not_measured", reason="no detector")
    for need in mode.needs:
        if (reason := logs.missing(need)) is not None:
            return Finding(mode.id, "not_measured", reason=reason)
    try:
        return found(logs, mode.limits)
    except NotMeasured as reason:
        return Finding(mode.id, "not_measured", reason=str(reason))
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        return Finding(mode.id, "not_measured", reason=f"the detector failed ({type(error).__name__}: {line})"[:160])


def detect_all(logs: RunLogs, catalogue: Mapping[str, FailureMode] | None = None) -> list[Finding]:
    """One finding for each failure mode of the catalogue, by id."""
    return [detect(logs, mode) for _, mode in sorted((catalogue or load_catalogue()).items())]
