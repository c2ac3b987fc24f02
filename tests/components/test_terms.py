"""Whole terms on six tokens: value and gradient against formulas in plain numpy, with gates, weights and denominators in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zoo.method import Method

from .compose import contexts_of, entry_of, legal, loss_of
from .six import LOGITS, MASK, TOKENS, Array, build, gradient, log_softmax, logp, rollout, sampled, slope, tensor

MODELS = {name: tensor(values) for name, values in LOGITS.items()}
REWARDS = {"correct": torch.tensor([1.0, 0.0], dtype=torch.float64)}
S, T = sampled("student"), sampled("teacher")


def written(logits: Array) -> Array:
    return np.take_along_axis(log_softmax(logits), TOKENS[..., None], -1)[..., 0]


def check(objective: list[dict[str, Any]], expected: Callable[[Array], float], *, chunk: int = 4, values: Any = None, **sections: Any) -> None:
    """The loss equals `expected` (of the student's logits) and its gradient the finite differences, signals held fixed."""
    method, streams = Method(legal(entry_of(objective, **sections))), {"main": rollout()}
    prepared = method.prepare(contexts_of(method, streams, MODELS, REWARDS, values))

    def loss(student: torch.Tensor) -> torch.Tensor:
        return loss_of(method, prepared, streams, {**MODELS, "student": student}, chunk=chunk, values=values)

    assert float(loss(MODELS["student"])) == pytest.approx(expected(LOGITS["student"]), abs=1e-6)
    np.testing.assert_allclose(gradient(loss, LOGITS["student"]), slope(expected, LOGITS["student"]), atol=1e-6)


def tempered(logits: Array, tau: float) -> Array:
    p, q = log_softmax(logits / tau), log_softmax(LOGITS["teacher"] / tau)
    return np.asarray((np.exp(q) * (q - p)).sum(-1))


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_divergence(chunk: int) -> None:
    """Hinton's temperature with its square, a gate, a coefficient, the mean over all valid tokens."""
    entropy = -(np.exp(logp("teacher")) * logp("teacher")).sum(-1)
    kept = MASK & (entropy > 1.2)
    assert 0 < kept.sum() < 6
    term = {
        "term": "divergence", "divergence": "forward_kl", "temperature": 2.0, "rescale": True, "coefficient": 0.7,
        "gates": ({"kind": "teacher_entropy", "above": 1.2},), "reduce": "token_mean",
    }  # fmt: skip
    check([term], lambda z: 0.7 * 4.0 * tempered(z, 2.0)[kept].sum() / 6, chunk=chunk)
    check([{**term, "reduce": {"kind": "token_mean", "over": "kept"}}], lambda z: 0.7 * 4.0 * tempered(z, 2.0)[kept].sum() / kept.sum())


def test_divergence_with_entries_and_tokens_clipped() -> None:
    def expected(z: Array) -> float:
        entries = np.exp(logp("teacher")) * (logp("teacher") - log_softmax(z))
        return float(np.clip(np.minimum(entries, 0.3).sum(-1), -0.2, 0.2)[MASK].sum() / 2 / 10)

    shaping = ({"kind": "clip", "at": 0.3, "side": "upper", "where": "entry"}, {"kind": "clip", "at": 0.2, "where": "token"})
    check([{"term": "divergence", "divergence": "forward_kl", "shaping": shaping, "reduce": {"fixed": 10}}], expected)


def test_divergence_to_a_moving_target() -> None:
    """The student inside the target carries no gradient."""
    target = log_softmax(0.6 * logp("student") + 0.4 * logp("teacher"))
    teachers = {"teacher": {"kind": "external", "target": {"kind": "interpolate", "t": 0.4}}}
    kl: Callable[[Array], float] = lambda z: float((np.exp(target) * (target - log_softmax(z))).sum(-1)[MASK].sum() / 6)  # noqa: E731
    check([{"term": "divergence", "divergence": "forward_kl", "reduce": "token_mean"}], kl, teachers=teachers)


def test_likelihood() -> None:
    expected: Callable[[Array], float] = lambda z: -0.5 * (written(z)[0].mean() + written(z)[1, :2].mean())  # noqa: E731
    check([{"term": "likelihood", "reduce": "sequence_mean"}], expected, rollouts={"main": "dataset"}, teachers={})


CONTRAST = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}


