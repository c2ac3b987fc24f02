"""Policy gradients on a sum of advantages: the value in numpy, each summand's own order, and what follows for rules and coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.method import Method

from .compose import contexts_of, entry_of, legal, loss_of
from .six import LOGITS, MASK, Array, rollout, sampled, tensor
from .test_measures import H

CONTRAST = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
GROUP = {"main": {"author": "student", "group": 2, "reuse": {"epochs": 1, "minibatches": 2}}}
GRPO: dict[str, Any] = {"term": "policy_gradient", "reward": "correct", "credit": {"kind": "group", "divide": "none"}, "reduce": "token_mean"}
VERIFIED: dict[str, Any] = {"rewards": {"correct": "verifier"}, "rollouts": GROUP}
CORRECT = {"correct": torch.tensor([1.0, 0.0], dtype=torch.float64)}
OUTCOME = np.array([[0.5], [-0.5]])
D = sampled("teacher") - sampled("student")
OLD = sampled("reference")  # the fixture's student at the time of writing


def logits(name: str) -> torch.Tensor:
    return tensor(LOGITS[name])


def value(term: dict[str, Any], **sections: Any) -> float:
    entry = legal(entry_of([term], **{**VERIFIED, **sections}))
    method = Method(entry)
    models = {name: logits(name) for name in ("student", "teacher")}
    rollouts = {"main": rollout()}
    prepared = method.prepare(contexts_of(method, rollouts, models, CORRECT))
    return float(loss_of(method, prepared, rollouts, models))


def surrogate(advantage: Array, clip: float | None = None) -> float:
    rho = np.exp(sampled("student") - OLD)
    if clip is None:
        return float((-advantage * sampled("student"))[MASK].mean())
    return float(np.maximum(-advantage * rho, -advantage * np.clip(rho, 1 - clip, 1 + clip))[MASK].mean())


def test_advantages_are_added_before_the_clip() -> None:
    term = {**GRPO, "plus": ({"reward": CONTRAST, "coefficient": 0.3},), "ratio": ({"kind": "ppo_clip", "at": 0.1},)}
    found = value(term)
    assert found == pytest.approx(surrogate(OUTCOME + 0.3 * D, clip=0.1), rel=1e-6)
    apart = surrogate(OUTCOME + 0 * D, clip=0.1) + surrogate(0.3 * D, clip=0.1)
    assert abs(found - apart) > 1e-3, "on these tokens clipping the sum differs from summing two clipped terms"


def test_each_summand_has_its_own_shaping_gates_and_weights_and_the_term_acts_on_the_sum() -> None:
    entropy = {"kind": "threshold", "of": "entropy", "above": 1.3}
    summand = {
        "reward": CONTRAST, "coefficient": -2.0, "shaping": ({"kind": "clip", "at": 0.5},), "gates": (entropy,),
        "weights": ({"kind": "mapped", "of": "entropy", "scale": 0.1},),
    }  # fmt: skip
    term = {**GRPO, "plus": (summand,), "weights": ({"kind": "mapped", "of": {"kind": "position"}, "base": 1.0},)}
    own = -2.0 * np.clip(D, -0.5, 0.5) * (H > 1.3) * 0.1 * H
    place = np.arange(4) + 1.0
    assert value(term) == pytest.approx(surrogate((OUTCOME + own) * place), rel=1e-6)
    nothing = {**summand, "coefficient": 0.0}
    assert value({**GRPO, "plus": (nothing,)}) == pytest.approx(surrogate(OUTCOME + 0 * D), rel=1e-6)


def test_a_summand_reads_its_own_advantage() -> None:
    """A gate inside sees the summand's advantage, a gate of the term sees the sum."""
    positive = {"kind": "advantage", "above": 0}
    inner = value({**GRPO, "plus": ({"reward": CONTRAST, "gates": (positive,)},)})
    assert inner == pytest.approx(surrogate(OUTCOME + np.maximum(D, 0)), rel=1e-6)
    outer = value({**GRPO, "plus": ({"reward": CONTRAST},), "gates": (positive,)})
    assert outer == pytest.approx(surrogate(np.maximum(OUTCOME + D, 0)), rel=1e-6)


def test_three_advantages_and_a_baseline() -> None:
    term = {**GRPO, "plus": ({"reward": CONTRAST, "baseline": "batch_mean"}, {"reward": CONTRAST, "credit": "return_to_go", "coefficient": 0.1})}
    to_go = np.cumsum((D * MASK)[:, ::-1], 1)[:, ::-1]
    assert value(term) == pytest.approx(surrogate(OUTCOME + D - D[MASK].mean() + 0.1 * to_go), rel=1e-6)


def test_coordinates_have_a_tuple_for_each_advantage() -> None:
    entry = legal(entry_of([{**GRPO, "plus": ({"reward": CONTRAST},)}], **VERIFIED))
    found = derive_coordinates(entry)
    assert found.loss_granularity == "hybrid" and found.estimator == ("pg_group", "pg_immediate")
    assert set(found.feedback_signal) == {"outcome", "logit"} and found.teacher_access == "white_box"
    pull = {"kind": "contrast", "of": {"reference": 1, "student": -1}}
    held = derive_coordinates(legal(entry_of([{**GRPO, "plus": ({"reward": pull},)}], **VERIFIED, teachers={})))
    assert held.estimator == ("pg_group",) and held.feedback_signal == ("outcome",) and held.loss_granularity == "sequence"


@pytest.mark.parametrize(
    ("summand", "message"),
    [
        ({"reward": "wrong"}, "reward 'wrong' is not under rewards"),
        ({"reward": {"kind": "contrast", "of": {"taecher": 1}}}, "scorer 'taecher' is not under teachers; did you mean 'teacher'?"),
        ({"reward": {"kind": "state_divergence"}}, "its expected gradient is 0 (D.6)"),
        ({"reward": {"kind": "verifier"}}, "measured on whole answers; declare it under rewards"),
        ({"reward": CONTRAST, "credit": {"kind": "bayes_odds", "name": "gap"}}, "rewards.gap is given per token; name a verifier"),
    ],
)
def test_rules_see_every_summand(summand: dict[str, Any], message: str) -> None:
    entry = entry_of([{**GRPO, "plus": (summand,), "weights": ()}], rewards={"correct": "verifier", "gap": CONTRAST}, rollouts=GROUP)
    assert any(message in problem for problem in problems(entry)), problems(entry)


@pytest.mark.parametrize(
    ("summand", "message"),
    [
        ({"reward": CONTRAST, "credit": "gae"}, "stands in the term itself, not in plus"),
        ({"reward": CONTRAST, "shaping": ({"kind": "clip", "at": 1, "where": "token"},)}, "acts on the advantage"),
        ({"credit": "immediate"}, "Field required"),
        ({"reward": CONTRAST, "ratio": ()}, "unknown key 'ratio'"),
    ],
)
def test_refusals(summand: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry_of([{**GRPO, "plus": (summand,)}], **VERIFIED)
