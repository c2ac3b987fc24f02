"""Failure modes: what a run logs about itself, one detector for each mode of the catalogue, and what they found.

    logs = load_logs(folder, uuid)          # or RunLogs(tokens=..., ...) made by hand
    findings = detect_all(logs)             # one Finding for each failure mode, by id

A detector is a function `(logs, limits) -> Finding` under `@detector("FM05")` in a module of `zoo.failures.detectors` (or named `zoo.failures.probes*`);
its text, thresholds and needed columns are `registry/failure_modes/FM05.yaml`. docs/logs.md lists every column.
"""

from __future__ import annotations

from zoo.failures.catalogue import FailureMode, Threshold, load_catalogue, load_failure_mode
from zoo.failures.detecting import detect, detect_all, detector, known_detectors
from zoo.failures.finding import Example, Finding, Level, worst
from zoo.failures.levels import above, below
from zoo.failures.logs import NotMeasured, RunLogs, load_logs

__all__ = [
    "Example", "FailureMode", "Finding", "Level", "NotMeasured", "RunLogs", "Threshold", "above", "below", "detect", "detect_all", "detector",
    "known_detectors", "load_catalogue", "load_failure_mode", "load_logs", "worst",
]  # fmt: skip
