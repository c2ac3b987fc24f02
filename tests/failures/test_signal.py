"""FM05 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo.failures.detectors.signal import centred, effective_share, top_share

from .kit import found, level, rollout_frame, token_frame


def sampled(value: Any, **changes: Any) -> Any:
    return token_frame(**{"signal": "advantage", "entropy_student": 0.5, "weight": 1.0, "kl": 0.0, "value": value, **changes})


def spiked(count: int, every: int, size: float) -> np.ndarray:
    """Signs of size 1 with one token in `every` that is `size` times as large."""
    value = np.where(np.arange(count) % 2, 1.0, -1.0)
    value[::every] *= size
    return value


def test_effective_share_and_top_share_by_hand() -> None:
    assert effective_share(np.array([1.0, -1.0, 1.0, 1.0])) == 1.0
    assert effective_share(np.array([4.0, 0.0, 0.0, 0.0])) == 0.25
    assert effective_share(np.array([3.0, 1.0])) == pytest.approx(16 / 20)
    assert top_share(np.array([100.0, *([1.0] * 99)])) == pytest.approx(100 / 199)


def test_the_state_is_taken_out_of_a_plain_log_ratio_only() -> None:
    frame = token_frame(kl=lambda f: f["position"] / 10.0, value=lambda f: -f["position"] / 10.0)
    assert np.abs(centred(frame)).max() < 1e-9
    assert np.allclose(centred(frame.assign(value=1.0)), 1.0)
    assert np.allclose(centred(frame.assign(value=frame["kl"])), frame["kl"])  # a positive slope is not the state's KL


def test_silent_on_even_signals_amber_and_red_where_few_tokens_carry_all() -> None:
    assert level("FM05", tokens=sampled(spiked(1200, 100, 1.0))) == "silent"
    # 1 token in 100 of size s: ess = (99 + s)^2 / (100 (99 + s^2)); 30 gives 0.167, 60 gives 0.068, 100 gives 0.039
    assert level("FM05", tokens=sampled(spiked(1200, 100, 30.0))) == "silent"
    assert level("FM05", tokens=sampled(spiked(1200, 100, 60.0))) == "amber"
    assert level("FM05", tokens=sampled(spiked(1200, 100, 100.0))) == "red"


def test_evidence_and_examples_point_at_the_largest() -> None:
    value = spiked(1200, 1200, 1.0)
    value[407] = 5000.0  # step 21, rollout 0
    value[807] = -4000.0
    finding = found("FM05", tokens=sampled(value), rollouts=rollout_frame())
    assert finding.level == "silent"  # two single windows, not in a row
    value[[7, 207, 407, 607, 807, 1007]] = [900.0, 900.0, 5000.0, 900.0, 900.0, 900.0]
    finding = found("FM05", tokens=sampled(value), rollouts=rollout_frame())
    assert (finding.level, finding.first_step) == ("red", 11)
    assert finding.examples[0].step == 21
    assert finding.evidence["largest"] == 5000.0


def test_determined_and_unweighted_tokens_and_other_signals_do_not_count() -> None:
    heavy = spiked(1200, 100, 100.0)
    assert level("FM05", tokens=sampled(heavy, entropy_student=np.where(np.abs(heavy) > 1, 0.05, 0.5))) == "silent"
    assert level("FM05", tokens=sampled(heavy, weight=np.where(np.abs(heavy) > 1, 0.0, 1.0))) == "silent"
    finding = found("FM05", tokens=sampled(heavy, signal="loss"))
    assert (finding.level, finding.reason) == ("not_measured", "no sampled-token signal at undetermined tokens")


def test_too_little_or_nothing_is_not_measured() -> None:
    assert found("FM05", tokens=sampled(spiked(1200, 100, 100.0)).head(150)).reason == "0 measured windows, 2 are needed"
    assert found("FM05", tokens=sampled(1.0).drop(columns="kl")).reason == "tokens has no column 'kl'"
