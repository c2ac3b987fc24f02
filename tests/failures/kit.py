"""Frames made by hand for the tests of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from zoo.failures import Finding, RunLogs, detect, load_failure_mode


def token_frame(steps: int = 6, rollouts: int = 4, length: int = 50, every: int = 10, **columns: Any) -> pd.DataFrame:
    """`steps` diagnosed steps of equally long sequences; a column is a number, an array of all rows, or a function of the frame so far."""
    index = pd.MultiIndex.from_product(
        [range(1, steps * every + 1, every), ["main"], range(rollouts), range(length)], names=["step", "stream", "rollout", "position"]
    )
    frame = index.to_frame(index=False)
    for name, value in columns.items():
        frame[name] = value(frame) if callable(value) else value
    return frame


def rollout_frame(steps: int = 6, rollouts: int = 4, every: int = 10, **columns: Any) -> pd.DataFrame:
    """The same for whole sequences."""
    index = pd.MultiIndex.from_product([range(1, steps * every + 1, every), ["main"], range(rollouts)], names=["step", "stream", "rollout"])
    frame = index.to_frame(index=False)
    frame["author"] = "student"
    frame["tail"] = [f"text {i}" for i in range(len(frame))]
    for name, value in columns.items():
        frame[name] = value(frame) if callable(value) else value
    return frame


def step_frame(count: int, **columns: Any) -> pd.DataFrame:
    """One row a step, numbered from 1."""
    frame = pd.DataFrame({"step": np.arange(1, count + 1)})
    for name, value in columns.items():
        frame[name] = value(frame) if callable(value) else value
    return frame


def found(failure_mode: str, **tables: Any) -> Finding:
    """What the detector of the shipped catalogue says; an error in the detector is an error in the test."""
    finding = detect(RunLogs(**tables), load_failure_mode(failure_mode))
    assert "the detector failed" not in finding.reason, finding.reason
    assert finding.failure_mode == failure_mode
    return finding


def level(failure_mode: str, **tables: Mapping[str, Any] | pd.DataFrame) -> str:
    """Its level."""
    return found(failure_mode, **tables).level
