"""Ratios, routings, reductions, preferences, targets and schedules against plain formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.preferences import Sums
from zoo.components.routings import uniforms

from .six import MASK, Array, V, build, gradient, log_softmax, rows, sampled, slope, tensor

# Every token of the vocabulary as the written one, in each of the six states and in one where the student overrates two tokens.
STATES_P = np.append(rows("student"), np.log([[0.4, 0.3, 0.1, 0.1, 0.05, 0.05]]), 0)
STATES_Q = np.append(rows("teacher"), np.log([[0.1, 0.1, 0.5, 0.2, 0.05, 0.05]]), 0)
P, Q, Y = np.repeat(STATES_P, V, 0), np.repeat(STATES_Q, V, 0), np.tile(np.arange(V), len(STATES_P))
NOW, OLD, WRITER, TEACHER = (sampled(name)[MASK] for name in ("student", "reference", "old", "teacher"))
Table = dict[str, list[tuple[dict[str, Any], Any]]]


def cases(table: Table) -> list[tuple[str, dict[str, Any], Any]]:
    return [(kind, fields, expected) for kind, several in table.items() for fields, expected in several]


def shaped(gamma: float, rho: Array) -> Array:
    return np.asarray(rho / (rho + gamma))


# Factor as a function of the present log-probabilities, and the clipped product (None: not clipped).
RATIOS: Table = {
    "importance": [({}, (lambda now: np.exp(now - WRITER), None)), ({"cap": 0.9}, (lambda now: np.minimum(np.exp(now - WRITER), 0.9), None))],
    "trust_region": [
        ({"at": 0.2, "alpha": a}, (lambda now, a=a: np.exp(now) / (np.exp(OLD) ** a * np.exp(TEACHER) ** (1 - a)), lambda rho: np.clip(rho, 0.8, 1.2)))
        for a in (0.0, 0.5, 1.0)
    ],
    "one_sided": [
        ({"below": 0.5, "above": 2.0}, (lambda now: ((np.exp(now - OLD) >= 0.5) & (np.exp(now - OLD) <= 2.0)).astype(float), None)),
        ({"above": 1.1}, (lambda now: (np.exp(now - OLD) <= 1.1).astype(float), None)),
    ],
    "uncorrected": [({}, (lambda now: np.ones_like(now), None))],
    "mixture_importance": [({}, (lambda now: np.exp(OLD - WRITER) + 0 * now, None))],
    "ppo_clip": [
        ({"at": 0.2}, (lambda now: np.exp(now - OLD), lambda rho: np.clip(rho, 0.8, 1.2))),
        ({"at": 0.2, "upper": 0.3}, (lambda now: np.exp(now - OLD), lambda rho: np.clip(rho, 0.8, 1.3))),
    ],
    "shaped": [
        ({"gamma": 0.1}, (lambda now: shaped(0.1, np.exp(now)), None)),
        ({"gamma": 0.3, "behaviour": "known"}, (lambda now: shaped(0.3, np.exp(now - WRITER)), None)),
    ],
}


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(RATIOS))
def test_ratio(kind: str, fields: dict[str, Any], expected: Any) -> None:
    ratio, (factor, clip) = build("ratio", kind, **fields), expected
    old = {"student": tensor(OLD), "behaviour": tensor(WRITER), "teacher": tensor(TEACHER)}
    rho = ratio.factor(tensor(NOW), old)
    np.testing.assert_allclose(rho.numpy(), factor(NOW), atol=1e-12)
    clipped = ratio.clip(rho)
    assert (clipped is None) == (clip is None)
    if clip is not None:
        np.testing.assert_allclose(clipped.numpy(), clip(factor(NOW)), atol=1e-12)
    if ratio.frozen:
        assert not ratio.factor(tensor(NOW).requires_grad_(), old).requires_grad
    else:
        found = gradient(lambda now: ratio.factor(now, old).sum(), NOW)
        np.testing.assert_allclose(found, slope(lambda now: float(factor(now).sum()), NOW), atol=1e-7)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(RATIOS))
def test_a_ratio_reads_what_it_says(kind: str, fields: dict[str, Any], expected: Any) -> None:
    ratio = build("ratio", kind, **fields)
    known = {"student": tensor(OLD), "behaviour": tensor(WRITER), "teacher": tensor(TEACHER)}
    ratio.factor(tensor(NOW), {name: known[name] for name in (*ratio.reads, *ratio.scorers())})


def test_a_one_sided_mask_shuts_some_tokens_out_and_lets_others_pass() -> None:
    old = {"student": tensor(OLD)}
    assert set(build("ratio", "one_sided", above=1.1).factor(tensor(NOW), old).tolist()) == {0.0, 1.0}
    with pytest.raises(ValueError, match="give below, above or both"):
        build("ratio", "one_sided")


def test_a_trust_region_at_the_old_student_alone_is_the_ppo_ratio() -> None:
    old = {"student": tensor(OLD), "teacher": tensor(TEACHER)}
    assert torch.equal(build("ratio", "trust_region", alpha=1.0).factor(tensor(NOW), old), build("ratio", "ppo_clip").factor(tensor(NOW), old))


def routed(kind: str, **fields: Any) -> tuple[Array, Array]:
    """The distribution that receives the mass and where it applies, written out."""
    rho, applies = np.zeros_like(P), np.ones(len(P), dtype=bool)
    for n, y in enumerate(Y):
        p, q = np.exp(P[n]), np.exp(Q[n])
        if kind == "teacher":
            rho[n] = q
        elif kind == "teacher_topk":
            ids = np.argsort(-q)[: fields["k"]]
            rho[n, ids] = q[ids] / q[ids].sum()
        else:
            centred = Q[n] - P[n] + (p * (P[n] - Q[n])).sum()
            ok = [j for j in range(V) if j != y and q[j] >= fields["tau_teacher"] and p[j] >= fields["tau_student"] and centred[j] > 0]
            weight = np.array([q[j] ** fields["teacher_power"] * p[j] ** fields["student_power"] for j in ok])
            applies[n] = bool(ok) and centred[y] < 0
            if ok:
                rho[n, ok] = weight / weight.sum()
    return rho, applies


COUNTERFACTUAL = {"teacher_power": 0.7, "student_power": 0.4, "tau_teacher": 0.08, "tau_student": 0.05}
ROUTINGS: Table = {
    "sampled": [({}, None)],
    "teacher": [({}, routed("teacher"))],
    "teacher_topk": [({"k": k}, routed("teacher_topk", k=k)) for k in (1, 3, V)],
    "student_topk": [({"k": 2}, None)],  # candidates of their own, below
    "multi_sample": [({"n": 3}, None)],
    "counterfactual": [(COUNTERFACTUAL, routed("counterfactual", **COUNTERFACTUAL))],
}


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(ROUTINGS))
def test_routing(kind: str, fields: dict[str, Any], expected: Any) -> None:
    found = build("routing", kind, **fields).redirect(tensor(P), tensor(Q), tensor(Y))
    if expected is None:
        assert found is None
        return
    rho, applies = found
    np.testing.assert_array_equal(applies.numpy(), expected[1])
    np.testing.assert_allclose(rho.numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(rho[applies].sum(-1).numpy(), 1.0, atol=1e-12)


def test_counterfactual_acts_on_some_tokens_and_each_condition_shuts_some_out() -> None:
    _, applies = routed("counterfactual", **COUNTERFACTUAL)
    assert set(applies) == {True, False}
    centred = Q - P + (np.exp(P) * (P - Q)).sum(-1, keepdims=True)
    likely = (np.exp(Q) >= 0.08) & (np.exp(P) >= 0.05)
    assert (likely & (centred <= 0) & (np.arange(V) != Y[:, None]))[applies].any()
    assert (~likely & (centred > 0))[applies].any()


def test_counterfactual_without_alternatives_is_the_sampled_rule() -> None:
    """Thresholds that nothing passes leave no token to route to, so the rule applies nowhere."""
    rho, applies = build("routing", "counterfactual", tau_teacher=0.99, tau_student=0.99).redirect(tensor(P), tensor(Q), tensor(Y))
    assert not applies.any()
    assert torch.isfinite(rho).all()


NOISE = torch.randint(-(2**62), 2**62, (len(P),), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("k", [1, 3, V, V + 2])
def test_student_topk_candidates(k: int) -> None:
    index, weight = build("routing", "student_topk", k=k).candidates(tensor(P), tensor(Y), NOISE)
    for n in range(len(P) - V):  # the last state holds a tie
        best = np.argsort(-P[n])[:k]
        assert set(index[n].tolist()) == {int(v) for v in best}
        for v, w in zip(index[n].tolist(), weight[n].tolist(), strict=True):
            assert w == pytest.approx(np.exp(P[n, v]) / np.exp(P[n, best]).sum(), abs=1e-12)


def test_multi_sample_draws_from_the_student_after_the_written_token() -> None:
    state, noise = tensor(P[:1]).expand(20_000, -1), torch.randint(-(2**62), 2**62, (20_000,), generator=torch.Generator().manual_seed(1))
    written = torch.full((20_000,), 4)
    index, weight = build("routing", "multi_sample", n=5).candidates(state, written, noise)
    assert index.shape == weight.shape == (20_000, 5)
    assert (index[:, 0] == 4).all()
    assert torch.allclose(weight.sum(-1), torch.ones(20_000))
    for r in range(1, 5):
        shares = torch.bincount(index[:, r], minlength=V) / 20_000
        np.testing.assert_allclose(shares.numpy(), np.exp(P[0]), atol=0.015)
    pairs = torch.bincount(index[:, 1] * V + index[:, 2], minlength=V * V).reshape(V, V) / 20_000
    np.testing.assert_allclose(pairs.numpy(), np.outer(np.exp(P[0]), np.exp(P[0])), atol=0.015)
    one, _ = build("routing", "multi_sample", n=1).candidates(state, written, noise)
    assert one.shape == (20_000, 1)


def test_uniforms_are_splitmix64() -> None:
    """The published test vector: the first outputs for the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = uniforms(torch.tensor([1234567]), 5)[0]
    assert [int(u * 2**53) for u in found.tolist()] == [value >> 11 for value in expected]


