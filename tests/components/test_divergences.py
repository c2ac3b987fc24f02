"""Divergences against their definitions, their limits, their gradients, and what the sampled estimators' gradients mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.divergences import FDivergence

from .six import MASK, TOKENS, Array, V, build, gradient, log_softmax, rows, slope, tensor

P, Q, Y = rows("student"), rows("teacher"), TOKENS[MASK]


def kl(a: Array, b: Array) -> Array:
    """Entries of KL(a || b) from log-probabilities."""
    return np.exp(a) * (a - b)


def mixed(weight: float, a: Array, b: Array) -> Array:
    return np.log(weight * np.exp(a) + (1 - weight) * np.exp(b))


def alpha_beta(p: Array, q: Array, a: float, b: float) -> Array:
    """ABKD as printed, with the continuous limits where a denominator vanishes."""
    p, q = np.exp(p), np.exp(q)
    if a == b == 0:
        return np.asarray((np.log(q) - np.log(p)) ** 2 / 2)
    if a + b == 0:
        return np.asarray((np.log(p**a / q**a) + q**a / p**a - 1) / a**2)
    if b == 0:
        return np.asarray((q**a * np.log(q**a / p**a) - q**a + p**a) / a**2)
    if a == 0:
        return np.asarray((p**b * np.log(p**b / q**b) - p**b + q**b) / b**2)
    return np.asarray(-(q**a * p**b - a / (a + b) * q ** (a + b) - b / (a + b) * p ** (a + b)) / (a * b))


def alpha(p: Array, q: Array, a: float) -> Array:
    p, q = np.exp(p), np.exp(q)
    if a in (0, 1):
        return np.asarray((p * np.log(p / q) + q - p) if a == 0 else (q * np.log(q / p) + p - q))
    return np.asarray((q**a * p ** (1 - a) - a * q - (1 - a) * p) / (a * (a - 1)))


def adaptive(p: Array, q: Array, mu: float, crossing: str = "tail", fixed: Array | None = None) -> Array:
    """AKL, one token after the other; `fixed` is the student in the weights, which carry no gradient."""
    fixed, found = p if fixed is None else fixed, np.zeros_like(p)
    for n in range(len(p)):
        order, head, mass = np.argsort(-q[n]), set(), 0.0
        for i, v in enumerate(order):
            if i == 0 or (mass + np.exp(q[n, v]) <= mu if crossing == "tail" else mass < mu):
                head.add(int(v))
            mass += np.exp(q[n, v])
        gap = np.abs(np.exp(q[n]) - np.exp(fixed[n]))
        share = sum(gap[v] for v in head) / gap.sum()
        found[n] = share * kl(q[n], p[n]) + (1 - share) * kl(p[n], q[n])
    return found


def entrywise(p: Array, q: Array, beta: float, fixed: Array | None = None) -> Array:
    a = 1 / (1 + np.exp(-beta * (q - (p if fixed is None else fixed))))
    return np.asarray(a * kl(q, p) + (1 - a) * kl(p, q))


def decoupled(p: Array, q: Array, target: float = 1.0, rest: float = 1.0, reverse: bool = False) -> Array:
    found = np.zeros((len(p), 2))
    for n in range(len(p)):
        first, second = (np.exp(p[n]), np.exp(q[n])) if reverse else (np.exp(q[n]), np.exp(p[n]))
        y, others = Y[n], np.arange(V) != Y[n]
        two = [(first[y], second[y]), (1 - first[y], 1 - second[y])]
        found[n, 0] = target * sum(f * np.log(f / s) for f, s in two)
        f, s = first[others] / first[others].sum(), second[others] / second[others].sum()
        found[n, 1] = rest * (f * np.log(f / s)).sum()
    return found


def score_matching(p: Array, q: Array, a: str, b: str, fixed: Array | None = None) -> Array:
    """The double sum over pairs, all of it in the first entry."""
    weights = {"teacher": np.exp(q), "student": np.exp(p if fixed is None else fixed), "uniform": np.full_like(q, 1 / V)}
    d, found = p - q, np.zeros_like(p)
    found[:, 0] = 0.5 * (weights[a][:, :, None] * weights[b][:, None, :] * (d[:, None, :] - d[:, :, None]) ** 2).sum((1, 2))
    return found


def ranked(p: Array, q: Array) -> Array:
    found = np.zeros_like(p)
    for n in range(len(p)):
        order = np.argsort(-q[n])
        for k, v in enumerate(order):
            found[n, v] = -(p[n, v] - np.log(np.exp(p[n, order[k:]]).sum()))
    return found


Reference = tuple[dict[str, Any], Callable[[Array, Array], Array]]
REFERENCES: dict[str, list[Reference]] = {
    "forward_kl": [({}, lambda p, q: kl(q, p))],
    "reverse_kl": [({}, lambda p, q: kl(p, q))],
    "generalized_jsd": [({"beta": b}, lambda p, q, b=b: b * kl(q, mixed(b, q, p)) + (1 - b) * kl(p, mixed(b, q, p))) for b in (0.5, 0.1, 0.9)],  # type: ignore[misc]
    "skew_forward_kl": [({"skew": a}, lambda p, q, a=a: kl(q, mixed(a, q, p))) for a in (0.0, 0.1, 0.7)],  # type: ignore[misc]
    "skew_reverse_kl": [({"skew": a}, lambda p, q, a=a: kl(p, mixed(a, p, q))) for a in (0.0, 0.1, 0.7)],  # type: ignore[misc]
    "total_variation": [({}, lambda p, q: np.abs(np.exp(q) - np.exp(p)) / 2)],
    "squared_hellinger": [({}, lambda p, q: (np.sqrt(np.exp(q)) - np.sqrt(np.exp(p))) ** 2)],
    "pearson_chi2": [({}, lambda p, q: (np.exp(q) - np.exp(p)) ** 2 / np.exp(p))],
    "alpha": [({"alpha": a}, lambda p, q, a=a: alpha(p, q, a)) for a in (0.0, 0.3, 0.5, 0.9, 1.0, 2.0, -0.5)],  # type: ignore[misc]
    "alpha_beta": [({"alpha": a, "beta": b}, lambda p, q, a=a, b=b: alpha_beta(p, q, a, b))  # type: ignore[misc]
                   for a, b in ((0.2, 0.7), (1.0, 0.0), (0.0, 1.0), (0.6, 0.0), (0.0, 0.4), (0.5, -0.5), (0.0, 0.0), (1.0, 1.0), (1.3, -0.2))],
    "adaptive_kl": [({"mu": m, "crossing": c}, lambda p, q, m=m, c=c: adaptive(p, q, m, c)) for m in (0.05, 0.5, 0.8, 1.0) for c in ("tail", "head")],  # type: ignore[misc]
    "entrywise_kl": [({"beta": b}, lambda p, q, b=b: entrywise(p, q, b)) for b in (0.0, 1.0, 2.5)],  # type: ignore[misc]
    "decoupled": [(fields, lambda p, q, f=fields: decoupled(p, q, **f)) for fields in ({}, {"target": 0.0, "rest": 0.7}, {"target": 0.3, "reverse": True})],  # type: ignore[misc]
    "logit_difference": [({"a": a, "b": b}, lambda p, q, a=a, b=b: score_matching(p, q, a, b))  # type: ignore[misc]
                         for a, b in (("teacher", "teacher"), ("student", "student"), ("uniform", "uniform"), ("teacher", "student"))],
    "entropy": [({}, lambda p, q: -np.exp(p) * p)],
    "plackett_luce": [({}, ranked)],
    "k1": [({}, lambda p, q: p - q)],
    "k2": [({}, lambda p, q: (p - q) ** 2 / 2)],
    "k3": [({}, lambda p, q: np.exp(q) / np.exp(p) - 1 + (p - q))],
    "bounded_k2": [({"tau": tau}, lambda p, q, tau=tau: np.log(2) - np.log(1 + np.exp(-((p - q) ** 2) / (2 * tau)))) for tau in (0.3, 1.0)],
}  # fmt: skip
# Weights that carry no gradient: the formula with the student inside them held fixed.
FIXED: dict[str, Callable[..., Array]] = {"adaptive_kl": adaptive, "entrywise_kl": entrywise, "logit_difference": score_matching}
ALL = [(kind, fields, formula) for kind, references in REFERENCES.items() for fields, formula in references]
SAMPLED = ("k1", "k2", "k3", "bounded_k2")
# k1 to k3 see the written token alone, entropy no teacher, and a ranking has no zero; `decoupled` has its own test.
WHOLE = [(kind, fields) for kind, fields, _ in ALL if kind not in (*SAMPLED, "entropy", "plackett_luce", "decoupled")]


def entries(kind: str, fields: dict[str, Any], p: Any, q: Any, n: int = 6) -> torch.Tensor:
    """Entries at the written tokens."""
    found: torch.Tensor = build("divergence", kind, **fields).at_tokens(p, q, tensor(Y[:n]))
    return found


@pytest.mark.parametrize(("kind", "fields", "formula"), ALL)
def test_entries(kind: str, fields: dict[str, Any], formula: Callable[[Array, Array], Array]) -> None:
    found, expected = entries(kind, fields, tensor(P), tensor(Q)).numpy(), formula(P, Q)
    if kind == "logit_difference":  # a double sum, which no entry owns
        found, expected = found.sum(-1), expected.sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize(("kind", "fields", "formula"), ALL)
def test_gradient(kind: str, fields: dict[str, Any], formula: Callable[[Array, Array], Array]) -> None:
    logits = P[:2] + 0.3
    found = gradient(lambda z: entries(kind, fields, z.log_softmax(-1), tensor(Q[:2]), 2).sum(), logits)
    held = FIXED.get(kind)
    plain: Callable[[Array], float] = lambda z: float(formula(log_softmax(z), Q[:2]).sum())  # noqa: E731
    if held is not None:
        plain = lambda z: float(held(log_softmax(z), Q[:2], **fields, fixed=P[:2]).sum())  # noqa: E731
    np.testing.assert_allclose(found, slope(plain, logits), atol=1e-7)


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


def test_the_bounded_k2_is_k2_near_the_teacher_and_lets_go_far_from_it() -> None:
    """Its slope, d / (tau (1 + exp(d^2 / 2 tau))), is 0.393 at most for tau 1; its value stays below log 2."""
    gap = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
    value = build("divergence", "bounded_k2").entries(gap, torch.zeros_like(gap))
    [slope] = torch.autograd.grad(value.sum(), gap)
    np.testing.assert_allclose(slope.numpy(), (gap / (1 + (gap**2 / 2).exp())).detach().numpy(), atol=1e-14)
    assert float(slope.max()) == pytest.approx(0.393, abs=5e-4) and float(slope[0].abs()) < 1e-12
    assert float(value.detach().max()) < np.log(2) + 1e-15
    small = torch.tensor([1e-4], dtype=torch.float64)
    halved = build("divergence", "k2").entries(small, torch.zeros_like(small)) / 2
    torch.testing.assert_close(build("divergence", "bounded_k2").entries(small, torch.zeros_like(small)), halved, rtol=1e-4, atol=0)


def test_k1_and_k3_estimate_the_value_of_the_reverse_kl_without_bias() -> None:
    value = kl(P, Q).sum(-1)
    for kind in ("k1", "k3"):
        found = (np.exp(P) * build("divergence", kind).entries(tensor(P), tensor(Q)).numpy()).sum(-1)
        np.testing.assert_allclose(found, value, atol=1e-14)


@pytest.mark.parametrize(("kind", "fields"), [(kind, fields) for kind, fields in WHOLE if not build("divergence", kind, **fields).whole])
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


GENERATED = [(kind, fields) for kind, fields, _ in ALL if isinstance(build("divergence", kind, **fields), FDivergence)]


def test_every_f_divergence_of_the_catalogue_has_a_generator() -> None:
    assert {kind for kind, _ in GENERATED} == {
        "forward_kl", "reverse_kl", "generalized_jsd", "skew_forward_kl", "skew_reverse_kl", "total_variation", "alpha", "squared_hellinger", "pearson_chi2",
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), GENERATED)
def test_generator(kind: str, fields: dict[str, Any]) -> None:
    """sum p f(q / p) is the divergence, f(1) = 0, and w_f = u f' - f by autograd."""
    divergence = build("divergence", kind, **fields)
    value = (np.exp(P) * divergence.generator(tensor(Q - P)).numpy()).sum(-1)
    np.testing.assert_allclose(value, divergence.entries(tensor(P), tensor(Q)).sum(-1).numpy(), atol=1e-12)
    assert float(divergence.generator(torch.zeros((), dtype=torch.float64))) == pytest.approx(0.0, abs=1e-15)
    log_u = tensor(np.array([-20.0, -3.0, -0.2, 0.4, 2.0, 6.0])).requires_grad_()
    u = log_u.exp()
    [along] = torch.autograd.grad(divergence.generator(u.log()).sum(), u)
    np.testing.assert_allclose(divergence.pg_weight(log_u).detach().numpy(), (u * along - divergence.generator(log_u)).detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "fields"), GENERATED)
