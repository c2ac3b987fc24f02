"""Rewards, baselines, shapings, gates and weights against plain formulas on the six tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.baselines import LeastVariance
from zoo.components.rewards import CentredLogit
from zoo.components.shapings import shape_values
from zoo.method import annotate
from zoo.statistics import Entropy, Kl, LogProb, Statistic, TokenContext, Value
from zoo.views import LogitView

from .six import AUTHORS, LOGITS, MASK, TOKENS, Array, build, context, gradient, logp, per_group, sampled, slope, tensor

S, T = sampled("student"), sampled("teacher")


def kl(a: str, b: str) -> Array:
    return np.asarray((np.exp(logp(a)) * (logp(a) - logp(b))).sum(-1))


def top_kl(k: int) -> Array:
    """KL(p || q) of both sides renormalised on the student's k best."""
    found = np.zeros(MASK.shape)
    for at in np.ndindex(*MASK.shape):
        ids = np.argsort(-logp("student")[at])[:k]
        p, q = np.exp(logp("student")[at][ids]), np.exp(logp("teacher")[at][ids])
        p, q = p / p.sum(), q / q.sum()
        found[at] = (p * np.log(p / q)).sum()
    return found


def least_variance() -> Array:
    """The mean of A_v weighed by p_v |e_v - p|^2, vector by vector."""
    found = np.zeros(MASK.shape)
    for at in np.ndindex(*MASK.shape):
        p, gap = np.exp(logp("student")[at]), logp("teacher")[at] - logp("student")[at]
        weight = np.array([p[v] * ((np.eye(len(p))[v] - p) ** 2).sum() for v in range(len(p))])
        found[at] = (weight * gap).sum() / weight.sum()
    return found


def entropy(name: str) -> Array:
    return np.asarray(-(np.exp(logp(name)) * logp(name)).sum(-1))


def centred(best: bool) -> Array:
    z = LOGITS["teacher"]
    picked = z.max(-1) if best else np.take_along_axis(z, TOKENS[..., None], -1)[..., 0]
    return np.asarray(np.where(MASK, picked - z.mean(-1), 0.0))


ADVANTAGE = np.array([[0.5, -2.0, 0.0, 3.0], [-0.7, 1.2, 50.0, -60.0]])
OUTCOME = [1.0, 0.0]
KNOWN = context(
    {
        Kl("student", "teacher"): kl("student", "teacher"),
        Kl("student", "teacher", 3): top_kl(3),
        LeastVariance("teacher"): least_variance(),
        Value("critic"): 2 * S,
        Entropy("student"): entropy("student"),
        Entropy("teacher"): entropy("teacher"),
        **{CentredLogit("teacher", best): centred(best) for best in (False, True)},
    },
    {"correct": OUTCOME},
)
LAST = np.array([[False, False, False, True], [False, True, False, False]])


def inside(values: Array) -> Array:
    return np.where(MASK, values, 0.0)


def test_columns() -> None:
    """What each statistic computes from the scorers' logits, a chunk of tokens at a time."""
    expected: dict[Statistic, Array] = {
        LogProb("teacher"): T,
        Entropy("student"): entropy("student"),
        Kl("student", "teacher"): kl("student", "teacher"),
        Kl("teacher", "student"): kl("teacher", "student"),
        Kl("student", "teacher", 3): top_kl(3),
        Kl("student", "teacher", 9): kl("student", "teacher"),
        LeastVariance("teacher"): least_variance(),
        Value("critic"): 2 * S,
        CentredLogit("teacher"): centred(False),
        CentredLogit("teacher", best=True): centred(True),
    }
    found: dict[Statistic, torch.Tensor] = {}
    for chunk in (slice(0, 4), slice(4, 6)):
        logits = {name: (lambda name=name, chunk=chunk: tensor(LOGITS[name][MASK][chunk])) for name in LOGITS}
        values = {"critic": lambda chunk=chunk: tensor(2 * S[MASK][chunk])}
        annotate(tuple(expected), LogitView(tensor(TOKENS[MASK][chunk]), logits, {}, values), tensor(MASK), chunk, found)
    for statistic, values_BT in expected.items():
        np.testing.assert_allclose(found[statistic].numpy(), inside(values_BT), atol=1e-12, err_msg=str(statistic))


