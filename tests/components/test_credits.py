"""Credits against sums written out, their limits, and the groups that have nothing to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.statistics import Kl, LogProb, Value

from .six import MASK, Array, build, context, per_group, slope, tensor

REWARD = np.array([[0.7, -1.2, 0.4, 2.0], [-0.3, 1.1, 0.0, 0.0]])
VALUE = np.array([[0.2, 0.5, -0.4, 0.9], [1.3, -0.7, 8.0, 9.0]])
COLUMNS = {Value("value"): VALUE, Kl("student", "teacher"): np.array([[0.3, 0.8, 0.1, 0.6], [0.9, 0.2, 5.0, 6.0]])}
LENGTHS = MASK.sum(1)
GROUP = np.array([0, 1, 0, 0, 1, 2])
SIZES = [3, 1, 2, 4, 2, 1]
OUTCOME = np.array([1.0, 0.0, 0.0, 0.5, 1.0, 1.0])


def each(function: Callable[[Array, Array, int], float]) -> Array:
    """A table of a function of (the sequence's rewards, its values, t)."""
    found = np.zeros(MASK.shape)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            found[b, t] = function(REWARD[b, :length], VALUE[b, :length], t)
    return found


def returned(gamma: float, start: str = "this", per_length: bool = False) -> Callable[[Array, Array, int], float]:
    def total(reward: Array, value: Array, t: int) -> float:
        first = t if start == "this" else t + 1
        ahead = [gamma ** (k - first) * reward[k] for k in range(first, len(reward))]
        return sum(ahead) / max(len(ahead), 1) if per_length else sum(ahead)

    return total


def strided(k: int) -> Callable[[Array, Array, int], float]:
    """Every k-th reward from t on, and the last one where the stride misses it."""
    return lambda reward, value, t: sum(reward[at] for at in sorted({*range(t, len(reward), k), len(reward) - 1}))


def gaps(reward: Array, value: Array, k: int | None, valued: bool = True) -> Array:
    """C_t of every path."""
    after, k = np.append(value * valued, 0.0), len(reward) if k is None else k
    return np.array([after[min(t + k, len(reward))] - after[t] + reward[t : t + k].sum() for t in range(len(reward))])


def path_consistency(k: int | None, valued: bool = True) -> Callable[[Array, Array, int], float]:
    return lambda reward, value, t: float(gaps(reward, value, k, valued)[max(0, t + 1 - (k or len(reward))) : t + 1].sum())


def gae(gamma: float, lam: float) -> Callable[[Array, Array, int], float]:
    def total(reward: Array, value: Array, t: int) -> float:
        after = np.append(value[1:], 0.0)
        return sum((gamma * lam) ** (k - t) * (reward[k] + gamma * after[k] - value[k]) for k in range(t, len(reward)))

    return total


KNOWN_KL = COLUMNS[Kl("student", "teacher")]


def known_gae(gamma: float, lam: float) -> Array:
    """GAE whose value is minus the state's divergence plus gamma times the head's."""
    found = np.zeros(MASK.shape)
    for b, length in enumerate(LENGTHS):
        whole = gamma * VALUE[b, :length] - KNOWN_KL[b, :length]
        found[b, :length] = [gae(gamma, lam)(REWARD[b, :length], whole, t) for t in range(length)]
    return found


def grpo(divide: str, epsilon: float = 1e-4) -> Array:
    found = np.zeros(len(OUTCOME))
    for i, group in enumerate(GROUP):
        others = OUTCOME[group == GROUP]
        spread = others.std(ddof=1) if len(others) > 1 else 0.0
        found[i] = (OUTCOME[i] - others.mean()) / (spread + epsilon if divide == "std" else 1.0)
    return found


def grpo_of_means() -> Array:
    """The outcome stands on the last token, so an answer's mean is a share of it."""
    mean = OUTCOME / np.array(SIZES)
    return np.array([mean[i] - mean[group == GROUP].mean() for i, group in enumerate(GROUP)])


def bayes_odds(prior: float) -> Callable[[Array, Array, int], float]:
    def gain(reward: Array, value: Array, t: int) -> float:
        odds = np.log(prior / (1 - prior)) + reward[:t].sum()
        return float(1 / (1 + np.exp(-odds - reward[t])) - 1 / (1 + np.exp(-odds)))

    return gain


def leave_one_out() -> Array:
    found = np.zeros(len(OUTCOME))
    for i, group in enumerate(GROUP):
        others = [OUTCOME[j] for j in range(len(OUTCOME)) if GROUP[j] == group and j != i]
        found[i] = OUTCOME[i] - (np.mean(others) if others else 0.0)
    return found


SUMS = np.array([-0.4, -1.0, -2.5, -0.1, -0.7, -3.0])


def listwise(tau: float) -> Array:
    """q* - p among the answers of each group."""
    found = np.zeros(len(OUTCOME))
    for group in set(GROUP):
        at = group == GROUP
        shares = [np.exp(score) / np.exp(score).sum() for score in (SUMS[at] + OUTCOME[at] / tau, SUMS[at])]
        found[at] = shares[0] - shares[1]
    return found


REFERENCES: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "listwise": [({"tau": tau}, lambda tau=tau: listwise(tau)) for tau in (0.2, 1.0)],
    "bayes_odds": [
        ({"name": "correct"}, lambda: each(bayes_odds(0.5))),
        ({"name": "all_right"}, lambda: each(bayes_odds(0.95))),
        ({"name": "all_wrong", "low": 0.2}, lambda: each(bayes_odds(0.2))),
    ],
    "immediate": [({}, lambda: each(lambda reward, value, t: reward[t]))],
    "return_to_go": [
        ({"from": start, "per_length": mean}, lambda start=start, mean=mean: each(returned(1.0, start, mean)))
        for start in ("this", "next")
        for mean in (False, True)
    ]
    + [({"stride": k}, lambda k=k: each(strided(k))) for k in (1, 2, 3, 9)],
    "path_consistency": [
        *(({"k": k}, lambda k=k: each(path_consistency(k))) for k in (1, 2, 3, 9, None)),
        ({"k": 2, "value": None}, lambda: each(path_consistency(2, False))),
        ({"value": None}, lambda: each(path_consistency(None, False))),
    ],
    "discounted": [
        ({"gamma": gamma, "from": start, "per_length": mean}, lambda gamma=gamma, start=start, mean=mean: each(returned(gamma, start, mean)))
        for gamma in (0.0, 0.5, 0.95, 1.0)
        for start in ("this", "next")
        for mean in (False, True)
    ],
    "k_step": [({"k": k}, lambda k=k: each(lambda reward, value, t: reward[t : t + k].sum())) for k in (1, 2, 3, 9)],
    "gae": [({"gamma": g, "lambda": lam}, lambda g=g, lam=lam: each(gae(g, lam))) for g in (0.0, 0.9, 1.0) for lam in (0.0, 0.95, 1.0)]
    + [({"gamma": g, "lambda": lam, "known": "teacher"}, lambda g=g, lam=lam: known_gae(g, lam)) for g in (0.0, 0.9, 1.0) for lam in (0.0, 0.95, 1.0)],
    "group": [({"divide": divide}, lambda divide=divide: grpo(divide)) for divide in ("std", "none")]
    + [({"divide": "none", "per_length": True}, grpo_of_means)],
    "leave_one_out": [({}, leave_one_out)],
}
COMPARING = ("group", "leave_one_out", "listwise")
PER_TOKEN = [(kind, fields, expected) for kind, cases in REFERENCES.items() for fields, expected in cases if kind not in COMPARING]
PER_GROUP = [(kind, fields, expected) for kind, cases in REFERENCES.items() for fields, expected in cases if kind in COMPARING]