def test_the_policy_gradient_weight_descends_the_divergence(kind: str, fields: dict[str, Any]) -> None:
    """E_{y ~ p}[-w_f(u(y)) grad log p(y)] is the gradient of the divergence in the logits, in every state (A.3)."""
    divergence = build("divergence", kind, **fields)
    direct = gradient(lambda z: divergence.entries(z.log_softmax(-1), tensor(Q)).sum(), P)
    w, p = divergence.pg_weight(tensor(Q - P)).numpy(), np.exp(P)
    np.testing.assert_allclose(direct, -p * (w - (p * w).sum(-1, keepdims=True)), atol=1e-12)


def test_alpha_and_alpha_beta_have_the_others_as_limits() -> None:
    def value(kind: str, **fields: Any) -> Array:
        return entries(kind, fields, tensor(P), tensor(Q)).sum(-1).numpy()  # type: ignore[no-any-return]

    for near in (0.0, 1e-9, -1e-9):
        np.testing.assert_allclose(value("alpha", alpha=near), value("reverse_kl"), atol=1e-7)
        np.testing.assert_allclose(value("alpha", alpha=1.0 + near), value("forward_kl"), atol=1e-7)
        np.testing.assert_allclose(value("alpha_beta", alpha=1.0, beta=near), value("forward_kl"), atol=1e-7)
        np.testing.assert_allclose(value("alpha_beta", alpha=near, beta=1.0), value("reverse_kl"), atol=1e-7)
    np.testing.assert_allclose(value("alpha", alpha=0.5), 2 * value("squared_hellinger"), atol=1e-13)
    np.testing.assert_allclose(value("alpha", alpha=2.0), value("pearson_chi2") / 2, atol=1e-12)
    for a in (0.2, 0.5, 0.9):
        np.testing.assert_allclose(value("alpha_beta", alpha=a, beta=1 - a), value("alpha", alpha=a), atol=1e-13)
    for b, near in ((0.0, 1e-5), (-0.6, -0.6 + 1e-5)):  # the lines of vanishing denominators are met from beside
        np.testing.assert_allclose(value("alpha_beta", alpha=0.6, beta=near), value("alpha_beta", alpha=0.6, beta=b), rtol=1e-3)