def test_teacher_topk_of_one_and_of_all() -> None:
    one, _ = build("routing", "teacher_topk", k=1).redirect(tensor(P), tensor(Q), tensor(Y))
    assert (one.argmax(-1) == tensor(Q).argmax(-1)).all()
    every, _ = build("routing", "teacher_topk", k=V + 5).redirect(tensor(P), tensor(Q), tensor(Y))
    np.testing.assert_allclose(every.numpy(), np.exp(Q), atol=1e-12)


KEPT = np.array([[True, False, True, True], [False, False, False, False]])
SHARES = {"valid": (6, MASK.sum(1), 2), "kept": (3, KEPT.sum(1), 1)}


def divided(kind: str, over: str) -> Array:
    tokens, lengths, sequences = SHARES[over]
    per_row = {"token_mean": [1 / tokens] * 2, "sequence_mean": [1 / (sequences * max(n, 1)) for n in lengths], "sum": [1 / sequences] * 2,
               "fixed": [1 / (sequences * 128.0)] * 2}  # fmt: skip
    per_row["turn_mean"] = per_row["sequence_mean"]  # of a text without turns
    return np.array(per_row[kind])[:, None] * MASK


REDUCES: Table = {
    kind: [({"over": over, **({"divisor": 128} if kind == "fixed" else {})}, divided(kind, over)) for over in ("valid", "kept")]
    for kind in ("token_mean", "sequence_mean", "sum", "fixed", "turn_mean")
}


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(REDUCES))
def test_reduce(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("reduce", kind, **fields).scale(tensor(MASK), tensor(KEPT), lambda value: value)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(REDUCES))
def test_reduce_counts_over_all_processes_and_survives_nothing(kind: str, fields: dict[str, Any], expected: Array) -> None:
    """Twice the tokens elsewhere: each factor is a third, but for lengths, which are a sequence's own."""
    reduce = build("reduce", kind, **fields)
    thrice = reduce.scale(tensor(MASK), tensor(KEPT), lambda value: 3 * value)
    np.testing.assert_allclose(thrice.numpy(), expected / 3, rtol=1e-6)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert torch.equal(reduce.scale(nothing, nothing, lambda value: value), torch.zeros(2, 4))


