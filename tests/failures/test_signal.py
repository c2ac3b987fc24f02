"""FM05 on frames made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo.failures import load_failure_mode
from zoo.failures.detectors.signal import centred, effective_share, top_share

from .kit import found, level, rollout_frame, step_frame, token_frame


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


def gradients(snr: Any = 5.0, tail: Any = 0.0, norm: Any = 1.0, count: int = 100) -> Any:
    return step_frame(count, **{"grad_norm": norm, "snr": lambda f: np.where(f["step"] % 20 == 1, snr, np.nan), "advantage.0.main.tail": tail})


def test_noise_spikes_and_tails() -> None:
    limits = load_failure_mode("FM08").limits
    assert level("FM08", steps=gradients()) == "silent"
    assert level("FM08", steps=gradients(snr=(limits["snr.amber"] + limits["snr.red"]) / 2, tail=0.55)) == "amber"
    assert level("FM08", steps=gradients(snr=limits["snr.red"] - 0.01, tail=0.55)) == "red"
    assert level("FM08", steps=gradients(snr=-0.1)) == "silent"  # noise without a tail
    assert [level("FM08", steps=gradients(tail=share)) for share in (0.5, 0.7, 0.9)] == ["silent", "amber", "red"]
    spiked = np.where(np.arange(100) % 40 == 39, 50.0, 1.0)
    finding = found("FM08", steps=gradients(norm=spiked))
    assert (finding.level, finding.first_step, finding.evidence["spikes"]) == ("amber", 40, 0.02)
    assert level("FM08", steps=gradients(norm=np.where(np.arange(100) == 39, 50.0, 1.0))) == "silent"  # one in a hundred
    once = gradients(tail=0.55)
    once.loc[40, "snr"] = -1.0
    assert level("FM08", steps=once) == "silent"
    assert level("FM08", steps=gradients().drop(columns="grad_norm")) == "not_measured"


def negative(routed: Any, **changes: Any) -> Any:
    return sampled(-2.0, **{"routed_k4": routed, "logp_teacher": -4.0, "logp_student": -1.0, "kl": 0.5, **changes})


def test_routed_share_of_negative_updates() -> None:
    assert [level("FM16", tokens=negative(share)) for share in (0.9, 0.6, 0.2)] == ["silent", "amber", "red"]
    assert level("FM16", tokens=negative(0.2, kl=5.0)) == "not_measured"  # better than the state's average: no negative update
    weighted = negative(lambda f: np.where(f["position"] < 25, 0.0, 1.0)).assign(value=lambda f: np.where(f["position"] < 25, -0.1, -9.0))
    assert level("FM16", tokens=weighted) == "silent"  # the large ones arrive
    assert level("FM16", tokens=negative(0.2, signal="loss")) == "not_measured"
    finding = found("FM16", tokens=negative(0.2), rollouts=rollout_frame())
    assert len(finding.examples) == 3 and finding.first_step == 11
