"""What an estimator ought to estimate, written in numpy from the formulas, without any component.

All are gradients of a *loss* in the student's logits, (S, V): (a) of a per-state divergence with the visited states frozen,
(b) of a sequence-level objective, (c) of minus the expected verifier reward. A score-function estimator's exact mean is
field(A) = -d(s) p_j (A(s, j) - sum_v p_v A(s, v)), with d(s) the expected number of visits and A(s, v) the expected advantage of
token v in state s (catalogue D.1, D.2, D.5; A.3 for the weights of the divergences).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zoo.lab.world import Array, World

MOST = 1e18  # steps to the end, where a credit has no horizon


def log_softmax(logits_SV: Array) -> Array:
    """Log-probabilities of each row."""
    shifted = logits_SV - logits_SV.max(-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def visits(world: World, law_SV: Array) -> Array:
    """d(s): the probability that a text of this law passes each state."""
    found = np.zeros(len(world.states))
    found[0] = 1.0
    for s in range(len(world.states)):
        for v in range(world.vocabulary):
            if (child := world.children[s, v]) >= 0:
                found[child] += found[s] * law_SV[s, v]
    return found


def action_values(world: World, law_SV: Array, reward_SV: Array, gamma: float = 1.0, steps: float = MOST) -> Array:
    """E[sum over t <= k < t + steps of gamma^(k-t) r_k | s_t, y_t = v], (S, V)."""
    found = reward_SV.copy()
    if steps <= 1:
        return found
    later = reward_SV if steps == 2 else None
    if steps not in (2, MOST):
        later = action_values(world, law_SV, reward_SV, gamma, steps - 1)
    for s in reversed(range(len(world.states))):
        for v in range(world.vocabulary):
            if (child := world.children[s, v]) >= 0:
                ahead = found if later is None else later
                found[s, v] += gamma * float(law_SV[child] @ ahead[child])
    return found


def field(weight_S: Array, p_SV: Array, advantage_SV: Array) -> Array:
    """The mean of -A times the score of the written token, at states of these weights."""
    mean_S1 = (p_SV * advantage_SV).sum(-1, keepdims=True)
    found: Array = -weight_S[:, None] * p_SV * (advantage_SV - mean_S1)
    return found


def terminal(world: World, verdict: Array) -> Array:
    """A sequence's reward as a reward of its last token, (S, V)."""
    found = np.zeros((len(world.states), world.vocabulary))
    index = {prefix: i for i, prefix in enumerate(world.states)}
    for text, value in zip(world.texts, verdict, strict=True):
        found[index[text[:-1]], text[-1]] = value
    return found


def _weights(kind: str, part: Mapping[str, Any]) -> Callable[[Array], Array] | None:
    """w_f(u) of the f-divergences of the catalogue's table A.3."""
    beta, skew, alpha = part.get("beta", 0.5), part.get("skew", 0.1), part.get("alpha", 0.5)
    with np.errstate(all="ignore"):
        table: dict[str, Callable[[Array], Array]] = {
            "forward_kl": lambda u: u,
            "reverse_kl": np.log,
            "generalized_jsd": lambda u: (1 - beta) * np.log(beta * u + 1 - beta),
            "total_variation": lambda u: 0.5 * np.sign(u - 1),
            "squared_hellinger": lambda u: np.sqrt(u) - 1,
            "pearson_chi2": lambda u: u**2 - 1,
            "skew_reverse_kl": lambda u: np.log((1 - skew) * u + skew) - (1 - skew) * u / ((1 - skew) * u + skew),
            "skew_forward_kl": lambda u: u * (1 - skew) / (skew * u + 1 - skew),
            "k2": np.log,
            "k3": lambda u: u,
        }
        if kind == "alpha":
            return (lambda u: np.log(u)) if alpha == 0 else (lambda u: (u**alpha - 1) / alpha)
    return table.get(kind)


def divergence_weight(kind: str, part: Mapping[str, Any], u: Array) -> Array | None:
    """w_f of a kind at given ratios; None for a kind without a formula here."""
    weight = _weights(kind, part)
    return None if weight is None else weight(u)


def divergence_field(weight_S: Array, p_SV: Array, q_SV: Array, kind: str, part: Mapping[str, Any]) -> Array | None:
    """(a) for an f-divergence over the whole vocabulary; None for a kind without a formula here."""
    weight = divergence_weight(kind, part, q_SV / p_SV)
    return None if weight is None else field(weight_S, p_SV, weight)