TOTAL = {"chosen": np.array([-3.1, -8.0]), "rejected": np.array([-4.0, -2.2])}
INITIAL = {"chosen": np.array([-3.6, -7.0]), "rejected": np.array([-3.5, -2.9])}
LENGTH = {"chosen": np.array([4, 3]), "rejected": np.array([2, 5])}


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def orpo(chosen: Array, beta: float) -> Array:
    mean = [chosen / LENGTH["chosen"], TOTAL["rejected"] / LENGTH["rejected"]]
    odds = [np.exp(m) / (1 - np.exp(m)) for m in mean]
    return np.asarray(-mean[0] - beta * np.log(sigmoid(np.log(odds[0] / odds[1]))))


def dpo(chosen: Array, beta: float) -> Array:
    return np.asarray(-np.log(sigmoid(beta * (chosen - INITIAL["chosen"] - TOTAL["rejected"] + INITIAL["rejected"]))))


def ipo(chosen: Array, beta: float) -> Array:
    gap = (chosen - INITIAL["chosen"]) / LENGTH["chosen"] - (TOTAL["rejected"] - INITIAL["rejected"]) / LENGTH["rejected"]
    return np.asarray((gap - 1 / (2 * beta)) ** 2)


def bco(chosen: Array, beta: float) -> Array:
    margins = [chosen - INITIAL["chosen"], TOTAL["rejected"] - INITIAL["rejected"]]
    return np.asarray(-np.log(sigmoid(beta * margins[0])) - np.log(sigmoid(-beta * margins[1])))


