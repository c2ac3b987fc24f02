"""Weights that read measures, gates, outcomes and the term's own advantage, against plain numpy on the six tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.statistics import Entropy, LogProb, TokenContext

from .six import MASK, Array, build, per_group, rollout, sampled, tensor
from .test_measures import GAP, KL, H, known, share_before

S, T, OLD = sampled("student"), sampled("teacher"), sampled("old")
D = T - S
ADVANTAGE = np.array([[0.5, -2.0, 0.0, 3.0], [-0.7, 1.2, 50.0, -60.0]])
SIGN = np.sign(ADVANTAGE)
OUTCOME = np.array([[1.0], [-1.0]])
ENTROPY, DIVERGENCE = {"kind": "entropy"}, {"kind": "divergence"}
RATIO = {"kind": "log_ratio", "of": {"teacher": 1, "student": -1}}
GAPS = {**RATIO, "absolute": True}
PLACE = np.array([[0.125, 0.375, 0.625, 0.875], [0.25, 0.75, 0.0, 0.0]])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def rows(values: Array) -> Array:
    return np.broadcast_to(np.array([values[b, MASK[b]].mean() for b in range(2)])[:, None], (2, 4))


def disagreement(laws: tuple[Array, ...], gamma: float, level: float, cap: float) -> Array:
    spread = np.var(laws, axis=0)
    return np.asarray(1 / (1 + gamma * np.minimum(spread / np.quantile(spread[MASK], level), cap)))


def signed_entropy(level: float) -> Array:
    found = np.zeros((2, 4))
    for b in range(2):
        h = H[b, MASK[b]]
        found[b, MASK[b]] = np.tanh((np.quantile(h, level) - h) / np.abs(h - h.mean()).mean())
    return found


def segments(spike: float, boundary: float, kappa: float) -> Array:
    found = np.ones((2, 4))
    for b in range(2):
        held, top = None, KL[b, MASK[b]].max()
        for t in np.nonzero(MASK[b])[0]:
            if H[b, t] > boundary:
                held = None
            if KL[b, t] > spike:
                held = KL[b, t] if held is None else max(held, KL[b, t])
            found[b, t] = 1 + kappa * (KL[b, t] if held is None else held) / top
    return found


REFERENCES: dict[str, list[tuple[dict[str, Any], Array]]] = {
    "mapped": [
        ({"of": ENTROPY}, H),
        ({"of": {"kind": "position", "relative": True}, "map": "sigmoid", "slope": 10, "origin": 0.3, "base": 0.25, "scale": 0.75},
         0.25 + 0.75 * sigmoid((PLACE - 0.3) / 0.1)),
        ({"of": {"kind": "log_ratio", "of": {"student": 1, "behaviour": -1}}, "map": "exp", "high": 1.1}, np.minimum(np.exp(S - OLD), 1.1)),
        ({"of": {"kind": "spent", "of": GAPS}, "base": 1.5, "scale": -0.5}, 1 + 0.5 * (1 - share_before(GAP))),
        ({"of": {"kind": "probability"}, "map": "power", "exponent": 0.7}, np.exp(0.7 * S)),
        ({"of": DIVERGENCE, "map": "tanh", "scope": "sequence"}, np.tanh(rows(KL))),
        ({"of": GAPS, "map": "exp", "slope": -2, "scope": "sequence"}, np.exp(-2 * rows(GAP))),
        ({"of": {"kind": "events", "of": ENTROPY, "below": 1.3}, "slope": -0.6, "origin": 1 / 0.6, "low": 0, "high": 1, "base": 0.1},
         np.clip(1 - 0.6 * np.cumsum((H < 1.3) & MASK, 1), 0, 1) + 0.1),
    ],
    "log_tanh": [({"of": DIVERGENCE}, np.exp(-0.5 * np.tanh(np.log(KL)))), ({"of": ENTROPY, "c": 2.0}, np.exp(-2 * np.tanh(np.log(H))))],
    "normalised": [
        ({"of": ({"kind": "mapped", "of": ENTROPY},)}, H / rows(H)),
        ({"of": ({"kind": "mapped", "of": ENTROPY}, {"kind": "mapped", "of": DIVERGENCE}), "among": "batch"}, H * KL / (H * KL)[MASK].mean()),
    ],
    "disagreement": [
        ({"of": ("teacher", "student", "old")}, disagreement((T, S, OLD), 1.0, 0.95, 10.0)),
        ({"of": ("teacher", "student"), "gamma": 3.0, "level": 0.3, "cap": 1.5, "floor": 0.2}, np.maximum(disagreement((T, S), 3.0, 0.3, 1.5), 0.2)),
        ({"of": ("teacher", "teacher")}, np.ones((2, 4))),
    ],
    "soft_gate": [
        ({"gate": {"kind": "threshold", "of": ENTROPY, "above": 1.3}, "outside": 0.2}, np.where(H > 1.3, 1.0, 0.2)),
        ({"gate": {"kind": "reward", "name": "correct", "above": 0.5}, "inside": 2.0, "outside": 0.5}, np.array([[2.0] * 4, [0.5] * 4])),
    ],
    "signed_entropy": [({"of": ENTROPY}, signed_entropy(0.8)), ({"of": ENTROPY, "level": 0.2}, signed_entropy(0.2))],
    "divergence_segment": [
        ({"of": DIVERGENCE, "spike": 1.0, "boundary": ENTROPY, "boundary_above": 1.35}, segments(1.0, 1.35, 1.0)),
        ({"of": DIVERGENCE, "spike": 99.0, "boundary": ENTROPY, "boundary_above": 0.0, "kappa": 0.5}, segments(99.0, 0.0, 0.5)),
    ],
    "span_discrepancy": [({"of": GAPS}, np.ones((2, 4)))],
    "evidence_ratio": [
        ({"of": RATIO}, np.clip(np.exp(SIGN * D), 0.8, 1.2)),
        ({"of": RATIO, "mix": 0.3, "low": 0.1, "high": 9.0}, 0.7 + 0.3 * np.clip(np.exp(SIGN * D), 0.1, 9.0)),
        ({"of": RATIO, "reverse": True, "low": 0.0, "high": None}, np.exp(-SIGN * D)),
        ({"of": RATIO, "form": "excess", "mix": 2.0, "low": 0.1}, 1 + 2 * np.maximum(SIGN * D - 0.1, 0)),
    ],
    "sign_agreement": [
        ({"name": "correct"}, np.where(ADVANTAGE * OUTCOME < 0, 0.0, 1.0)),
        ({"name": "correct", "of": RATIO, "agree": 1.5, "differ": 0.5}, np.where(D * OUTCOME < 0, 0.5, 1.5)),
        ({"name": "correct", "of": RATIO, "scope": "sequence"}, np.where(rows(D) * OUTCOME < 0, 0.0, 1.0)),
    ],
    "reward": [
        ({"name": "correct"}, np.array([[1.0] * 4, [0.0] * 4])),
        ({"name": "correct", "floor": 0.2}, np.array([[1.0] * 4, [0.2] * 4])),
        ({"name": "correct", "floor": 0.2, "normalise": "group"}, np.array([[1 / 0.6] * 4, [0.2 / 0.6] * 4])),
        ({"name": "correct", "normalise": "batch"}, np.array([[2.0] * 4, [0.0] * 4])),
    ],
}  # fmt: skip
CASES = [(kind, fields, expected) for kind, several in REFERENCES.items() for fields, expected in several]


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_weight(kind: str, fields: dict[str, Any], expected: Array) -> None:
    weight = build("weight", kind, **fields)
    found = weight.weight(known(weight), tensor(ADVANTAGE))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.numpy()[MASK], np.asarray(expected)[MASK], atol=1e-7)


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_an_empty_batch_gives_numbers(kind: str, fields: dict[str, Any], expected: Array) -> None:
    weight = build("weight", kind, **fields)
    empty = known(weight, mask_BT=torch.zeros(2, 4, dtype=torch.bool))
    assert torch.isfinite(weight.weight(empty, tensor(ADVANTAGE))).all()


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_a_weight_is_without_gradient_and_declares_what_it_reads(kind: str, fields: dict[str, Any], expected: Array) -> None:
    """`known` holds declared columns only, so a missing declaration is a KeyError above; here the advantage's."""
    weight = build("weight", kind, **fields)
    if weight.reads_advantage:
        with pytest.raises(ValueError, match="stands in a policy_gradient term"):
            weight.weight(known(weight), None)
    else:
        assert torch.equal(weight.weight(known(weight), None), weight.weight(known(weight), tensor(ADVANTAGE)))