def test_entrywise_at_beta_0_is_half_of_each_kl_and_adaptive_at_mu_1_the_forward_one() -> None:
    forward, reverse = (build("divergence", kind).entries(tensor(P), tensor(Q)) for kind in ("forward_kl", "reverse_kl"))
    assert torch.allclose(build("divergence", "entrywise_kl", beta=0).entries(tensor(P), tensor(Q)), (forward + reverse) / 2)
    found = build("divergence", "adaptive_kl", mu=1.0, crossing="head").entries(tensor(P), tensor(Q))
    assert torch.allclose(found, forward)


def test_decoupled_parts_make_up_the_forward_kl() -> None:
    """KL(q || p) = TCKD + (1 - q(y)) NCKD."""
    parts = entries("decoupled", {}, tensor(P), tensor(Q)).numpy()
    rest = 1 - np.exp(np.take_along_axis(Q, Y[:, None], -1)[:, 0])
    np.testing.assert_allclose(parts[:, 0] + rest * parts[:, 1], kl(Q, P).sum(-1), atol=1e-13)
    assert entries("decoupled", {}, tensor(Q), tensor(Q)).abs().max() < 1e-14


def test_a_ranking_is_likeliest_in_the_teachers_order() -> None:
    agreeing, opposed = entries("plackett_luce", {}, tensor(Q), tensor(Q)).sum(-1), entries("plackett_luce", {}, tensor(-Q), tensor(Q)).sum(-1)
    assert (agreeing < opposed).all()
    shifted = entries("plackett_luce", {}, tensor(P) + 7.0, tensor(Q))
    assert torch.allclose(shifted, entries("plackett_luce", {}, tensor(P), tensor(Q)))


@pytest.mark.parametrize(
    ("kind", "fields"), [(kind, fields) for kind, fields, _ in ALL if kind not in ("k1", "k2", "k3", "bounded_k2") and fields.get("alpha", 0) >= 0]
)
def test_a_token_that_the_teacher_rules_out_gives_numbers(kind: str, fields: dict[str, Any]) -> None:
    """-inf arrives as the view's floor; neither value nor gradient may be NaN (trl#5594)."""
    floored = np.where(np.arange(V) == 2, -1e4, Q)
    logits = torch.tensor(P, dtype=torch.float32, requires_grad=True)
    found = entries(kind, fields, logits.log_softmax(-1), torch.tensor(floored, dtype=torch.float32)).sum()
    [slopes] = torch.autograd.grad(found, logits)
    assert not torch.isnan(found)
    assert torch.isfinite(slopes).all()
