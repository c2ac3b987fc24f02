"""Divergences against their definitions, their limits, their gradients, and what the sampled estimators' gradients mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from .six import Array, build, gradient, log_softmax, rows, slope, tensor

P, Q = rows("student"), rows("teacher")


def kl(a: Array, b: Array) -> Array:
    """Entries of KL(a || b) from log-probabilities."""
    return np.exp(a) * (a - b)


def mixed(weight: float, a: Array, b: Array) -> Array:
    return np.log(weight * np.exp(a) + (1 - weight) * np.exp(b))


Reference = tuple[dict[str, Any], Callable[[Array, Array], Array]]
REFERENCES: dict[str, list[Reference]] = {
    "forward_kl": [({}, lambda p, q: kl(q, p))],
    "reverse_kl": [({}, lambda p, q: kl(p, q))],
    "generalized_jsd": [({"beta": b}, lambda p, q, b=b: b * kl(q, mixed(b, q, p)) + (1 - b) * kl(p, mixed(b, q, p))) for b in (0.5, 0.1, 0.9)],  # type: ignore[misc]
    "skew_forward_kl": [({"skew": a}, lambda p, q, a=a: kl(q, mixed(a, q, p))) for a in (0.0, 0.1, 0.7)],  # type: ignore[misc]
    "skew_reverse_kl": [({"skew": a}, lambda p, q, a=a: kl(p, mixed(a, p, q))) for a in (0.0, 0.1, 0.7)],  # type: ignore[misc]
    "k1": [({}, lambda p, q: p - q)],
    "k2": [({}, lambda p, q: (p - q) ** 2 / 2)],
    "k3": [({}, lambda p, q: np.exp(q) / np.exp(p) - 1 + (p - q))],
}
ALL = [(kind, fields, formula) for kind, references in REFERENCES.items() for fields, formula in references]
WHOLE = [(kind, fields) for kind, fields, _ in ALL if not kind.startswith("k")]  # k1 to k3 see the written token alone


@pytest.mark.parametrize(("kind", "fields", "formula"), ALL)
def test_entries(kind: str, fields: dict[str, Any], formula: Callable[[Array, Array], Array]) -> None:
    found = build("divergence", kind, **fields).entries(tensor(P), tensor(Q)).numpy()
    np.testing.assert_allclose(found, formula(P, Q), atol=1e-14)


@pytest.mark.parametrize(("kind", "fields", "formula"), ALL)
def test_gradient(kind: str, fields: dict[str, Any], formula: Callable[[Array, Array], Array]) -> None:
    divergence, logits = build("divergence", kind, **fields), P[:2] + 0.3
    found = gradient(lambda z: divergence.entries(z.log_softmax(-1), tensor(Q[:2])).sum(), logits)
    np.testing.assert_allclose(found, slope(lambda z: formula(log_softmax(z), Q[:2]).sum(), logits), atol=1e-7)


@pytest.mark.parametrize(("kind", "fields"), WHOLE)
def test_is_zero_only_where_equal(kind: str, fields: dict[str, Any]) -> None:
    divergence = build("divergence", kind, **fields)
    assert divergence.entries(tensor(Q), tensor(Q)).sum(-1).abs().max() < 1e-14
    assert (divergence.entries(tensor(P), tensor(Q)).sum(-1) > 0).all()


def test_no_gradient_reaches_the_teacher_side_of_a_detached_mixture() -> None:
    divergence, logits, skew = build("divergence", "skew_reverse_kl", skew=0.3, detach_mixture=True), P[:2], 0.3
    fixed = mixed(skew, P[:2], Q[:2])
    found = gradient(lambda z: divergence.entries(z.log_softmax(-1), tensor(Q[:2])).sum(), logits)
    np.testing.assert_allclose(found, slope(lambda z: kl(log_softmax(z), fixed).sum(), logits), atol=1e-7)


def test_detached_entries_follow_p_times_the_frozen_log_ratio() -> None:
    divergence, logits = build("divergence", "reverse_kl"), P[:2]
    found = gradient(lambda z: divergence.detached_entries(z.log_softmax(-1), tensor(Q[:2])).sum(), logits)
    np.testing.assert_allclose(found, slope(lambda z: (np.exp(log_softmax(z)) * (P[:2] - Q[:2])).sum(), logits), atol=1e-7)


def test_skew_0_is_the_plain_divergence_and_near_1_nothing() -> None:
    for direction in ("forward_kl", "reverse_kl"):
        plain = build("divergence", direction).entries(tensor(P), tensor(Q))
        assert torch.equal(build("divergence", f"skew_{direction}", skew=0.0).entries(tensor(P), tensor(Q)), plain)
        assert build("divergence", f"skew_{direction}", skew=1 - 1e-9).entries(tensor(P), tensor(Q)).sum(-1).abs().max() < 1e-7


def test_jsd_tends_to_0_at_both_ends_and_to_a_kl_when_divided_by_the_small_weight() -> None:
    small = 1e-6
    low = build("divergence", "generalized_jsd", beta=small).entries(tensor(P), tensor(Q)).sum(-1).numpy()
    high = build("divergence", "generalized_jsd", beta=1 - small).entries(tensor(P), tensor(Q)).sum(-1).numpy()
    assert max(low.max(), high.max()) < 1e-4
    np.testing.assert_allclose(low / small, kl(Q, P).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(high / small, kl(P, Q).sum(-1), rtol=1e-4)


def expected_gradient(kind: str) -> Array:
    """E_{y ~ p} of the gradient of an estimator at y, with respect to the logits, exactly."""
    divergence, found = build("divergence", kind), np.zeros_like(P)
    for token in range(P.shape[-1]):

        def at_token(z: torch.Tensor, token: int = token) -> torch.Tensor:
            entries = divergence.entries(z.log_softmax(-1)[:, [token]], tensor(Q[:, [token]]))
            return (tensor(np.exp(P[:, [token]])) * entries).sum()

        found += gradient(at_token, P)
    return found


def test_k1_differentiated_directly_has_no_teacher_gradient() -> None:
    assert np.abs(expected_gradient("k1")).max() < 1e-14


def test_k2_descends_the_reverse_and_k3_the_forward_kl() -> None:
    reverse = gradient(lambda z: build("divergence", "reverse_kl").entries(z.log_softmax(-1), tensor(Q)).sum(), P)
    forward = gradient(lambda z: build("divergence", "forward_kl").entries(z.log_softmax(-1), tensor(Q)).sum(), P)
    np.testing.assert_allclose(expected_gradient("k2"), reverse, atol=1e-14)
    np.testing.assert_allclose(expected_gradient("k3"), forward, atol=1e-14)
    assert np.abs(reverse - forward).max() > 0.1


def test_k1_and_k3_estimate_the_value_of_the_reverse_kl_without_bias() -> None:
    value = kl(P, Q).sum(-1)
    for kind in ("k1", "k3"):
        found = (np.exp(P) * build("divergence", kind).entries(tensor(P), tensor(Q)).numpy()).sum(-1)
        np.testing.assert_allclose(found, value, atol=1e-14)


@pytest.mark.parametrize(("kind", "fields"), WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_absent_on_both_sides_weigh_nothing(kind: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    divergence = build("divergence", kind, **fields)
    absent = torch.full((len(P), 1), -1e30, dtype=dtype)
    student = torch.cat([tensor(P).to(dtype), absent], -1).requires_grad_()
    entries = divergence.entries(student, torch.cat([tensor(Q).to(dtype), absent], -1))
    [slopes] = torch.autograd.grad(entries.sum(), student)
    assert torch.equal(entries[:, -1], torch.zeros(len(P), dtype=dtype))
    assert torch.equal(slopes[:, -1], torch.zeros(len(P), dtype=dtype))
    assert torch.isfinite(slopes).all()


RAMP = {"schedule": "linear", "start": 0.3, "end": 1}


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "generalized_jsd", "beta": 0},
        {"kind": "generalized_jsd", "beta": RAMP},
        {"kind": "skew_forward_kl", "skew": 1},
        {"kind": "skew_forward_kl", "skew": RAMP},
        {"kind": "skew_reverse_kl", "skew": -0.1},
    ],
)
def test_refused_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must lie in|skew 1 compares a model with itself"):
        build("divergence", **bad)