LAST_KL = np.array([kl("student", "teacher")[0, 3], kl("student", "teacher")[1, 1]])


def bellman(k: int) -> Array:
    """KETCHUP's reward from raw logits, row by row."""
    q, found = LOGITS["teacher"] - LOGITS["teacher"].mean(-1, keepdims=True), np.zeros(MASK.shape)
    for b, length in enumerate(MASK.sum(1)):
        for t in range(length):
            found[b, t] = q[b, t, TOKENS[b, t]] - (q[b, min(t + k, length - 1)].max() if t < length - 1 else 0.0)
    return found


Table = dict[str, list[tuple[dict[str, Any], Any]]]
REWARDS: Table = {
    "contrast": [
        ({"of": {"teacher": 1, "student": -1}}, inside(T - S)),
        ({"of": {"teacher": 2, "reference": -1, "behaviour": -1}, "scale": 0.5}, inside((2 * T - sampled("reference") - sampled("old")) / 0.5)),
        ({"of": {"teacher": 1, "student": -1}, "clip": 0.4}, inside(np.clip(T - S, -0.4, 0.4))),
        ({"of": {"teacher": 1, "student": -1}, "map": "probability"}, inside(np.exp(T) - np.exp(S))),
        ({"of": {"teacher": 1, "student": -1}, "map": "power", "alpha": 0.3}, inside((np.exp(T) ** 0.3 - np.exp(S) ** 0.3) / 0.3)),
    ],
    "verifier": [({}, LAST * np.array(OUTCOME)[:, None])],
    "budget": [
        ({"limit": limit, "penalty": n, "per": per}, LAST * np.where(spent <= limit, OUTCOME, -(n + LAST_KL))[:, None])
        for per, spent in (("mean", inside(kl("student", "teacher")).sum(1) / MASK.sum(1)), ("sum", inside(kl("student", "teacher")).sum(1)))
        for limit in (float(spent.mean()), 1e-3, 1e3)
        for n in (10.0, 2.0)
    ],
    "bellman": [({"k": k}, bellman(k)) for k in (1, 2, 5)],
    "state_divergence": [({}, inside(-kl("student", "teacher")))],
}
BASELINES: Table = {
    "none": [({}, ADVANTAGE)],
    "kl": [({}, ADVANTAGE + kl("student", "teacher")), ({"top_k": 3}, ADVANTAGE + top_kl(3))],
    "batch_mean": [({}, ADVANTAGE - ADVANTAGE[MASK].mean())],
    # Both answers are of one group; their means are 0.375 and 0.25.
    "group_mean": [({}, ADVANTAGE - 0.3125)],
    "value": [({"value": "critic"}, ADVANTAGE - 2 * S)],
    "sequence_mean": [({}, ADVANTAGE - np.array([[ADVANTAGE[b][MASK[b]].mean()] for b in range(2)]))],
    "optimal": [({}, ADVANTAGE - least_variance())],
}
WHITE = (ADVANTAGE - ADVANTAGE[MASK].mean()) / np.sqrt(ADVANTAGE[MASK].var() + 1e-8)
SHAPINGS: Table = {
    "clip": [
        ({"at": 1.0}, np.clip(ADVANTAGE, -1, 1)),
        ({"at": 1.0, "side": "upper"}, np.minimum(ADVANTAGE, 1)),
        ({"at": 1.0, "side": "lower"}, np.maximum(ADVANTAGE, -1)),
    ],
    "margin_shift": [
        # The first response is right, the second wrong, and their means are 0.375 and 0.25.
        ({"name": "correct", "margin": 0.5}, inside(ADVANTAGE + np.array([[0.1875], [-0.1875]]))),
        ({"name": "correct", "margin": 0.5, "side": "right", "scope": "batch"}, inside(ADVANTAGE + np.array([[0.375], [0.0]]))),
        ({"name": "correct", "margin": 0.5, "side": "wrong"}, inside(ADVANTAGE + np.array([[0.0], [-0.375]]))),
        ({"name": "correct", "margin": 0.1}, inside(ADVANTAGE)),
    ],
    "soft_log": [({}, np.sign(ADVANTAGE) * np.log(1 + np.abs(ADVANTAGE)))],
    "power": [({"exponent": e}, np.sign(ADVANTAGE) * np.abs(ADVANTAGE) ** e) for e in (0.5, 1.0, 2.0)],
    "w_f": [
        ({"of": {"kind": kind, **fields}}, weight)
        for kind, fields, weight in (
            ("forward_kl", {}, np.exp(ADVANTAGE)),
            ("reverse_kl", {}, ADVANTAGE - 1),
            ("generalized_jsd", {}, 0.5 * np.log((1 + np.exp(ADVANTAGE)) / 2)),
            ("generalized_jsd", {"beta": 0.9}, 0.1 * np.log(0.9 * np.exp(ADVANTAGE) + 0.1)),
            ("total_variation", {}, 0.5 * np.sign(ADVANTAGE)),
            ("alpha", {"alpha": 0.3}, (np.exp(0.3 * ADVANTAGE) - 1) / 0.3),
            ("squared_hellinger", {}, np.exp(ADVANTAGE / 2) - 1),
            ("skew_reverse_kl", {"skew": 0.1}, np.log(0.9 * np.exp(ADVANTAGE) + 0.1) - 0.9 * np.exp(ADVANTAGE) / (0.9 * np.exp(ADVANTAGE) + 0.1)),
        )
    ],
    "whiten": [
        ({}, inside(WHITE)),
        ({"centre": False}, inside(ADVANTAGE / np.sqrt(ADVANTAGE[MASK].var() + 1e-8))),
        ({"among": "response"}, inside(np.stack([(a - a[m].mean()) / np.sqrt(a[m].var() + 1e-8) for a, m in zip(ADVANTAGE, MASK, strict=True)]))),
    ],
}
GAP = np.exp(T) - np.exp(S)
BEST = np.array([entropy("student")[0] >= np.sort(entropy("student")[0])[-2], [entropy("student")[1, i] == entropy("student")[1, :2].max() for i in range(4)]])
GATES: Table = {
    "teacher_entropy": [({"above": 1.2}, entropy("teacher") > 1.2), ({"below": 1.2}, entropy("teacher") < 1.2)],
    "student_entropy": [({"at_least": 1.3}, entropy("student") >= 1.3)],
    "top_entropy_share": [({"share": 0.5}, BEST & MASK), ({"share": 1.0}, MASK)],
    "probability_gap": [({"above": 0}, GAP > 0), ({"at_most": 0}, GAP <= 0)],
    "reward": [({"name": "correct", "above": 0.5}, MASK & np.array([[True], [False]])), ({"name": "correct", "at_most": 0}, MASK & np.array([[False], [True]])),
               ({"name": "correct", "above": 0.4, "scope": "group"}, MASK), ({"name": "correct", "above": 0.6, "scope": "group"}, MASK & False)],
    "author": [({"is": name}, code == AUTHORS) for code, name in enumerate(("student", "teacher", "dataset", "corpus"))],
    "position": [({"below": 2}, np.array([[True, True, False, False]] * 2)), ({"at_least": 1}, np.array([[False, True, True, True]] * 2))],
    "advantage": [({"above": 0}, ADVANTAGE > 0), ({"at_most": 0}, ADVANTAGE <= 0), ({"below": -1}, ADVANTAGE < -1)],
}  # fmt: skip
PERPLEXITY = np.exp(-inside(T).sum(1) / MASK.sum(1))
WEIGHTS: Table = {
    "pass_rate": [({"name": "correct"}, np.full(MASK.shape, 0.25)), ({"name": "correct", "alpha": 2, "beta": 0.5}, np.full(MASK.shape, 0.5**2.5))],
    "perplexity": [
        ({"of": "teacher", "normalise": "none"}, np.broadcast_to(PERPLEXITY[:, None], MASK.shape)),
        ({"of": "teacher"}, np.broadcast_to((PERPLEXITY / PERPLEXITY.mean())[:, None], MASK.shape)),
    ],
    "peer_perplexity": [({"of": "teacher", "name": "correct"}, np.ones(MASK.shape)), ({"name": "correct", "power": -2.0}, np.ones(MASK.shape))],
}


