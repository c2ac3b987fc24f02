"""Our aggregates beside those of rliable, where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo import stats

metrics: Any = pytest.importorskip("rliable.metrics", reason="rliable is not installed: pip install rliable")


@pytest.fixture(params=range(4))
def score_ST(request: pytest.FixtureRequest) -> Any:
    """Runs by tasks; with ties, and of sizes that four does not divide."""
    random = np.random.default_rng(request.param)
    return np.round(random.normal(0.6, 0.4, size=(5 + request.param, 3)), 1)


def test_iqm(score_ST: Any) -> None:
    assert stats.iqm(score_ST) == pytest.approx(metrics.aggregate_iqm(score_ST), abs=1e-12)


def test_optimality_gap(score_ST: Any) -> None:
    assert stats.optimality_gap(score_ST) == pytest.approx(metrics.aggregate_optimality_gap(score_ST), abs=1e-12)


def test_probability_of_improvement(score_ST: Any) -> None:
    other = np.roll(score_ST, 1, axis=1)
    ours = np.mean([stats.probability_of_improvement(score_ST[:, task], other[:, task]) for task in range(score_ST.shape[1])])
    assert ours == pytest.approx(metrics.probability_of_improvement(score_ST, other), abs=1e-12)
