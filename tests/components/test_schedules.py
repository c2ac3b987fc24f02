"""Schedules that follow a measure: each rule against a plain computation, and what it refuses."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import scipy.stats
import torch

from zoo.components.base import Slot
from zoo.components.schedules import Balance, Controller, HitRate, Informed, LossTrend, Momentum


def test_taids_rule() -> None:
    rule = Momentum(start=0.2, end=0.9, rate=0.1, beta=0.7, measure="loss")
    state = rule.begin()
    t, m, previous = 0.2, 0.0, None
    for n, loss in enumerate([2.0, 1.5, 1.8, 0.9, 0.9, 0.1, 0.4, 0.3]):
        state = rule.follow(state, {"loss": loss}, n / 8)
        if previous is not None:
            m = 0.7 * m + 0.3 * (previous - loss) / (previous + 1e-15)
            t = min(0.9, max(0.2 + 0.7 * n / 8, t + 0.1 / (1 + math.exp(-m)) * (1 - t)))
        previous = loss
        assert state["value"] == pytest.approx(t)
    assert 0.7 < t <= 0.9


def test_adakds_rule() -> None:
    rule = LossTrend(start=1.0, low=0.5, change=0.4, tolerance=0.1, decay=0.0, warmup=0.2)
    state, found = rule.begin(), []
    for progress, loss in [(0.0, 9.0), (0.1, 5.0), (0.2, 2.0), (0.3, 1.9), (0.4, 1.5), (0.5, 1.0), (0.6, 1.05), (0.7, 1.3), (0.8, 3.0)]:
        state = rule.follow(state, {"loss": loss}, progress)
        found.append(state["value"])
    assert found == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.6, 0.5, 0.5, 0.7, 0.98])


def test_prune_opds_rule() -> None:
    window = HitRate(start=8.0, low=4.0, high=10.0, measure="kept.0", above=0.5, grow=1.2, shrink=0.5)
    state, found = window.begin(), []
    for share in (0.9, 0.5, 0.4, 0.1):
        state = window.follow(state, {"kept.0": share}, 0.0)
        found.append(state["value"])
    assert found == pytest.approx([9.6, 10.0, 5.0, 4.0])


def test_rafts_rule() -> None:
    balance = Balance(of="loss.0", to="loss.1", decay=0.5, high=5.0)
    state = balance.follow(balance.begin(), {"loss.0": 4.0, "loss.1": 2.0}, 0.0)
    assert state["value"] == pytest.approx(2.0)
    assert balance.follow(state, {"loss.0": 8.0, "loss.1": 1.0}, 0.0)["value"] == pytest.approx(4.0)
    assert balance.follow(state, {"loss.0": 80.0, "loss.1": 1.0}, 0.0)["value"] == 5.0


def test_pgpos_rule() -> None:
    told = Informed(measure="loss.0", at=1.0, sharpness=2.0, cap=1.5)
    assert [told.follow({}, {"loss.0": x}, 0.0)["value"] for x in (0.5, 1.0, 2.0)] == pytest.approx([math.exp(-1.0), 1.0, 1.5])


def test_atesds_rule() -> None:
    rule = Controller(low=0.2, high=0.8, horizon=3, gamma=0.5, rate=0.3, at=-0.6, pull=0.4, by="reward.correct.main", truth=2.0)
    losses, truths = [3.0, 2.0, 2.5, 1.0, 1.2, 0.7, 0.6, 0.5], [0.1, 0.2, 0.2, 0.5, 0.4, 0.5, 0.9, 0.9]
    w = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    s, mean, count, paid = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), 0.0, 0, 0.0

    def policy() -> torch.distributions.Beta:
        return torch.distributions.Beta(*(1.0 + torch.nn.functional.softplus(w @ s)))

    def drawn() -> float:
        a, b = policy().concentration1.item(), policy().concentration0.item()
        return float(scipy.stats.beta.ppf(random.Random(f"controller {count}").random(), a, b))

    state, x, held = rule.begin(), drawn(), 0
    assert state["value"] == pytest.approx(0.2 + 0.6 * x)
    for n, (loss, truth) in enumerate(zip(losses, truths, strict=True)):
        state = rule.follow(state, {"loss": loss, "reward.correct.main": truth}, n / 8)
        if n == 0:
            continue
        paid += 0.5**held * (max(0.0, losses[n - 1] - loss) + 2.0 * (truth - truths[n - 1]))
        held += 1
        if held == 3:
            gain = (paid - mean) * policy().log_prob(torch.tensor(x, dtype=torch.float64)) - 0.4 * (policy().entropy() + 0.6).clamp(min=0.0) ** 2
            [slope] = torch.autograd.grad(gain, w)
            w = (w + 0.3 * slope).detach().requires_grad_()
            mean, count = mean + (paid - mean) / (count + 1), count + 1
            s, held, paid = torch.tensor([1.0, n / 8, loss / losses[0]], dtype=torch.float64), 0, 0.0
            x = drawn()
        assert state["value"] == pytest.approx(0.2 + 0.6 * x, abs=1e-9)
        assert [state[f"{k}{i}"] for k in "ab" for i in range(3)] == pytest.approx(w.detach().flatten().tolist())
    assert count == 2 and rule.extremes() == (0.2, 0.8) and rule.measures() == ("loss", "reward.correct.main")


def test_a_controller_learns_what_pays() -> None:
    rule = Controller(horizon=1, rate=0.5, pull=0.0, gamma=1.0)
    state, loss, tried = rule.begin(), 1000.0, []
    state = rule.follow(state, {"loss": loss}, 0.0)
    for _ in range(400):
        tried.append(state["value"])
        loss -= state["value"]  # the larger the number, the more is learned
        state = rule.follow(state, {"loss": loss}, 0.0)
    assert sum(tried[-100:]) / 100 > sum(tried[:100]) / 100 + 0.1


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"schedule": "momentum", "start": 0.9, "end": 0.3}, "must rise"),
        ({"schedule": "hit_rate", "start": 1.0, "low": 2.0, "high": 3.0, "measure": "kept.0"}, "between low and high"),
        ({"schedule": "hit_rate", "start": 2.0, "low": 2.0, "high": 3.0, "measure": "lost.0"}, "should be loss, loss.N"),
        ({"schedule": "balance", "of": "loss.0", "to": "loss.0"}, "two measures"),
        ({"schedule": "informed", "measure": "loss.0", "at": 0.0, "start": 3.0}, "exceed cap"),
        ({"schedule": "loss_trend", "low": 2.0}, "must not exceed start"),
        ({"schedule": "controller", "low": 0.5, "high": 0.5}, "must be below high"),
        ({"schedule": "controller", "measure": "lost"}, "should be loss, loss.N"),
    ],
)
def test_senseless_rules_are_refused(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slot("schedule").validate(schedule)


REFERENCES = {
    "momentum": [test_taids_rule],
    "loss_trend": [test_adakds_rule],
    "hit_rate": [test_prune_opds_rule],
    "balance": [test_rafts_rule],
    "informed": [test_pgpos_rule],
    "controller": [test_atesds_rule, test_a_controller_learns_what_pays],
}