def test_spans_are_runs_of_supervised_tokens() -> None:
    """d = 2, 4, 1 over three spans: weights 1, 2/4, and 2/1 capped at 1.2. Two sequences of one span each are left alone."""
    answer = per_group(1, [8], [0]).rollout
    mask = torch.tensor([[True, True, False, True, True, True, False, True]])
    size = torch.tensor([[1.0, 3.0, 9.0, 4.0, 4.0, 4.0, 9.0, 1.0]], dtype=torch.float64)
    context = TokenContext(replace(answer, mask_BT=mask), {LogProb("teacher"): size, LogProb("student"): 0 * size})
    found = build("weight", "span_discrepancy", of=GAPS, epsilon=1e-12).weight(context, None)
    np.testing.assert_allclose(found[mask].numpy(), [1, 1, 0.5, 0.5, 0.5, 1.2], atol=1e-9)
    late = TokenContext(replace(answer, mask_BT=mask.clone().index_fill_(1, torch.tensor([0, 1]), False)), context.columns)
    np.testing.assert_allclose(build("weight", "span_discrepancy", of=GAPS, delta=9).weight(late, None)[0, [3, 7]].numpy(), [1, 4], atol=1e-4)


def test_equal_entropies_have_no_sign() -> None:
    context = TokenContext(rollout(), {Entropy("student"): torch.ones(2, 4, dtype=torch.float64)})
    assert not build("weight", "signed_entropy", of=ENTROPY).weight(context, None).any()