def hinge(chosen: Array, beta: float) -> Array:
    return np.asarray(np.maximum(0.0, 4.0 - beta * ((chosen - INITIAL["chosen"]) - (TOTAL["rejected"] - INITIAL["rejected"]))))


def renyi(chosen: Array, beta: float, alpha: float = 0.7) -> Array:
    """The same number for every pair: a function of all."""
    up, down = beta * (chosen - INITIAL["chosen"]), beta * (TOTAL["rejected"] - INITIAL["rejected"])
    return np.full_like(chosen, (np.log(np.exp(-alpha * up).mean()) + np.log(np.exp(alpha * down).mean())) / alpha)


FORMULAS = {"orpo": orpo, "dpo": dpo, "ipo": ipo, "bco": bco, "hinge": hinge}
PREFERENCES: Table = {kind: [({"beta": b}, lambda chosen, f=f, b=b: f(chosen, b)) for b in (0.1, 1.5)] for kind, f in FORMULAS.items()}
PREFERENCES["hinge"] = [({"at": 4.0, **fields}, expected) for fields, expected in PREFERENCES["hinge"]]
PREFERENCES["renyi"] = [({"beta": b, "alpha": 0.7}, lambda chosen, b=b: renyi(chosen, b)) for b in (0.1, 1.5)]


def sides(chosen: torch.Tensor) -> tuple[Sums, Sums]:
    rejected = Sums(tensor(TOTAL["rejected"]), tensor(LENGTH["rejected"]), tensor(INITIAL["rejected"]))
    return Sums(chosen, tensor(LENGTH["chosen"]), tensor(INITIAL["chosen"])), rejected


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(PREFERENCES))
def test_preference(kind: str, fields: dict[str, Any], expected: Callable[[Array], Array]) -> None:
    preference = build("preference", kind, **fields)

    def loss(chosen: Sums, rejected: Sums) -> torch.Tensor:
        return preference.losses(chosen, rejected, torch.ones(len(chosen.total_B), dtype=torch.bool), lambda own: own)  # type: ignore[no-any-return]

    np.testing.assert_allclose(loss(*sides(tensor(TOTAL["chosen"]))).numpy(), expected(TOTAL["chosen"]), atol=1e-9)
    found = gradient(lambda chosen: loss(*sides(chosen)).sum(), TOTAL["chosen"])
    np.testing.assert_allclose(found, slope(lambda chosen: float(expected(chosen).sum()), TOTAL["chosen"]), atol=1e-6)
    assert (found < 0).all() or kind == "ipo"


@pytest.mark.parametrize("kind", PREFERENCES)
def test_preference_of_certain_and_of_empty_answers(kind: str) -> None:
    certain = Sums(torch.zeros(2, requires_grad=True), torch.tensor([3, 0]), torch.zeros(2))
    rejected = Sums(torch.full((2,), -40.0), torch.tensor([2, 2]), torch.zeros(2))
    loss = build("preference", kind).losses(certain, rejected, torch.ones(2, dtype=torch.bool), lambda own: own)
    [slopes] = torch.autograd.grad(loss.sum(), certain.total_B)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(slopes).all()