def test_policy_gradient_in_its_order() -> None:
    """reward -> credit -> baseline -> shaping -> gates -> weights -> denominator."""
    kl = (np.exp(logp("student")) * (logp("student") - logp("teacher"))).sum(-1)
    reward = np.where(MASK, T - S, 0)
    ahead = reward + 0.5 * np.append(reward[:, 1:], np.zeros((2, 1)), 1)
    for _ in range(2):
        ahead = reward + 0.5 * np.append(ahead[:, 1:], np.zeros((2, 1)), 1)
    advantage = np.clip(ahead + kl, -1.0, 1.0)
    kept = MASK & (advantage > -0.9)
    assert 0 < kept.sum() < 6
    perplexity = np.exp(-np.where(MASK, S, 0).sum(1) / MASK.sum(1))
    weight = kept * (perplexity / perplexity.mean())[:, None]
    term = {
        "term": "policy_gradient", "reward": CONTRAST, "credit": {"kind": "discounted", "gamma": 0.5}, "baseline": "kl",
        "shaping": ({"kind": "clip", "at": 1.0},), "gates": ({"kind": "advantage", "above": -0.9},), "weights": ("perplexity",), "reduce": "token_mean",
    }  # fmt: skip
    check([term], lambda z: float(-(weight * advantage * written(z))[MASK].sum() / 6))


def test_policy_gradient_with_a_clipped_product_of_ratios() -> None:
    """Both surrogates see the whole product; the frozen factor carries no gradient."""
    old, writer = sampled("reference"), sampled("old")
    advantage = T - S

    def expected(z: Array) -> float:
        rho = np.exp(old - writer) * np.exp(written(z) - old)
        return float(np.maximum(-advantage * rho, -advantage * np.clip(rho, 0.9, 1.1))[MASK].sum() / 6)

    term = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "ratio": ("mixture_importance", {"ppo_clip": 0.1}), "reduce": "token_mean"}
    check([term], expected, rollouts={"main": {"author": "student", "reuse": {"minibatches": 2}}})


def test_policy_gradient_with_frozen_factors_alone() -> None:
    """Where no factor carries a gradient, the score function does: -A rho log p."""
    advantage, rho = T - S, np.exp(sampled("reference") - sampled("old"))
    term = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "ratio": ("mixture_importance",), "reduce": "token_mean"}
    check([term], lambda z: float(-(advantage * rho * written(z))[MASK].sum() / 6), rollouts={"main": {"author": "student", "reuse": {"minibatches": 2}}})


def test_policy_gradient_of_a_verifier_and_a_critic() -> None:
    """A critic's advantages, and the returns that it is to learn: advantage + value."""
    value = np.array([[0.4, 0.1, -0.2, 0.3], [0.6, 0.2, 9.0, 9.0]])
    last = np.array([[0, 0, 0, 1.0], [0, 0, 0, 0]])
    after = np.append(np.where(MASK, value, 0)[:, 1:], np.zeros((2, 1)), 1)
    delta = np.where(MASK, last + after - value, 0)
    advantage = np.zeros_like(delta)
    for t in range(3, -1, -1):
        advantage[:, t] = delta[:, t] + (0.9 * advantage[:, t + 1] if t < 3 else 0.0)
    sections: dict[str, Any] = {"rewards": {"correct": "verifier"}, "learners": {"value": "value_head"}, "teachers": {}}
    term = {"term": "policy_gradient", "reward": "correct", "credit": {"kind": "gae", "lambda": 0.9}, "reduce": "token_mean"}
    check([term], lambda z: float(-(advantage * written(z))[MASK].sum() / 6), values={"value": tensor(value)}, **sections)
    method = Method(entry_of([term], **sections))
    [part] = method.prepare(contexts_of(method, {"main": rollout()}, MODELS, REWARDS, {"value": tensor(value)}))
    np.testing.assert_allclose(part.columns["value_target"].numpy()[MASK], (advantage + value)[MASK], atol=1e-6)