def cases(table: Table) -> list[tuple[str, dict[str, Any], Array]]:
    return [(kind, fields, expected) for kind, several in table.items() for fields, expected in several]


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(REWARDS))
def test_reward(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("reward", kind, **fields).tokens(KNOWN, "correct")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(BASELINES))
def test_baseline(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("baseline", kind, **fields).subtract(tensor(ADVANTAGE), KNOWN)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def of_state(p: Array, q: Array) -> tuple[float, float]:
    """The optimal baseline and -KL(p || q) in one state."""
    logits = {"student": lambda: tensor(np.log(p)[None]), "teacher": lambda: tensor(np.log(q)[None])}
    view = LogitView(torch.tensor([0]), logits)
    return float(LeastVariance("teacher").compute(view)[0]), -float(Kl("student", "teacher").compute(view)[0])


def test_no_number_of_the_state_leaves_less_variance_than_the_optimal_baseline() -> None:
    """sum_v p_v |e_v - p|^2 (A_v - b)^2 is least there; the catalogue's peaked state has it at .0011, at .104 with none and .110 with the KL."""

    def second(p: Array, q: Array, b: float) -> float:
        return float(sum(p[v] * ((np.eye(len(p))[v] - p) ** 2).sum() * (np.log(q[v] / p[v]) - b) ** 2 for v in range(len(p))))

    p, q = np.array([0.99, 0.01]), np.array([0.9, 0.1])
    best, mean = of_state(p, q)
    np.testing.assert_allclose([second(p, q, 0.0), second(p, q, mean), second(p, q, best)], [0.104, 0.110, 0.0011], rtol=0.05, atol=5e-5)
    p, q = np.exp(logp("student")[0, 0]), np.exp(logp("teacher")[0, 0])
    best, _ = of_state(p, q)
    assert all(second(p, q, best) < second(p, q, best + step) for step in (-0.1, -1e-3, 1e-3, 0.1))


def test_limits_of_the_optimal_baseline() -> None:
    """A flat student has the KL's; one that is sure of a token has any finite number; student = teacher has 0."""
    q = np.array([0.5, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(*of_state(np.full(4, 0.25), q), atol=1e-12)
    assert of_state(q, q)[0] == 0.0
    with np.errstate(divide="ignore"):
        assert np.isfinite(of_state(np.array([1.0, 0.0, 0.0, 0.0]), q)[0])


def test_the_group_mean_leaves_out_answers_without_tokens() -> None:
    answers = per_group(3, [2, 1, 1], [4, 4, 4])
    empty = replace(answers, rollout=replace(answers.rollout, mask_BT=answers.mask_BT & torch.tensor([[True], [True], [False]])))
    found = build("baseline", "group_mean").subtract(tensor([[1.0, 3.0], [6.0, 9.0], [100.0, 9.0]]), empty)
    np.testing.assert_allclose(found.numpy()[:2], np.array([[1.0, 3.0], [6.0, 9.0]]) - 4.0, atol=1e-12)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(SHAPINGS))
def test_shaping(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("shaping", kind, **fields).apply(tensor(ADVANTAGE), KNOWN)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [{"of": "k2"}, {"of": "entrywise_kl"}, {"of": "forward_kl", "where": "entry"}])
def test_w_f_needs_a_generator_and_an_advantage(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"w_f needs an f-divergence|set where: advantage"):
        build("shaping", "w_f", **bad)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(GATES))
def test_gate(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("gate", kind, **fields).keep(KNOWN, tensor(ADVANTAGE))
    assert found.dtype == torch.bool
    np.testing.assert_array_equal((found & KNOWN.mask_BT).numpy(), expected & MASK)


@pytest.mark.parametrize(("kind", "fields", "expected"), cases(WEIGHTS))
def test_weight(kind: str, fields: dict[str, Any], expected: Array) -> None:
    found = build("weight", kind, **fields).weight(KNOWN, None)
    np.testing.assert_allclose(found.numpy() * MASK, expected * MASK, atol=1e-7)


def apply(slot: str, part: Any, known: TokenContext) -> torch.Tensor:
    """What a part makes of a context."""
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "gate": lambda: part.keep(known, tensor(ADVANTAGE)),
        "weight": lambda: part.weight(known, None),
        "baseline": lambda: part.subtract(tensor(ADVANTAGE), known),
        "reward": lambda: part.tokens(known, "correct"),
        "shaping": lambda: part.apply(tensor(ADVANTAGE), known),
    }
    return calls[slot]()


TABLES = {"gate": GATES, "weight": WEIGHTS, "baseline": BASELINES, "reward": REWARDS}


@pytest.mark.parametrize("slot", TABLES)
def test_every_column_that_is_read_is_declared(slot: str) -> None:
    """With the declared columns and no others, nothing is missing."""
    for kind, fields, _ in cases(TABLES[slot]):
        part = build(slot, kind, **fields)
        declared = {statistic: KNOWN.columns[statistic] for statistic in part.statistics()}
        apply(slot, part, TokenContext(KNOWN.rollout, declared, KNOWN.rewards))


@pytest.mark.parametrize("slot", [*TABLES, "shaping"])
def test_an_empty_mask_gives_numbers(slot: str) -> None:
    nothing = replace(KNOWN, rollout=replace(KNOWN.rollout, mask_BT=torch.zeros(2, 4, dtype=torch.bool)))
    for kind, fields, _ in cases({**TABLES, "shaping": SHAPINGS}[slot]):
        assert torch.isfinite(apply(slot, build(slot, kind, **fields), nothing)).all(), kind


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0])
def test_perplexities_are_compared_among_peers_of_one_verdict(power: float) -> None:
    """Six answers in two groups: three right ones together, one right and one wrong alone, a wrong one of another group."""
    verdict, groups, logp_BT = [1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1], -np.random.RandomState(0).rand(6, 3)
    answers = per_group(6, [3, 2, 1, 3, 2, 1], groups)
    known = TokenContext(answers.rollout, {LogProb("student"): tensor(logp_BT)}, {"correct": tensor(np.array(verdict))})
    mask_BT = answers.rollout.mask_BT.numpy()
    perplexity = np.exp(-(logp_BT * mask_BT).sum(1) / mask_BT.sum(1)) ** power
    expected = [*(perplexity[:3] / perplexity[:3].mean()), 1.0, 1.0, 1.0]
    found = build("weight", "peer_perplexity", name="correct", power=power).weight(known, None)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-12)