def test_renyi_between_a_mean_and_the_worst_and_only_over_kept_pairs() -> None:
    kept = torch.tensor([True] + [False] * (len(TOTAL["chosen"]) - 1))
    chosen, rejected = sides(tensor(TOTAL["chosen"]))
    linear = build("preference", "renyi", alpha=1e-6, beta=1.0).losses(chosen, rejected, torch.ones_like(kept), lambda own: own)
    mean = (TOTAL["rejected"] - INITIAL["rejected"]).mean() - (TOTAL["chosen"] - INITIAL["chosen"]).mean()
    np.testing.assert_allclose(linear.numpy(), mean, atol=1e-4)
    alone = build("preference", "renyi", alpha=2.0, beta=1.0).losses(chosen, rejected, kept, lambda own: own)
    first = (TOTAL["rejected"] - INITIAL["rejected"])[0] - (TOTAL["chosen"] - INITIAL["chosen"])[0]
    np.testing.assert_allclose(alone[0].item(), first, atol=1e-9)
    with pytest.raises(ValueError, match="alpha must lie in"):
        build("preference", "renyi", alpha=0)
    with pytest.raises(ValueError, match="a function of all pairs"):
        build("preference", "renyi").loss(chosen, rejected)


RAW = log_softmax(1.1 * np.random.RandomState(3).standard_normal(P.shape))


def agreed(*views: Array) -> Array:
    """AVSD's target: the geometric mean and a share of what the arithmetic one has beyond it, entry by entry."""
    geometric = np.mean(views, 0)
    beyond = np.log(np.mean(np.exp(views), 0)) - geometric
    size = np.abs(geometric - P)
    share = size / (np.mean([np.abs(view - P) for view in views], 0) + 1e-8) * size / (size + beyond + 1e-8)
    return log_softmax(geometric + share * beyond)


