"""Gates that read measures, outcomes or a draw, against plain numpy on the six tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.statistics import Entropy, LogProb, TokenContext

from .six import MASK, TOKENS, Array, build, per_group, rollout, sampled, tensor
from .test_measures import GAP, KL, H, known

S, T = sampled("student"), sampled("teacher")
ENTROPY = {"kind": "entropy"}
GAPS = {"kind": "log_ratio", "of": {"teacher": 1, "student": -1}, "absolute": True}
DIVERGENCE = {"kind": "divergence"}


def rows(values: Array) -> Array:
    """The mean over each sequence's tokens, for each of its tokens."""
    return np.broadcast_to(np.array([values[b, MASK[b]].mean() for b in range(2)])[:, None], (2, 4))


def highest(values: Array, count: int) -> Array:
    return np.asarray(values >= np.sort(values[MASK])[-count])


def highest_of_each(values: Array, counts: tuple[int, int]) -> Array:
    return np.stack([values[b] >= np.sort(values[b, MASK[b]])[-counts[b]] for b in range(2)])


DRAW = TokenContext(rollout()).uniform_BT("acceptance of student by teacher").numpy()
REFERENCES: dict[str, list[tuple[dict[str, Any], Array]]] = {
    "threshold": [
        ({"of": ENTROPY, "above": 1.3}, H > 1.3),
        ({"of": GAPS, "at_most": 1.0, "scope": "sequence"}, rows(GAP) <= 1.0),
        ({"of": GAPS, "below": GAP[MASK].mean() + 0.01, "scope": "batch"}, MASK),
        ({"of": GAPS, "below": GAP[MASK].mean() - 0.01, "scope": "batch"}, ~MASK & MASK),
        ({"of": GAPS, "above": rows(GAP)[:, 0].mean() - 0.01, "scope": "group"}, MASK),
    ],
    "quantile": [
        ({"of": ENTROPY, "at_least": 0.4}, np.quantile(H[MASK], 0.4) <= H),
        ({"of": ENTROPY, "below": 0.4}, np.quantile(H[MASK], 0.4) > H),
        ({"of": ENTROPY, "above": 0.5, "among": "response"}, np.stack([np.quantile(H[b, MASK[b]], 0.5) < H[b] for b in range(2)])),
        ({"of": GAPS, "at_least": 1.0, "scope": "sequence"}, rows(GAP) == rows(GAP).max()),
    ],
    "share": [
        ({"of": ENTROPY, "share": 0.5}, highest_of_each(H, (2, 1))),
        ({"of": DIVERGENCE, "share": 0.6, "round": "down"}, highest_of_each(KL, (2, 1))),
        ({"of": DIVERGENCE, "share": 0.6}, highest_of_each(KL, (3, 2))),
        ({"of": DIVERGENCE, "share": 0.3, "among": "batch"}, highest(KL, 2)),
        ({"of": DIVERGENCE, "share": 0.5, "among": "batch", "side": "lowest"}, np.sort(KL[MASK])[2] >= KL),
        ({"of": GAPS, "share": 0.5, "among": "batch", "scope": "sequence"}, rows(GAP) == rows(GAP).max()),
        ({"of": ENTROPY, "share": 1.0}, MASK),
    ],
    "acceptance": [
        ({}, np.minimum(1, np.exp(T - S)) > DRAW),
        ({"is": "rejected"}, np.minimum(1, np.exp(T - S)) <= DRAW),
        ({"target": "student", "draft": "student"}, MASK),
    ],
    "class_balance": [({"name": "correct"}, MASK), ({"name": "correct", "ratio": 2.0}, MASK)],
    "change_point": [({"of": ENTROPY, "segment": 2}, MASK)],
    "finished": [({}, np.array([[True], [False]]) & MASK), ({"is": False}, np.array([[False], [True]]) & MASK)],
    "context": [({"of": "self"}, MASK), ({"of": "self", "is": "absent"}, ~MASK & MASK)],
    # A batch that stands alone remembers nothing.
    "hysteresis": [({"of": ENTROPY}, MASK)],
    "persistent": [({"of": DIVERGENCE}, MASK), ({"of": DIVERGENCE, "is": "persistent"}, ~MASK & MASK)],
    "group_pick": [
        # Both responses are of one group; the first is right.
        ({"name": "correct", "of": ENTROPY}, np.array([[True], [False]]) & MASK),
        ({"name": "correct", "wanted": "wrong", "of": {"kind": "length"}}, np.array([[False], [True]]) & MASK),
        ({"name": "correct", "wanted": "any", "of": {"kind": "length"}}, np.array([[True], [False]]) & MASK),
        ({"name": "correct", "wanted": "any", "of": {"kind": "length"}, "side": "lowest"}, np.array([[False], [True]]) & MASK),
        ({"name": "correct", "wanted": "any", "of": GAPS}, rows(GAP) == rows(GAP).max()),
    ],
    "token_set": [
        ({"ids": (3, 4)}, ~np.isin(TOKENS, (3, 4))),
        ({"ids": (0,), "is": "in"}, TOKENS == 0),
        # The first response ended by itself, the second was cut.
        ({"stop": True}, np.array([[True, True, True, False], [True, True, False, False]])),
        ({"stop": True, "ids": (2,), "is": "in"}, np.array([[False, False, False, True], [True, False, False, False]])),
    ],
}  # fmt: skip
CASES = [(kind, fields, expected) for kind, several in REFERENCES.items() for fields, expected in several]


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_gate(kind: str, fields: dict[str, Any], expected: Array) -> None:
    gate = build("gate", kind, **fields)
    found = gate.keep(known(gate), None)
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found.numpy(), expected & MASK)


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_an_empty_batch_keeps_nothing(kind: str, fields: dict[str, Any], expected: Array) -> None:
    gate = build("gate", kind, **fields)
    assert not gate.keep(known(gate, mask_BT=torch.zeros(2, 4, dtype=torch.bool)), None).any()


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_a_batch_of_no_sequences_keeps_none(kind: str, fields: dict[str, Any], expected: Array) -> None:
    """What one of several processes has of a small minibatch."""
    gate = build("gate", kind, **fields)
    context = known(gate)
    none = replace(
        context, rollout=context.rollout.rows([]), columns={s: column[:0] for s, column in context.columns.items()},
        rewards={name: reward[:0] for name, reward in context.rewards.items()}, absent={name: absent[:0] for name, absent in context.absent.items()},
    )  # fmt: skip
    assert gate.keep(none, None).shape == (0, 4)