def cross_entropy_field(tokens_SV: Array, p_SV: Array) -> Array:
    """The gradient of minus the expected log-probability of given tokens, from how often each is written in each state."""
    found: Array = tokens_SV.sum(-1, keepdims=True) * p_SV - tokens_SV
    return found


def contrast(part: Mapping[str, Any], logp: Mapping[str, Array]) -> Array:
    """The reward of each token, (S, V), of a contrast of scorers."""
    total = np.zeros_like(next(iter(logp.values())))
    for scorer, coefficient in part["of"].items():
        value = logp[scorer]
        if part["map"] == "probability":
            value = np.exp(value)
        elif part["map"] == "power":
            value = (np.exp(part["alpha"] * value) - 1) / part["alpha"]
        total = total + coefficient * value
    total = total / part["scale"]
    return total if part["clip"] is None else np.clip(total, -part["clip"], part["clip"])


def shaped(value: Array, part: Mapping[str, Any]) -> Array | None:
    """An advantage after a shaping that acts on each token alone; None for others."""
    if part["kind"] == "clip":
        return np.clip(value, -np.inf if part["side"] == "upper" else -part["at"], np.inf if part["side"] == "lower" else part["at"])
    if part["kind"] == "soft_log":
        return np.sign(value) * np.log1p(np.abs(value))
    if part["kind"] == "power":
        return np.sign(value) * np.abs(value) ** part["exponent"]
    if part["kind"] == "w_f":
        return divergence_weight(part["of"]["kind"], part["of"], np.exp(value))
    return None


def state_kl(p_SV: Array, q_SV: Array) -> Array:
    """KL(p || q) of each state."""
    found: Array = (p_SV * np.log(p_SV / q_SV)).sum(-1)
    return found


def receivers(p_V: Array, q_V: Array, token: int, part: Mapping[str, Any]) -> Array:
    """rho, where the mass of a token with a negative advantage goes (D.10; Part 5 items 9 and 10)."""
    if part["kind"] == "teacher":
        return q_V
    if part["kind"] == "teacher_topk":
        best = np.argsort(-q_V, kind="stable")[: part["k"]]
        rho_V = np.zeros_like(q_V)
        rho_V[best] = q_V[best]
        return rho_V / rho_V.sum()
    centred_V = np.log(q_V / p_V) + float((p_V * np.log(p_V / q_V)).sum())
    among_V = (q_V >= part["tau_teacher"]) & (p_V >= part["tau_student"]) & (centred_V > 0)
    among_V[token] = False
    if centred_V[token] >= 0 or not among_V.any():
        return p_V
    rho_V = np.where(among_V, q_V ** part["teacher_power"] * p_V ** part["student_power"], 0.0)
    return rho_V / rho_V.sum()


def routed_field(counts_SV: Array, p_SV: Array, q_SV: Array, advantage_SV: Array, part: Mapping[str, Any]) -> Array:
    """The mean gradient of the loss when negative updates are |A| (rho - e_y) in the logits and positive ones A (e_y - p)."""
    found = np.zeros_like(p_SV)
    for s, v in np.ndindex(*p_SV.shape):
        unit_V = np.eye(p_SV.shape[1])[v]
        a = advantage_SV[s, v]
        toward_V = a * (unit_V - p_SV[s]) if a >= 0 else -a * (receivers(p_SV[s], q_SV[s], v, part) - unit_V)
        found[s] -= counts_SV[s, v] * toward_V
    return found


def stop_bonus(world: World, p_SV: Array, cost_SV: Array) -> Array:
    """What immediate credit withholds from the logit of the stop token: d(s) p_stop E[cost-to-go of the next state], (S,) (D.4, Part 5 item 8)."""
    ahead_SV = action_values(world, p_SV, cost_SV) - cost_SV
    found: Array = visits(world, p_SV) * p_SV[:, world.stop] * (p_SV * ahead_SV).sum(-1)
    return found


def compare(found: Array, wanted: Array) -> tuple[float, float]:
    """Relative bias |found - wanted| / |wanted| and cosine; NaN where there is nothing to compare with."""
    size, own = float(np.linalg.norm(wanted)), float(np.linalg.norm(found))
    if size == 0.0:
        return float("nan"), float("nan")
    cosine = float((found * wanted).sum() / (size * own)) if own > 0 else 0.0
    return float(np.linalg.norm(found - wanted)) / size, cosine