TARGETS: Table = {
    "temperature": [({"tau": tau}, log_softmax(Q / tau)) for tau in (0.5, 1.0, 3.0)],
    "interpolate": [({"t": t}, log_softmax((1 - t) * P + t * Q)) for t in (0.0, 0.3, 1.0)],
    "geometric": [({"power": b}, log_softmax(Q + b * P)) for b in (0.0, 0.3, 0.8, 1.0)],
    "extrapolate": [({"lambda": c, "base": "raw"}, log_softmax(c * Q + (1 - c) * RAW)) for c in (0.0, 0.5, 1.0, 1.25)],
    "delta": [
        *(({"plus": "student", "minus": "raw", "power": a}, log_softmax(Q + a * (P - RAW))) for a in (0.0, 0.5, 1.0)),
        ({"plus": "student", "minus": "raw", "clip": 0.2}, log_softmax(Q + np.clip(P - RAW, -0.2, 0.2))),
    ],
}
OTHERS = {"student": tensor(P), "raw": tensor(RAW)}
TARGETS["consensus"] = [({"of": ("raw",)}, agreed(Q, RAW)), ({"of": ("raw", "student")}, agreed(Q, RAW, P))]


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(TARGETS))
def test_target(kind: str, fields: dict[str, Any], expected: Array) -> None:
    target = build("target", kind, **fields)
    found = target.transform(tensor(Q), {name: OTHERS[name] for name in target.reads}).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_consensus_never_turns_the_sign_and_is_the_teacher_where_views_are_one() -> None:
    drawn = torch.randn(3, 400, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    views, student = drawn[:2], drawn[2]
    geometric, size = views.mean(0), (views.mean(0) - student).abs()
    beyond = views.logsumexp(0) - np.log(2) - geometric
    share = size / ((views - student).abs().mean(0) + 1e-8) * size / (size + beyond + 1e-8)
    assert bool((share * beyond <= size).all()) and bool((beyond >= -1e-12).all())
    found = build("target", "consensus", of=("other",)).transform(views[0], {"other": views[1], "student": student})
    torch.testing.assert_close(found, (geometric + share * beyond).log_softmax(-1))
    alone = build("target", "consensus", of=("other",)).transform(tensor(Q), {"other": tensor(Q), "student": tensor(P)})
    np.testing.assert_allclose(alone.numpy(), Q, atol=1e-9)


def test_interpolation_ends_at_the_student_and_at_the_teacher() -> None:
    np.testing.assert_allclose(build("target", "interpolate", t=0).transform(tensor(Q), OTHERS).numpy(), P, atol=1e-12)
    np.testing.assert_allclose(build("target", "interpolate", t=1).transform(tensor(Q), OTHERS).numpy(), Q, atol=1e-12)


def test_extrapolation_starts_at_the_base_and_passes_the_teacher_and_the_bridge_starts_there() -> None:
    def found(kind: str, **fields: Any) -> Array:
        return build("target", kind, **fields).transform(tensor(Q), OTHERS).numpy()  # type: ignore[no-any-return]

    np.testing.assert_allclose(found("extrapolate", **{"lambda": 0.0}, base="raw"), RAW, atol=1e-12)
    np.testing.assert_allclose(found("extrapolate", **{"lambda": 1.0}, base="raw"), Q, atol=1e-12)
    np.testing.assert_allclose(found("geometric", power=0.0), Q, atol=1e-12)
    np.testing.assert_allclose(found("delta", plus="student", minus="student"), Q, atol=1e-12)
    np.testing.assert_allclose(found("delta", plus="student", minus="raw", power=0.0), Q, atol=1e-12)


def test_the_reverse_bridge_descends_the_printed_advantage() -> None:
    """Veto: reverse KL to q p^b has the score-function weight log q - (1 - b) log p, p held fixed."""
    b = 0.4
    target = build("target", "geometric", power=b).transform(tensor(Q), OTHERS)
    found = gradient(lambda z: build("divergence", "reverse_kl").entries(z.log_softmax(-1), target).sum(), P)
    advantage, p = Q - (1 - b) * P, np.exp(P)
    np.testing.assert_allclose(found, -p * (advantage - (p * advantage).sum(-1, keepdims=True)), atol=1e-12)


SCHEDULES: Table = {
    "linear": [
        ({"start": 2, "end": 4}, {0: 2.0, 0.25: 2.5, 1: 4.0}),
        ({"start": 1, "end": 0, "over": (0.2, 0.6)}, {0: 1.0, 0.2: 1.0, 0.4: 0.5, 0.6: 0.0, 1: 0.0}),
    ],
    "cosine": [({"start": 1, "end": 0}, {0: 1.0, 0.5: 0.5, 0.25: 0.5 * (1 + math.cos(math.pi / 4)), 1: 0.0})],
    "exponential": [
        ({"start": 1, "end": 0.01}, {0: 1.0, 0.5: 0.1, 0.25: 0.01**0.25, 1: 0.01}),
        ({"start": 0.1, "end": 0.4, "over": (0.0, 0.5)}, {0.25: 0.2, 0.8: 0.4}),
    ],
    "complement": [({"of": {"schedule": "exponential", "start": 1, "end": 0.01}}, {0: 0.0, 0.5: 0.9, 1: 0.99})],
    "stepwise": [({"at": (0, 0.5, 0.75), "values": (1, 0.1, 7)}, {0: 1.0, 0.49: 1.0, 0.5: 0.1, 0.74: 0.1, 0.75: 7.0, 1: 7.0})],
}


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(SCHEDULES))
def test_schedule(kind: str, fields: dict[str, Any], expected: dict[float, float]) -> None:
    schedule = build("schedule", kind, **fields)
    for progress, value in expected.items():
        assert schedule.value(progress) == pytest.approx(value, abs=1e-12)
    low, high = schedule.extremes()
    passed = [schedule.value(i / 200) for i in range(201)]
    assert (low, high) == (pytest.approx(min(passed)), pytest.approx(max(passed)))


@pytest.mark.parametrize(
    ("slot", "bad", "message"),
    [
        ("schedule", {"kind": "linear", "start": 0, "end": 1, "over": (0.5, 0.5)}, "two increasing shares"),
        ("schedule", {"kind": "exponential", "start": 1, "end": 0}, "never reaches it"),
        ("schedule", {"kind": "stepwise", "at": (0.1,), "values": (1,)}, "rise from 0"),
        ("schedule", {"kind": "stepwise", "at": (0, 0.5), "values": (1,)}, "of one length"),
        ("ratio", {"kind": "ppo_clip", "at": 0}, "at must lie in"),
        ("target", {"kind": "temperature", "tau": 0}, "tau must lie in"),
        ("target", {"kind": "geometric", "power": 1.2}, "power must lie in"),
        ("target", {"kind": "delta", "minus": "raw", "clip": 0.0}, "greater than 0"),
        ("target", {"kind": "temperature", "tau": {"schedule": "linear", "start": 1, "end": 0}}, "tau must lie in"),
    ],
)
def test_refused_parameters(slot: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(slot, **bad)
