"""Lag-0 mismatch: zero to rounding on a CPU, as large as what is put in, blind to what the run does, and in the run's record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, comparison, made, read_pair, trainer_of, weights

from zoo.harness.comparison import settings_that_matter
from zoo.harness.lag import lag0, worst
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import Scored
from zoo.method import Method

GKD = {"rollout": {"author": "student"}, **TEACHER, "objective": [REVERSE_KL]}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def shifted(part: Scored, by: torch.Tensor) -> Scored:
    """The batch with other log-probabilities on record."""
    rollout = part.context.rollout
    return replace(part, context=replace(part.context, rollout=replace(rollout, student_logp_BT=rollout.student_logp_BT + by)))


def test_the_figures_are_those_of_the_gaps_put_in(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**GKD), pair, rollouts_per_step=40)
    method = Method(trainer.entry)
    [(name, part)] = trainer.judge(method, trainer.write(method)).items()
    found = lag0(method, trainer.bank, {name: part}, 0)
    mask_BT = part.context.mask_BT
    assert found["lag0.mean"] < 1e-9 and found["lag0.q999"] < 1e-9 and found["lag0.tokens"] == int(mask_BT.sum())
    by_BT = torch.linspace(-0.5, 0.7, mask_BT.numel(), dtype=torch.float64).view(mask_BT.shape)
    found, gaps = lag0(method, trainer.bank, {name: shifted(part, by_BT)}, 0), by_BT[mask_BT].abs()
    assert found["lag0.mean"] == pytest.approx(float(gaps.mean()), abs=1e-9)
    assert found["lag0.q999"] == pytest.approx(float(gaps.quantile(0.999)), abs=1e-6)


def test_only_the_students_own_tokens_of_the_present_version_count(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**{**GKD, "rollout": {"author": "dataset"}}), pair)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    assert lag0(method, trainer.bank, scored, 0) == {}
    trainer = trainer_of(made(**GKD), pair)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    assert lag0(method, trainer.bank, scored, 0) and lag0(method, trainer.bank, scored, 1) == {}


def test_a_run_measures_its_first_iterations_and_nothing_else_changes(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, rows = [], []
    for iterations in (0, 2):
        monkeypatch.setattr("zoo.harness.train.ITERATIONS", iterations)
        trainer = trainer_of(made(**GKD), pair, budget={"amount": 200})
        trainer.train(lambda row: None, lambda: None)
        ends.append(weights(pair.student))
        rows.append(trainer.rows)
    assert all(torch.equal(a, b) for a, b in zip(*(end.values() for end in ends), strict=True))
    same = ("step", "grad_norm", "loss.0.divergence", "tokens", "length.main")
    assert [[row[k] for k in same] for row in rows[1]] == [[row[k] for k in same] for row in rows[0]]
    assert ["lag0.mean" in row for row in rows[1]][:3] == [True, True, False] and len(rows[1]) > 2
    assert worst(rows[1])["mean"] == max(row["lag0.mean"] for row in rows[1][:2]) < 1e-6 and worst(rows[0]) == {}
    assert settings_that_matter(comparison(), "gkd")  # nothing was added to what a run's key is made of