def test_power_map_tends_to_the_log() -> None:
    near = build("reward", "contrast", of={"teacher": 1, "student": -1}, map="power", alpha=1e-7).tokens(KNOWN, None)
    np.testing.assert_allclose(near.numpy(), inside(T - S), atol=1e-5)


def test_the_kl_baseline_centres_the_log_ratio() -> None:
    """E_{y ~ p}[log q - log p + KL(p || q)] = 0 in every state."""
    mean = (np.exp(logp("student")) * (logp("teacher") - logp("student"))).sum(-1) + kl("student", "teacher")
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)


def test_whitening_of_equal_advantages_and_of_one_token_is_0() -> None:
    whiten = build("shaping", "whiten")
    assert torch.equal(whiten.apply(torch.full((2, 4), 3.0, dtype=torch.float64), KNOWN), torch.zeros(2, 4, dtype=torch.float64))
    assert float(whiten.apply(torch.ones(1, 1), per_group(1, [1], [0])).abs().max()) == 0.0


@pytest.mark.parametrize("kind", ["clip", "soft_log", "power"])
def test_gradient_of_shapings_that_act_on_entries(kind: str) -> None:
    fields = {"clip": {"at": 0.9}, "soft_log": {}, "power": {"exponent": 0.5}}[kind]
    shaping, at = build("shaping", kind, **fields, where="entry"), np.array([[-2.0, -0.3, 0.2, 5.0]])
    found = gradient(lambda x: shaping.apply(x, None).sum(), at)
    np.testing.assert_allclose(found, slope(lambda x: float(shaping.apply(tensor(x), None).sum()), at), atol=1e-6)