@pytest.mark.parametrize(("routing", "share"), [("teacher", None), ({"kind": "teacher_topk", "k": 2}, 2)])
def test_policy_gradient_that_routes_negative_updates(routing: Any, share: int | None) -> None:
    """A > 0: -A log p(y); A < 0: |A| (log p(y) - sum_j rho_j log p(j))."""
    advantage, q = T - S, np.exp(logp("teacher"))
    rho = q if share is None else np.where(q >= np.sort(q, -1)[..., [-share]], q, 0)
    rho = rho / rho.sum(-1, keepdims=True)

    def expected(z: Array) -> float:
        moved = np.abs(advantage) * (written(z) - (rho * log_softmax(z)).sum(-1))
        return float(np.where(advantage < 0, moved, -advantage * written(z))[MASK].sum() / 6)

    assert {True, False} == set((advantage < 0)[MASK])
    check([{"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "routing": routing, "reduce": "token_mean"}], expected)


def test_policy_gradient_that_pushes_the_students_best() -> None:
    """-sum over the k best of their renormalised probability times the clipped log-ratio times log p, weights and advantages held."""
    p, q = logp("student"), logp("teacher")
    best = p >= np.sort(p, -1)[..., [-3]]
    weight = np.where(best, np.exp(p), 0) / np.where(best, np.exp(p), 0).sum(-1, keepdims=True)
    advantage = np.clip(q - p, -0.8, 0.8)
    term = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "routing": {"kind": "student_topk", "k": 3},
            "shaping": ({"kind": "clip", "at": 0.8},), "reduce": "token_mean"}  # fmt: skip
    check([term], lambda z: float(-(weight * advantage * log_softmax(z)).sum(-1)[MASK].sum() / 6))


def test_the_students_whole_vocabulary_is_the_exact_reverse_kl() -> None:
    method = Method(legal(entry_of([{"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "routing": {"kind": "student_topk", "k": 9},
                                     "reduce": "token_mean"}])))  # fmt: skip
    direct = Method(legal(entry_of([{"term": "divergence", "divergence": "reverse_kl", "reduce": "token_mean"}])))
    slopes = []
    for each in (method, direct):
        streams = {"main": rollout()}
        prepared = each.prepare(contexts_of(each, streams, MODELS, REWARDS))
        slopes.append(
            gradient(lambda z, each=each, prepared=prepared: loss_of(each, prepared, {"main": rollout()}, {**MODELS, "student": z}), LOGITS["student"])
        )  # type: ignore[misc]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-7)


def test_policy_gradient_with_many_samples() -> None:
    """One sample is the sampled rule; many come near the expectation; the draws do not depend on how the tokens are split."""

    def slopes(n: int | None, chunk: int = 4) -> Array:
        routing: Any = "sampled" if n is None else {"kind": "multi_sample", "n": n}
        term = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "routing": routing, "ratio": ("importance",), "reduce": "token_mean"}
        method = Method(legal(entry_of([term], rollouts={"main": {"author": "student", "reuse": {"minibatches": 2}}})))
        prepared = method.prepare(contexts_of(method, {"main": rollout()}, MODELS, REWARDS))
        return gradient(lambda z: loss_of(method, prepared, {"main": rollout()}, {**MODELS, "student": z}, chunk=chunk), LOGITS["student"])

    np.testing.assert_allclose(slopes(1), slopes(None), atol=1e-12)
    np.testing.assert_allclose(slopes(4, chunk=1), slopes(4, chunk=6), atol=1e-12)
    p, ell = np.exp(logp("student")), logp("teacher") - logp("student")
    expected = -p * (ell - (p * ell).sum(-1, keepdims=True)) * MASK[..., None] / 6
    np.testing.assert_allclose(slopes(5000), expected, atol=6e-3)


def test_routed_updates_leave_other_logits_alone() -> None:
    """D.10: where rho sums to one, a redirected token moves no logit outside rho and itself."""
    routed = {"kind": "counterfactual", "tau_teacher": 0.1}
    objective = [{"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "routing": routed, "reduce": "sum"}]
    method, streams = Method(legal(entry_of(objective))), {"main": rollout()}
    prepared = method.prepare(contexts_of(method, streams, MODELS, REWARDS))
    slopes = gradient(lambda z: loss_of(method, prepared, streams, {**MODELS, "student": z}), LOGITS["student"])
    routing = method.entry.objective[0].routing  # type: ignore[attr-defined]
    rho, applies = (found.numpy() for found in routing.redirect(tensor(logp("student")[MASK]), tensor(logp("teacher")[MASK]), tensor(TOKENS[MASK])))
    assert applies.any()
    for n in np.flatnonzero(applies):
        untouched = (rho[n] == 0) & (np.arange(rho.shape[1]) != TOKENS[MASK][n])
        np.testing.assert_allclose(slopes[MASK][n][untouched], 0.0, atol=1e-15)


@pytest.mark.parametrize("against", ["reference", "teacher"])
@pytest.mark.parametrize("kept", [(1,), (0, 1)])
def test_log_prob_loss(kept: tuple[int, ...], against: str) -> None:
    """The mean over kept pairs, and the gradient of the whole preference through weighted log-probabilities."""
    rollouts = {"good": {"author": "teacher"}, "bad": {"author": "student"}}
    term = {"term": "log_prob_loss", "loss": {"kind": "dpo", "beta": 0.7}, "chosen": "good", "rejected": "bad", "coefficient": 1.3, "reference": against,
            "keep_rejected": ({"kind": "reward", "name": "correct", "below": 0.5 if kept == (1,) else 2.0},)}  # fmt: skip
    method = Method(legal(entry_of([term], rollouts=rollouts, rewards={"correct": "verifier"}, teachers={"teacher": "external"})))
    streams = {"good": rollout().rows([1, 0]), "bad": rollout()}
    streams["good"] = type(streams["bad"])(**{**vars(streams["good"]), "prompts": streams["bad"].prompts})
    contexts = contexts_of(method, {"bad": streams["bad"]}, MODELS, REWARDS)
    flipped = {name: values.flip(0) for name, values in MODELS.items()}
    contexts |= contexts_of(method, {"good": streams["good"]}, flipped, REWARDS)
    prepared = method.prepare(contexts)

    def expected(z: Array) -> float:
        margin = np.where(MASK, written(z) - sampled(against), 0).sum(1)
        # Pair i compares the other row's text, which is the good stream's, with row i's; only the second row's is wrong.
        losses = [np.log(1 + np.exp(-0.7 * (margin[1 - i] - margin[i]))) for i in kept]
        return float(1.3 * np.mean(losses))

    def loss(student: torch.Tensor) -> torch.Tensor:
        bad = loss_of(method, [p for p in prepared if p.stream == "bad"], {"bad": streams["bad"]}, {**MODELS, "student": student})
        good = loss_of(method, [p for p in prepared if p.stream == "good"], {"good": streams["good"]}, {**flipped, "student": student.flip(0)})
        return bad + good

    values = [part.value for part in prepared if part.value is not None]
    assert [float(value) for value in values] == pytest.approx([expected(LOGITS["student"])], abs=1e-6)
    np.testing.assert_allclose(gradient(loss, LOGITS["student"]), slope(expected, LOGITS["student"]), atol=1e-6)


def test_a_sum_of_terms_is_the_sum_and_windows_open_and_close() -> None:
    first: dict[str, Any] = {"term": "divergence", "divergence": "forward_kl", "reduce": "token_mean", "during": (0.0, 0.5)}
    second: dict[str, Any] = {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "reduce": "token_mean",
              "coefficient": {"schedule": "linear", "start": 0, "end": 1}}  # fmt: skip
    streams = {"main": rollout()}
    losses = {}
    for objective in ("first", "second", "both"):
        terms = {"first": [first], "second": [second], "both": [first, second]}[objective]
        for progress in (0.25, 0.5, 1.0):
            method = Method(legal(entry_of(terms)), progress)
            prepared = method.prepare(contexts_of(method, streams, MODELS, REWARDS))
            losses[objective, progress] = float(loss_of(method, prepared, streams, MODELS)) if prepared else 0.0
    for progress in (0.25, 0.5, 1.0):
        assert losses["both", progress] == pytest.approx(losses["first", progress] + losses["second", progress], abs=1e-9)
    assert losses["first", 0.25] > 0.0
    assert losses["first", 0.5] == losses["first", 1.0] == 0.0
    assert losses["second", 1.0] == pytest.approx(2 * losses["second", 0.5], abs=1e-9)


class Hidden:
    """A view of hidden states alone: two layers of three numbers, the student's doubled where they are projected."""

    def __init__(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        self.held = {"student": list(student), "teacher": list(teacher)}

    def states(self, scorer: str, layers: str) -> list[torch.Tensor]:
        return self.held[scorer] if layers == "all" else self.held[scorer][-1:]

    def projected(self, learner: str, states_NH: torch.Tensor, place: int) -> torch.Tensor:
        assert learner == "bridge"
        return 2.0 * states_NH + place


@pytest.mark.parametrize("projector", [None, "bridge"])
@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("distance", ["mse", "normalised_mse", "cosine"])
def test_representation(distance: str, layers: str, projector: str | None) -> None:
    rng = np.random.default_rng(4)
    h, g = rng.normal(size=(2, 2, 6, 3))
    student, teacher = tensor(h).requires_grad_(), tensor(g).requires_grad_()
    term = build("term", "representation", distance=distance, layers=layers, projector=projector, reduce="token_mean")
    found = term.token_loss(Hidden(student, teacher), {})

    def length(x: Array) -> Array:
        return np.sqrt((x**2).sum(-1, keepdims=True))

    def apart(h: Array) -> Array:
        mapped = h if projector is None else 2.0 * h + (np.arange(2)[:, None, None] if layers == "all" else 0.0)
        unit, other = mapped / length(mapped), g / length(g)
        each = {"mse": (mapped - g) ** 2 / 3.0, "normalised_mse": (unit - other) ** 2, "cosine": 1.0 / 3.0 - unit * other}[distance].sum(-1)
        return each.mean(0) if layers == "all" else each[-1]

    np.testing.assert_allclose(found.detach().numpy(), apart(h), rtol=1e-10)
    slopes, none = torch.autograd.grad(found.sum(), [student, teacher], allow_unused=True)
    assert none is None
    for place in np.ndindex(h.shape):
        step = np.zeros_like(h)
        step[place] = 1e-6
        assert float(slopes[place]) == pytest.approx((apart(h + step) - apart(h - step)).sum() / 2e-6, rel=1e-5, abs=1e-7)


REFERENCES = {
    "divergence": [test_divergence, test_divergence_with_entries_and_tokens_clipped, test_divergence_to_a_moving_target],
    "likelihood": [test_likelihood],
    "policy_gradient": [test_policy_gradient_in_its_order, test_policy_gradient_of_a_verifier_and_a_critic],
    "log_prob_loss": [test_log_prob_loss],
    "representation": [test_representation],
}
