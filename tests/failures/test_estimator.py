"""FM07, FM20 and FM23 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .kit import found, level, rollout_frame, step_frame, token_frame


def masses(start: float, end: float, teacher: float = 0.95, own: bool = True) -> pd.DataFrame:
    """P_S / Q_S that goes from `start` to `end`."""
    student = lambda f: teacher * np.interp(f["step"], [1, 51], [start, end])  # noqa: E731
    return token_frame(support_own=own, support_student_mass=student, support_teacher_mass=teacher)


def test_leak_is_measured_from_the_start_and_must_be_falling() -> None:
    assert level("FM07", tokens=masses(0.95, 0.95)) == "silent"
    assert level("FM07", tokens=masses(0.7, 0.7)) == "silent"  # a student that is merely flatter
    assert level("FM07", tokens=masses(0.7, 0.98)) == "silent"  # a student that approaches its teacher
    assert level("FM07", tokens=masses(0.95, 0.8)) == "amber"
    assert level("FM07", tokens=masses(0.95, 0.4)) == "red"
    assert level("FM07", tokens=masses(1.0, 1.5, 0.6)) == "amber"  # upward
    assert found("FM07", tokens=masses(0.95, 0.4), rollouts=rollout_frame()).examples[0].step == 51
    assert found("FM07", tokens=masses(0.95, 0.4, own=False)).reason == "the entry compares no truncated set of tokens"
    assert level("FM07", tokens=masses(0.95, 0.4).drop(columns="support_own")) == "not_measured"


def own(start: float, end: float, **columns: Any) -> pd.DataFrame:
    return token_frame(16, kl_own=lambda f: np.interp(f["step"], [1, 91], [start, end]), kl=3.0, **columns)


def accuracy(start: float, end: float) -> pd.DataFrame:
    at = lambda step, value: lambda f: np.where(f["step"] == step, value, np.nan)  # noqa: E731
    return step_frame(100, **{"accuracy.start": at(1, start), "accuracy.valid": at(100, end)})


def test_saturation_needs_a_dead_signal_and_little_gained() -> None:
    assert level("FM20", tokens=own(1.0, 0.8), steps=accuracy(0.4, 0.4)) == "silent"
    assert level("FM20", tokens=own(1.0, 0.0), steps=accuracy(0.4, 0.45)) == "red"
    assert level("FM20", tokens=own(1.0, 0.0), steps=accuracy(0.4, 0.9)) == "silent"
    assert level("FM20", tokens=own(1.0, 0.0)) == "amber"  # nobody knows what was gained
    assert level("FM20", tokens=own(0.0, 0.0)) == "red"  # a teacher that is the student
    assert found("FM20", tokens=own(1.0, 0.1).assign(kl=lambda f: f["kl_own"])).reason == "the teacher is not the student itself"
    assert level("FM20", tokens=own(1.0, 0.1).drop(columns="kl_own")) == "not_measured"


def test_a_refresh_is_no_saturation() -> None:
    saw = token_frame(12, kl_own=lambda f: np.where(f["step"] // 10 % 2, 0.01, 1.0), kl=3.0)
    assert level("FM20", tokens=saw, steps=accuracy(0.4, 0.4)) == "silent"


def sampler(gap: float = 0.0, ess: float = 1.0, far: float = 0.0, lag: float = 0.0) -> pd.DataFrame:
    seen = lambda value: lambda f: np.where(f["step"] % 10 == 1, value, np.nan)  # noqa: E731
    return step_frame(60, **{"seen.main.drift": seen(gap), "lag.main": lag, "ratio.main.ess": seen(ess), "ratio.main.far": seen(far)})


def test_stale_rollouts_by_mismatch_ratio_and_share() -> None:
    assert level("FM23", steps=sampler(1e-6)) == "silent"
    assert (level("FM23", steps=sampler(0.015)), level("FM23", steps=sampler(0.05))) == ("amber", "red")
    assert level("FM23", steps=sampler(0.05, lag=8.0)) == "silent"  # steps lie between: no fault of the sampler
    assert (level("FM23", steps=sampler(ess=0.6)), level("FM23", steps=sampler(ess=0.3))) == ("amber", "red")
    assert level("FM23", steps=sampler(far=0.4)) == "amber"
    assert found("FM23", steps=sampler(0.05)).first_step == 11
    once = sampler()
    once.loc[20, "ratio.main.ess"] = 0.1
    assert level("FM23", steps=once) == "silent"
    assert level("FM23", steps=step_frame(3, **{"lag0.mean": [0.05, 0.05, np.nan]})) == "red"
    assert found("FM23", steps=step_frame(60, grad_norm=1.0)).level == "not_measured"