def advantage(kind: str, **fields: Any) -> Array:
    rewards = {"correct": [1.0, 0.0], "all_right": [1.0, 1.0], "all_wrong": [0.0, 0.0]}
    found = build("credit", kind, **fields).advantage(tensor(REWARD), context(COLUMNS, rewards))
    return np.asarray(found.numpy())


@pytest.mark.parametrize(("kind", "fields", "expected"), PER_TOKEN)
def test_advantage(kind: str, fields: dict[str, Any], expected: Callable[[], Array]) -> None:
    np.testing.assert_allclose(advantage(kind, **fields), expected(), atol=1e-12)


@pytest.mark.parametrize(("kind", "fields", "expected"), PER_GROUP)
def test_comparison_of_answers(kind: str, fields: dict[str, Any], expected: Callable[[], Array]) -> None:
    """Rewards are summed over an answer's tokens; every token of an answer has its advantage; padding has none."""
    sizes = SIZES
    answers = per_group(len(OUTCOME), sizes, GROUP.tolist())
    last = torch.arange(4) == torch.tensor(sizes)[:, None] - 1
    answers = replace(answers, columns={LogProb("student"): last * tensor(SUMS)[:, None]})
    found = build("credit", kind, **fields).advantage(last * tensor(OUTCOME)[:, None], answers).numpy()
    np.testing.assert_allclose(found, expected()[:, None] * answers.mask_BT.numpy(), atol=1e-12)


