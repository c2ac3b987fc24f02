"""FM01, FM02 and FM15 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .kit import found, level, rollout_frame, step_frame, token_frame


def lengths(truncated: Any, length: Any = 20.0, count: int = 60) -> pd.DataFrame:
    return step_frame(count, **{"truncated.main": truncated, "length.main": length})


def ramp(start: float, end: float, first: int, last: int, count: int = 60) -> np.ndarray:
    return np.interp(np.arange(1, count + 1), [first, last], [start, end])


def test_length_inflation_fires_on_a_rise_not_on_a_rate() -> None:
    noise = np.random.default_rng(0).binomial(32, 0.5, 60) / 32
    assert level("FM01", steps=lengths(noise)) == "silent"  # 0.5 throughout, with the noise of 32 sequences
    assert level("FM01", steps=lengths(ramp(0.2, 0.4, 20, 40))) == "amber"
    assert level("FM01", steps=lengths(ramp(0.2, 0.7, 20, 40))) == "red"
    assert level("FM01", steps=lengths(ramp(0.2, 0.24, 1, 60))) == "silent"


def test_length_inflation_by_length_and_by_saturation() -> None:
    assert level("FM01", steps=lengths(0.0, ramp(20, 28, 1, 60))) == "silent"
    assert level("FM01", steps=lengths(0.0, ramp(20, 40, 1, 60))) == "amber"
    assert level("FM01", steps=lengths(0.85)) == "silent"  # as it was from the start
    slow = lengths(ramp(0.5, 0.9, 1, 200, 200), count=200)
    assert level("FM01", steps=slow) == "red"  # slower than any rise, yet full


def test_length_inflation_tells_when_and_shows_what_was_cut() -> None:
    rollouts = rollout_frame(cut=lambda f: f["step"] > 30)
    finding = found("FM01", steps=lengths(ramp(0.2, 0.9, 20, 40)), rollouts=rollouts)
    assert finding.first_step is not None and 22 <= finding.first_step <= 40
    assert [e.step for e in finding.examples] == [51, 51, 51]
    assert found("FM01", steps=lengths(0.5).head(15)).reason == "15 steps, 20 are needed"
    assert found("FM01", steps=step_frame(60, grad_norm=1.0)).reason == "steps has no column 'truncated.*'"


def texts(share: float, **columns: Any) -> pd.DataFrame:
    """Looping texts in a share of each step's ten."""
    return rollout_frame(rollouts=10, zlib_ratio=lambda f: np.where(f["rollout"] < round(share * 10), 8.0, 1.5), **columns)


def test_repetition_fires_by_the_share_of_looping_texts() -> None:
    assert [level("FM02", rollouts=texts(share)) for share in (0.0, 0.2, 0.6)] == ["silent", "amber", "red"]
    short = texts(0.6)
    short.loc[short.index % 10 < 6, "zlib_ratio"] = np.nan  # those that loop are too short to be compressed
    assert level("FM02", rollouts=short) == "silent"
    assert level("FM02", rollouts=texts(0.6).assign(zlib_ratio=np.nan)) == "silent"  # all of them are
    assert level("FM02", rollouts=texts(0.6).assign(zlib_ratio=np.nan, tail="7 " * 40)) == "not_measured"
    assert found("FM02", rollouts=texts(0.6)).examples[0].step == 51


def test_repetition_that_is_overpaid() -> None:
    def tokens(size: float, share: float) -> pd.DataFrame:
        repeats = np.arange(1200) % 100 < 100 * share
        return token_frame(repeats=repeats, value=np.where(repeats, size, 1.0), weight=1.0)

    assert level("FM02", rollouts=texts(0.0), tokens=tokens(2.0, 0.1)) == "amber"
    assert level("FM02", rollouts=texts(0.0), tokens=tokens(1.2, 0.1)) == "silent"
    assert level("FM02", rollouts=texts(0.0), tokens=tokens(9.0, 0.01)) == "silent"  # one token in a hundred


def certain(student: float, teacher: float) -> pd.DataFrame:
    """Entropy that falls linearly from 1 nat to `student`, beside a teacher's."""
    return token_frame(entropy_student=lambda f: np.interp(f["step"], [1, 31], [1.0, student]), entropy_teacher=teacher)


def test_entropy_collapse_needs_both_a_fall_and_a_gap() -> None:
    assert level("FM15", tokens=certain(0.05, 0.8)) == "red"
    assert level("FM15", tokens=certain(0.32, 0.8)) == "amber"
    assert level("FM15", tokens=certain(0.7, 0.8)) == "silent"
    assert level("FM15", tokens=certain(0.05, 0.08)) == "silent"  # as sharp as the teacher: what it should become
    assert level("FM15", tokens=token_frame(entropy_student=0.1, entropy_teacher=0.8)) == "silent"  # as it was from the start
    assert "nothing to lose" in found("FM15", tokens=certain(0.001, 0.01)).reason
    assert level("FM15", tokens=certain(0.05, 0.8).drop(columns="entropy_teacher")) == "not_measured"