def test_a_context_gate_parts_the_sequences_by_what_a_scorer_lacks() -> None:
    absent = torch.tensor([False, True])
    known_B = TokenContext(rollout(), absent={"self": absent})
    for which, expected in (("present", ~absent), ("absent", absent)):
        found = build("gate", "context", of="self", **{"is": which}).keep(known_B, None)
        assert torch.equal(found, expected[:, None] & rollout().mask_BT), which


def test_a_group_without_a_right_answer_has_no_pick_and_each_group_has_its_own() -> None:
    pick = build("gate", "group_pick", name="correct", of={"kind": "length"})
    alone = TokenContext(rollout(group=(0, 1)), {}, {"correct": torch.tensor([0.0, 1.0])})
    assert pick.keep(alone, None).any(1).tolist() == [False, True]
    both = TokenContext(rollout(group=(0, 1)), {}, {"correct": torch.tensor([1.0, 1.0])})
    assert torch.equal(pick.keep(both, None), rollout().mask_BT)
    equal = TokenContext(rollout(), {}, {"correct": torch.tensor([1.0, 1.0])})
    first = build("gate", "group_pick", name="correct", of={"kind": "probability"})
    zero = TokenContext(rollout(), {s: torch.zeros(2, 4) for s in first.statistics()}, equal.rewards)
    assert first.keep(zero, None).any(1).tolist() == [True, False]


def test_accepted_and_rejected_tokens_are_complements() -> None:
    """Two terms draw once: each token goes to exactly one of them."""
    gates = [build("gate", "acceptance", **{"is": which}) for which in ("accepted", "rejected")]
    accepted, rejected = (gate.keep(known(gate), None) for gate in gates)
    assert torch.equal(accepted ^ rejected, tensor(MASK))


def test_acceptance_has_the_rate_of_speculative_decoding() -> None:
    """Over many tokens with q/p = 1/2 half are accepted; with q > p all, with q = 0 none."""
    many = per_group(1, [4000], [0]).rollout
    half = torch.full((1, 4000), math.log(0.5), dtype=torch.float64)
    for teacher, low, high in ((half, 0.46, 0.54), (half * 0, 1.0, 1.0), (half * 1e4, 0.0, 0.0)):
        context = TokenContext(many, {LogProb("student"): half * 0, LogProb("teacher"): teacher})
        assert low <= float(build("gate", "acceptance").keep(context, None).double().mean()) <= high


def test_class_balance_thins_the_more_frequent_outcome() -> None:
    answers = per_group(9, [2] * 9, range(9))
    right = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 0])
    for name, outcome in (("right", right), ("wrong", 1 - right)):
        context = TokenContext(answers.rollout, {}, {"correct": outcome})
        kept_B = build("gate", "class_balance", name="correct").keep(context, None)[:, 0]
        assert kept_B[-2:].all() and int(kept_B[:-2].sum()) == 2, name
        looser = build("gate", "class_balance", name="correct", ratio=2).keep(context, None)[:, 0]
        assert int(looser.sum()) == 6 and bool((looser | ~kept_B).all())
    for same in (torch.ones(9), torch.zeros(9)):
        assert build("gate", "class_balance", name="correct").keep(TokenContext(answers.rollout, {}, {"correct": same}), None).all()


def test_class_balance_does_not_depend_on_the_order() -> None:
    answers, right = per_group(9, [2] * 9, range(9)).rollout, torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 0, 1])
    order = [4, 2, 8, 0, 1, 3, 7, 6, 5]
    gate = build("gate", "class_balance", name="correct")
    plain = gate.keep(TokenContext(answers, {}, {"correct": right}), None)
    assert torch.equal(plain[order], gate.keep(TokenContext(answers.rows(order), {}, {"correct": right[order]}), None))