def test_limits() -> None:
    now, all_ahead = advantage("immediate"), advantage("return_to_go")
    np.testing.assert_allclose(advantage("discounted", gamma=0.0), now, atol=1e-15)
    np.testing.assert_allclose(advantage("discounted", gamma=1.0), all_ahead, atol=1e-15)
    np.testing.assert_allclose(advantage("k_step", k=1), now, atol=1e-15)
    np.testing.assert_allclose(advantage("k_step", k=4), all_ahead, atol=1e-15)
    np.testing.assert_allclose(advantage("gae", gamma=0.0), now - VALUE * MASK, atol=1e-15)
    np.testing.assert_allclose(advantage("gae", gamma=1.0, **{"lambda": 1.0}), all_ahead - VALUE * MASK, atol=1e-12)
    np.testing.assert_allclose(advantage("return_to_go", **{"from": "next"}), all_ahead - now, atol=1e-12)


@pytest.mark.parametrize("kind", COMPARING)
def test_equal_rewards_and_single_answers_give_0(kind: str) -> None:
    answers = per_group(4, [2, 2, 2, 2], [0, 0, 0, 7])
    reward = torch.tensor([[0.0, 1.0]] * 3 + [[0.0, 0.0]], dtype=torch.float64)
    answers = replace(answers, columns={LogProb("student"): -reward - 0.5})
    found = build("credit", kind).advantage(reward, answers)
    torch.testing.assert_close(found, torch.zeros(4, 2, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("kind", "fields"), [(kind, fields) for kind, fields, _ in PER_TOKEN if kind != "immediate"])
def test_tokens_of_others_in_between_get_no_advantage(kind: str, fields: dict[str, Any]) -> None:
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    known = context(COLUMNS, {name: [1.0, 0.0] for name in ("correct", "all_right", "all_wrong")}, mask_BT=mask)
    found = build("credit", kind, **fields).advantage(tensor(REWARD) * mask, known)
    assert torch.equal(found[~mask], torch.zeros(3, dtype=torch.float64))


def test_groups_need_not_be_neighbours_or_numbered_from_0() -> None:
    sizes, reward = [1, 1, 1, 1], torch.tensor([[1.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    apart = build("credit", "leave_one_out").advantage(reward, per_group(4, sizes, [900, 17, 900, 17]))
    together = build("credit", "leave_one_out").advantage(reward[[0, 2, 1, 3]], per_group(4, sizes, [0, 0, 1, 1]))
    assert torch.equal(apart[[0, 2, 1, 3]], together)


@pytest.mark.parametrize(
    ("kind", "fields", "local", "estimator"),
    [
        ("immediate", {}, True, "pg_immediate"),
        ("discounted", {"gamma": 0}, True, "pg_immediate"),
        ("discounted", {"gamma": 0, "from": "next"}, False, "pg_discounted"),
        ("discounted", {"gamma": 0.9}, False, "pg_discounted"),
        ("discounted", {"gamma": 1}, False, "pg_return_to_go"),
        ("discounted", {"gamma": {"schedule": "linear", "start": 0, "end": 1}}, False, "pg_discounted"),
        ("return_to_go", {}, False, "pg_return_to_go"),
        ("k_step", {"k": 1}, True, "pg_immediate"),
        ("k_step", {"k": 2}, False, "pg_kstep"),
        ("gae", {}, False, "pg_gae"),
        ("group", {}, False, "pg_group"),
        ("leave_one_out", {}, False, "pg_group"),
    ],
)
def test_what_the_coordinates_read(kind: str, fields: dict[str, Any], local: bool, estimator: str) -> None:
    credit = build("credit", kind, **fields)
    assert (credit.local, credit.estimator()) == (local, estimator)


def test_local_credits_see_nothing_later() -> None:
    """`local` is what it says: changing a later reward changes no earlier advantage."""
    later = REWARD.copy()
    later[0, 3] += 5.0
    known = context(COLUMNS, {name: [1.0, 0.0] for name in ("correct", "all_right", "all_wrong")})
    for kind, fields, _ in PER_TOKEN:
        credit = build("credit", kind, **fields)
        before, after = credit.advantage(tensor(REWARD), known), credit.advantage(tensor(later), known)
        moved = not torch.equal(before[0, :3], after[0, :3])
        assert not (credit.local and moved), (kind, fields)


def test_only_gae_has_a_critic() -> None:
    gae_credit = build("credit", "gae", value="critic")
    assert gae_credit.critic() == "critic"
    assert gae_credit.statistics() == (Value("critic"),)
    assert build("credit", "group").critic() is None


@pytest.mark.parametrize(
    "bad", [{"kind": "discounted", "gamma": 1.5}, {"kind": "gae", "lambda": -0.1}, {"kind": "k_step", "k": 0}, {"kind": "group", "epsilon": 0}]
)
def test_refused_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must lie in|greater than"):
        build("credit", **bad)


def test_bayesian_advantages_sum_to_the_change_of_belief_and_are_the_scaled_evidence_at_first_order() -> None:
    """sum_t A_t = sigmoid(logit V_0 + sum r) - V_0; for small r, A_t = V_0 (1 - V_0) r_t."""
    found = advantage("bayes_odds", name="correct").sum(1)
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-REWARD[b, :n].sum())) - 0.5 for b, n in enumerate(LENGTHS)], atol=1e-12)
    small = build("credit", "bayes_odds", name="correct").advantage(1e-6 * tensor(REWARD), context({}, {"correct": [1.0, 0.0]}))
    np.testing.assert_allclose(small.numpy() / 1e-6, 0.25 * REWARD * MASK, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, None])