@pytest.mark.parametrize(("kind", "fields", "expected"), [("soft_log", {}, 1.0), ("power", {"exponent": 0.5}, 0.0), ("clip", {"at": 1}, 1.0)])
def test_slope_at_an_entry_that_is_exactly_0(kind: str, fields: dict[str, Any], expected: float) -> None:
    shaping = build("shaping", kind, **fields, where="entry")
    assert gradient(lambda x: shaping.apply(x, None).sum(), np.zeros((1, 1))) == expected


def test_shapings_act_in_order_and_only_where_they_stand() -> None:
    several = (build("shaping", "power", exponent=2, where="entry"), build("shaping", "clip", at=1, where="entry"), build("shaping", "soft_log"))
    assert torch.equal(shape_values(several, "entry", torch.tensor([3.0, -0.5])), torch.tensor([1.0, -0.25]))
    assert torch.equal(shape_values(several, "token", torch.tensor([3.0])), torch.tensor([3.0]))


@pytest.mark.parametrize("share", [0.3, 0.36, 0.54, 0.6, 0.72])
def test_top_entropy_share_counts_exactly(share: float) -> None:
    """25 * 0.6 is 15 tokens, whatever the rounding of the product; the count is rounded up otherwise."""
    for length in (1, 7, 25, 50, 75, 85):
        answers = per_group(1, [length], [0])
        values = torch.arange(length, dtype=torch.float64)[None]
        kept = build("gate", "top_entropy_share", share=share).keep(TokenContext(answers.rollout, {Entropy("student"): values}), None)
        assert int(kept.sum()) == -(-length * round(share * 100) // 100)
        assert kept[0, -1]


def test_pass_rate_and_group_gate_keep_groups_apart() -> None:
    answers = per_group(5, [1] * 5, [3, 3, 9, 9, 9])
    known = TokenContext(answers.rollout, {}, {"correct": torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])})
    rate = np.array([0.5, 0.5, 2 / 3, 2 / 3, 2 / 3])
    found = build("weight", "pass_rate", name="correct", alpha=1, beta=2).weight(known, None)[:, 0].numpy()
    np.testing.assert_allclose(found, rate * (1 - rate) ** 2, atol=1e-6)
    kept = build("gate", "reward", name="correct", above=0.6, scope="group").keep(known, None)[:, 0]
    assert kept.tolist() == [False, False, True, True, True]


