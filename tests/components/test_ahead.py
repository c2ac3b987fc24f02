"""Parts that ask what would follow, on six tokens against plain numpy: the lookahead reward and the gate on near futures."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.gates.ahead import transport_cost
from zoo.components.rewards.ahead import candidates, standing, sureness
from zoo.statistics import Explored, TokenContext

from .six import MASK, TOKENS, Array, V, build, log_softmax, logp, rollout, sampled, tensor

STOP = 5
NEXT = log_softmax(1.5 * np.random.RandomState(7).standard_normal((2, 4, V, V)))  # the teacher's law behind each token of each state
UNCERTAIN = {"kind": "share", "of": {"kind": "entropy"}, "share": 0.5}
ALL = {"kind": "position", "at_least": 0}
GAPS = np.array([[0.4, 0.1, 0.9, 0.2], [0.3, 0.1, 7.0, 0.0]])


def sure(row: Array, by: str) -> float:
    return float(np.exp(row).max() if by == "confidence" else (np.exp(row) * row).sum())


def reward(k: int, by: str, epsilon: float) -> Array:
    """The reward of each of the six tokens, one after the other."""
    found, p = np.zeros(MASK.shape), logp("student")
    for b, t in zip(*np.nonzero(MASK), strict=True):
        if TOKENS[b, t] == STOP:
            continue
        others = [v for v in np.argsort(-p[b, t], kind="stable") if v != STOP][:k]
        sures = np.array([sure(NEXT[b, t, v], by) for v in others])
        found[b, t] = (sure(NEXT[b, t, TOKENS[b, t]], by) - sures.mean()) / (sures.std() + epsilon)
    return found


def put(part: Any, columns: Array, **changes: Any) -> TokenContext:
    """The six tokens with the one column that no view shows, and what the gate inside reads."""
    p = logp("student")
    other = tensor(-(np.exp(p) * p).sum(-1))
    return TokenContext(replace(rollout(), **changes), {s: tensor(columns) if isinstance(s, Explored) else other for s in part.statistics()})


REWARDS = {"lookahead": [(k, by, epsilon) for k in (2, 3, 5, 9) for by in ("confidence", "negative_entropy") for epsilon in (1e-6, 0.1)]}
GATES = {
    "continuation_match": [
        ({"within": ALL, "share": 0.34}, ~np.isin(GAPS, (0.1,))),  # two of six, and they are equal
        ({"within": ALL, "share": 0.2}, ~np.isin(GAPS, (0.1,))),  # one of six: its equal goes with it
        ({"within": ALL, "share": 0.5}, ~np.isin(GAPS, (0.1, 0.2))),
        ({"within": ALL, "share": 0.16}, MASK),  # less than one
        ({"within": ALL, "share": 0.0}, MASK),
        ({"within": {"kind": "position", "at_least": 2}, "share": 0.5}, GAPS != 0.2),
    ]
}


@pytest.mark.parametrize(("k", "by", "epsilon"), REWARDS["lookahead"])
def test_lookahead_reward(k: int, by: Any, epsilon: float) -> None:
    index_NK = candidates(tensor(logp("student")[MASK]), (STOP,), k)
    behind_NVV, token_N = tensor(NEXT[MASK]), tensor(TOKENS[MASK])
    sure_NK = torch.stack([sureness(behind_NVV[n, index_NK[n]], by) for n in range(6)])
    found_N = standing(sureness(behind_NVV[torch.arange(6), token_N], by), sure_NK, epsilon).masked_fill(token_N == STOP, 0.0)
    wanted = reward(k, by, epsilon)
    np.testing.assert_allclose(found_N.numpy(), wanted[MASK], atol=1e-12)
    part = build("reward", "lookahead", k=k, by=by, epsilon=epsilon, within=UNCERTAIN)
    np.testing.assert_allclose(part.tokens(put(part, wanted + 9.0 * ~MASK), None).numpy(), np.where(MASK, wanted, 0.0), atol=1e-12)
    assert {"student", "teacher"} == set(part.scorers())


def test_limits_of_the_lookahead_reward() -> None:
    """Alike everywhere: nothing to tell. One candidate more than there are: all of them."""
    alike = torch.full((6, 3), 0.25, dtype=torch.float64)
    assert not standing(alike[:, 0], alike, 1e-6).any()
    assert candidates(tensor(logp("student")[MASK]), (STOP, 0), 99).shape == (6, V - 2)
    p_NV = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(sureness(p_NV.log(), "confidence")) == 1.0 and float(sureness(p_NV.log(), "negative_entropy")) == 0.0


def test_columns_are_told_apart_by_their_gate() -> None:
    ones = [build("reward", "lookahead", k=2, within=w)._column() for w in (UNCERTAIN, UNCERTAIN, ALL)]
    assert ones[0] == ones[1] != ones[2] and hash(ones[0]) == hash(ones[1])


@pytest.mark.parametrize(("fields", "expected"), GATES["continuation_match"])
def test_continuation_match(fields: dict[str, Any], expected: Array) -> None:
    gate = build("gate", "continuation_match", **fields)
    np.testing.assert_array_equal(gate.keep(put(gate, GAPS), None).numpy(), expected & MASK)
    nothing = put(gate, GAPS, mask_BT=torch.zeros(2, 4, dtype=torch.bool))
    assert not gate.keep(nothing, None).any()


def test_a_text_that_the_teacher_knows_nothing_about_is_no_suspect() -> None:
    gate = build("gate", "continuation_match", within=ALL, share=0.5)
    known = replace(put(gate, GAPS), absent={"teacher": torch.tensor([True, False])})
    np.testing.assert_array_equal(gate.keep(known, None).numpy(), MASK & ~np.array([[False] * 4, [False, True, False, False]]))


def test_transport_is_the_cheapest_assignment() -> None:
    """With as many places on both sides an optimal plan is a permutation: the cost comes close to the cheapest one, and what is masked costs nothing."""
    cost = np.random.RandomState(1).uniform(size=(8, 5, 5))
    best = [min(c[np.arange(4), list(order)].mean() for order in permutations(range(4))) for c in cost[:, :4, :4]]
    there = torch.tensor([True] * 4 + [False]).expand(8, 5)
    found = transport_cost(tensor(cost), there, there).numpy()
    assert np.all(found >= np.array(best) - 2e-3) and np.abs(found - best).max() < 0.06
    cost[:, 4], cost[:, :, 4] = 99.0, 99.0
    np.testing.assert_allclose(transport_cost(tensor(cost), there, there).numpy(), found, rtol=1e-12)


def test_limits_of_transport() -> None:
    """One place on one side: the mean cost. The same windows: next to nothing; none alike: the whole way."""
    cost = tensor(np.random.RandomState(2).uniform(size=(3, 4, 1)))
    every, one = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)
    np.testing.assert_allclose(transport_cost(cost, every, one).numpy(), cost.mean((1, 2)).numpy(), rtol=1e-9)
    same = 1.0 - torch.eye(4, dtype=torch.float64)[None]
    assert float(transport_cost(same, every[:1], every[:1])) < 1e-6
    assert float(transport_cost(torch.ones(1, 4, 4, dtype=torch.float64), every[:1], every[:1])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("slot", "bad", "message"),
    [
        ("reward", {"kind": "lookahead", "k": 1, "within": ALL}, "greater than or equal to 2"),
        ("reward", {"kind": "lookahead", "k": 2}, "Field required"),
        ("reward", {"kind": "lookahead", "k": 2, "within": ALL, "by": "margin"}, "confidence"),
        ("gate", {"kind": "continuation_match"}, "Field required"),
        ("gate", {"kind": "continuation_match", "within": ALL, "share": 1.0}, "less than 1"),
        ("gate", {"kind": "continuation_match", "within": ALL, "window": 0}, "greater than or equal to 1"),
    ],
)
def test_refusals(slot: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(slot, **bad)


def test_sampled_tokens_are_those_of_the_reference() -> None:
    """The stop token is written in the first response, so the reward's zero there is tested."""
    assert STOP in TOKENS[MASK] and sampled("student").shape == MASK.shape