def test_path_consistency_descends_the_squared_gaps(k: int | None) -> None:
    """-A is the slope of sum C^2 / 2 in the student's log-probabilities (r = log q - log p), target - V that in the values."""

    def loss(reward: Array, value: Array) -> float:
        return sum(float((gaps(reward[b, :n], value[b, :n], k) ** 2).sum() / 2) for b, n in enumerate(LENGTHS))

    credit, known = build("credit", "path_consistency", k=k), context({Value("value"): VALUE})
    found = credit.advantage(tensor(REWARD), known)
    np.testing.assert_allclose(found.numpy() * MASK, slope(lambda reward: loss(reward, VALUE), REWARD) * MASK, atol=1e-6)
    np.testing.assert_allclose((VALUE - credit.value_target(found, known).numpy()) * MASK, slope(lambda value: loss(REWARD, value), VALUE) * MASK, atol=1e-6)


def test_a_known_part_leaves_the_head_what_comes_later() -> None:
    """gamma 0 is the control variate alone, whatever the head says; an exact head makes the whole value; its target has no sampled reward in it."""
    kl = KNOWN_KL * MASK
    np.testing.assert_allclose(advantage("gae", gamma=0.0, known="teacher"), advantage("immediate") + kl, atol=1e-15)
    credit = build("credit", "gae", gamma=0.9, known="teacher")
    target = credit.value_target(tensor(REWARD), context(COLUMNS)).numpy()
    wanted = each(lambda reward, value, t: 0.0)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            wanted[b, t] = -sum(0.9 ** (k - t - 1) * kl[b, k] for k in range(t + 1, length))
    np.testing.assert_allclose(target, wanted, atol=1e-12)
    assert credit.critic() == "value"


def test_a_stride_stands_alone() -> None:
    with pytest.raises(ValueError, match="drop from and per_length"):
        build("credit", "return_to_go", stride=2, per_length=True)