def test_pass_rate_of_all_right_or_all_wrong_is_0_unless_the_power_is_0() -> None:
    answers = per_group(2, [1, 1], [0, 1])
    known = TokenContext(answers.rollout, {}, {"correct": torch.tensor([1.0, 0.0])})
    assert build("weight", "pass_rate", name="correct").weight(known, None)[:, 0].tolist() == [0.0, 0.0]
    assert build("weight", "pass_rate", name="correct", beta=0).weight(known, None)[:, 0].tolist() == [1.0, 0.0]


def test_a_margin_needs_both_outcomes_in_its_scope() -> None:
    """Groups 0 and 1 have one outcome each, group 2 both; over the batch both exist."""
    answers = per_group(6, [1] * 6, [0, 0, 1, 1, 2, 2])
    known = TokenContext(answers.rollout, {}, {"correct": torch.tensor([1.0, 1, 0, 0, 1, 0])})
    value = torch.zeros(6, 1, dtype=torch.float64)
    groups, batch = (build("shaping", "margin_shift", name="correct", margin=1.0, scope=scope).apply(value, known) for scope in ("group", "batch"))
    assert groups[:, 0].tolist() == [0, 0, 0, 0, 0.5, -0.5]
    assert batch[:, 0].tolist() == [0.5, 0.5, -0.5, -0.5, 0.5, -0.5]