def change(values: list[float], **fields: Any) -> int:
    """How many tokens of one response the change-point gate keeps."""
    context = per_group(1, [len(values)], [0])
    columns = {Entropy("student"): torch.tensor([values], dtype=torch.float64)}
    kept = build("gate", "change_point", of=ENTROPY, **fields).keep(TokenContext(context.rollout, columns), None)[0]
    assert kept.tolist() == sorted(kept.tolist(), reverse=True), "a prefix"
    return int(kept.sum())


def test_change_point_finds_the_one_fall() -> None:
    noise = (0.05 * np.random.RandomState(0).standard_normal(12)).tolist()
    falling = [3.0 + e for e in noise[:7]] + [1.0 + e for e in noise[7:]]
    assert change(falling, segment=1) == 7
    assert change([4.0 - x for x in falling], segment=1) == 12, "a rise releases nothing"
    assert change([2.0, 2.1] * 6, segment=1) == 12, "no change"
    assert change([2.0] * 12, segment=1) == 12
    assert change(falling[5:8], segment=1) == 3, "too short to tell"
    assert change([v for v in falling for _ in range(2)], segment=2) == 14, "in segments"
    assert change([v for v in falling for _ in range(2)] + [1.0], segment=2) == 14, "a last segment that is shorter"


def test_change_point_is_the_criterion_of_its_formula() -> None:
    """Against the criteria written out in numpy for one borderline response after another."""
    decided = set()
    for seed in range(40):
        m = np.random.RandomState(seed).standard_normal(8) * 0.6 + np.array([0.8] * 5 + [0.0] * 3)
        n = len(m)
        rss = {c: ((m[:c] - m[:c].mean()) ** 2).sum() + ((m[c:] - m[c:].mean()) ** 2).sum() for c in range(2, n - 1)}
        c = min(rss, key=lambda c: rss[c])
        bic0, bic1 = n * np.log(((m - m.mean()) ** 2).sum() / n) + np.log(n), n * np.log(rss[c] / n) + 3 * np.log(n)
        expected = c if bic1 < bic0 and m[c:].mean() < m[:c].mean() else n
        assert change(m.tolist(), segment=1) == expected
        decided.add(expected == n)
    assert decided == {True, False}


def test_share_counts_and_ties() -> None:
    answer = per_group(1, [25], [0]).rollout
    equal = TokenContext(answer, {Entropy("student"): torch.ones(1, 25, dtype=torch.float64)})
    earlier = build("gate", "share", of=ENTROPY, share=0.6).keep(equal, None)[0]
    assert earlier.tolist() == [True] * 15 + [False] * 10, "ties in a response go to the earlier token"
    assert build("gate", "share", of=ENTROPY, share=0.6, among="batch").keep(equal, None).all(), "ties in a batch are all kept"
    rising = TokenContext(answer, {Entropy("student"): torch.arange(25.0)[None]})
    for share, up, down in ((0.5, 13, 12), (0.01, 1, 1), (0.2, 5, 5), (0.36, 9, 9)):
        for how, count in (("up", up), ("down", down)):
            for among in ("response", "batch"):
                gate = build("gate", "share", of=ENTROPY, share=share, round=how, among=among)
                assert int(gate.keep(rising, None).sum()) == count


def test_gates_at_and_below_a_quantile_are_complements() -> None:
    """Two terms may split the tokens so, each with its own mean (VA-OPD)."""
    high, low = (build("gate", "quantile", of=ENTROPY, **{side: 0.7}) for side in ("at_least", "below"))
    assert torch.equal(high.keep(known(high), None) ^ low.keep(known(low), None), tensor(MASK))


def test_the_stop_token_is_the_last_supervised_one() -> None:
    gapped = replace(rollout(), mask_BT=torch.tensor([[True, False, True, False], [True, True, False, False]]))
    kept = build("gate", "token_set", stop=True).keep(TokenContext(gapped), None)
    assert kept.tolist() == [[True, False, False, False], [True, True, False, False]]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("threshold", {"of": ENTROPY}, "exactly one of above"),
        ("threshold", {"of": ENTROPY, "above": 1, "below": 2}, "exactly one of above"),
        ("threshold", {"of": "entrpy", "above": 1}, "unknown measure 'entrpy'; did you mean 'entropy'"),
        ("quantile", {"of": ENTROPY, "above": 1.5}, r"above must lie in \[0.0, 1.0\]"),
        ("quantile", {"of": ENTROPY, "above": 0.5, "scope": "sequence", "among": "response"}, "set among: batch"),
        ("share", {"of": ENTROPY, "share": 0.5, "scope": "sequence"}, "set among: batch"),
        ("share", {"of": ENTROPY, "share": 1.5}, r"share must lie in \[0.0, 1.0\]"),
        ("token_set", {}, "the set is empty"),
        ("class_balance", {"name": "correct", "ratio": 0.5}, "greater than or equal to 1"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("gate", kind, **fields)