def test_evidence_of_no_contrast_or_no_share_changes_nothing() -> None:
    level = {LogProb("teacher"): tensor(S), LogProb("student"): tensor(S)}
    same = TokenContext(rollout(), level)
    assert torch.equal(build("weight", "evidence_ratio", of=RATIO).weight(same, tensor(ADVANTAGE)), torch.ones(2, 4, dtype=torch.float64))
    weight = build("weight", "evidence_ratio", of=RATIO, mix=0.0)
    assert torch.equal(weight.weight(known(weight), tensor(ADVANTAGE)), torch.ones(2, 4, dtype=torch.float64))


def test_groups_of_wrong_answers_have_no_weight_to_share() -> None:
    answers = per_group(4, [1] * 4, [0, 0, 1, 1])
    context = TokenContext(answers.rollout, {}, {"correct": torch.tensor([0.0, 0.0, 1.0, 0.0])})
    assert build("weight", "reward", name="correct", normalise="group").weight(context, None)[:, 0].tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("mapped", {"of": ENTROPY, "exponent": 2.0}, "exponent belongs to map: power"),
        ("evidence_ratio", {"of": RATIO, "mix": 1.5}, r"mix must lie in \[0.0, 1.0\]"),
        ("normalised", {"of": ()}, "at least 1 item"),
        ("signed_entropy", {"of": ENTROPY, "level": 2.0}, "less than or equal to 1"),
        ("reward", {"name": "correct", "floor": 1.0}, "less than 1"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("weight", kind, **fields)


def test_log_tanh_at_its_ends() -> None:
    weight = build("weight", "log_tanh", of=ENTROPY, c=0.5)
    ends = {Entropy("student"): torch.tensor([[0.0, 1.0, 1e20, 1.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)}
    np.testing.assert_allclose(weight.weight(TokenContext(rollout(), ends), None)[0, :3].numpy(), np.exp([0.5, 0.0, -0.5]), atol=1e-12)
