"""FM10, FM12 and FM13 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from zoo.failures.detectors.states import _change, _matched

from .kit import found, level, rollout_frame, token_frame


def answers(failing: float, right: float, success: float = 0.5) -> dict[str, Any]:
    """Ten answers a step of which a share is right, with a mean KL each, and a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.02, 10 * 10 * 20)
    good = lambda f: f["rollout"] < round(10 * success)  # noqa: E731
    rollouts = rollout_frame(10, 10, correct=lambda f: good(f).astype(float))
    tokens = token_frame(10, 10, 20, kl=lambda f: np.where(good(f), right, failing) + noise)
    return {"tokens": tokens, "rollouts": rollouts}


def test_agreement_trap_fires_where_failing_answers_are_not_told_apart() -> None:
    assert level("FM10", **answers(1.0, 0.2)) == "silent"
    assert level("FM10", **answers(0.27, 0.2)) == "amber"
    assert level("FM10", **answers(0.2, 0.2)) == "red"
    assert level("FM10", **answers(0.2, 0.2), info={"teacher_accuracy": 0.6}) == "silent"  # the teacher is hardly better
    assert found("FM10", **answers(0.2, 0.2)).examples[0].step >= 41
    assert found("FM10", **answers(0.2, 0.2, 0.1)).reason.startswith("45 failing and 5 right")
    assert level("FM10", tokens=answers(0.2, 0.2)["tokens"]) == "not_measured"


def test_the_ratio_is_taken_at_the_same_positions() -> None:
    """Failing answers are longer and KL grows with the position: unmatched they would look different."""
    frame = token_frame(1, 20, 40, kl=lambda f: f["position"] / 10.0, correct=lambda f: (f["rollout"] < 10).astype(float))
    frame = frame[(frame["correct"] < 0.5) | (frame["position"] < 16)]
    plain = frame[frame["correct"] < 0.5]["kl"].mean() / frame[frame["correct"] > 0.5]["kl"].mean()
    ratio, _, stderr = _matched(frame, 8)
    assert plain > 2 and ratio == pytest.approx(1.0) and stderr == pytest.approx(0.0, abs=1e-9)


def margins(after: float, before: float = 4.0, at: float = 0.6, length: int = 40) -> pd.DataFrame:
    noise = np.random.default_rng(1).normal(0, 0.3, 10 * 10 * length)
    return token_frame(10, 10, length, margin=lambda f: np.where(f["position"] < at * length, before, after) + noise)


def test_teachability_fires_by_how_far_the_margin_falls() -> None:
    assert [level("FM12", tokens=margins(after)) for after in (4.0, 3.4, 2.4, 1.0)] == ["silent", "silent", "amber", "red"]
    finding = found("FM12", tokens=margins(1.0))
    assert finding.value == pytest.approx(0.25, abs=0.05) and finding.evidence["change_point"] == pytest.approx(0.6)
    assert level("FM12", tokens=margins(8.0)) == "silent"  # upward
    assert found("FM12", tokens=margins(1.0).query("step <= 31")).reason.startswith("40 answers")
    assert level("FM12", tokens=margins(1.0, length=6)) == "not_measured"
    assert level("FM12", tokens=margins(1.0).drop(columns="margin")) == "not_measured"


def test_the_change_point_is_the_one_that_describes_the_curve_best() -> None:
    curve = np.array([5.0] * 12 + [2.0] * 8)
    assert _change(curve) == (12, pytest.approx(0.4))
    assert _change(np.random.default_rng(3).normal(3, 0.5, 20)) == (None, 1.0) and _change(curve[::-1]) == (None, 1.0)


def meeting(start: float, end: float) -> pd.DataFrame:
    return token_frame(best_of_teacher_student=lambda f: np.interp(f["step"], [1, 51], [start, end]), overlap_k4=0.5, best_agree=0.5)


def test_mismatch_fires_where_little_is_shared_and_stays_so() -> None:
    assert level("FM13", tokens=meeting(0.7, 0.7)) == "silent"
    assert level("FM13", tokens=meeting(0.35, 0.35)) == "amber"
    assert level("FM13", tokens=meeting(0.1, 0.1)) == "red"
    assert level("FM13", tokens=meeting(0.1, 0.5)) == "silent"  # on the way
    assert found("FM13", tokens=meeting(0.1, 0.1)).first_step == 51
    assert level("FM13", tokens=meeting(0.1, 0.1).head(100)) == "not_measured"
    assert level("FM13", tokens=meeting(0.1, 0.1).drop(columns="best_agree")) == "not_measured"
