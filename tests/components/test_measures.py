"""Measures against plain numpy on the six tokens, and the order statistics they rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.base import walk
from zoo.components.measures import Measure
from zoo.method import annotate
from zoo.statistics import Statistic, TokenContext
from zoo.tensors import smallest
from zoo.views import LogitView

from .six import LOGITS, MASK, TOKENS, Array, build, logp, per_group, rollout, sampled, tensor

S, T, OLD = sampled("student"), sampled("teacher"), sampled("old")
P, Q = np.exp(logp("student")), np.exp(logp("teacher"))
H = -(P * logp("student")).sum(-1)
KL = (P * (logp("student") - logp("teacher"))).sum(-1)
GAP = np.abs(T - S)


def known(measure: Any, **changes: Any) -> TokenContext:
    """The six tokens with the columns that a component declares, computed from the scorers' logits."""
    declared = {s for part in walk(measure) if hasattr(part, "statistics") for s in part.statistics()}
    columns: dict[Statistic, torch.Tensor] = {}
    logits = {name: (lambda name=name: tensor(LOGITS[name][MASK])) for name in LOGITS}
    annotate(tuple(declared), LogitView(tensor(TOKENS[MASK]), logits), tensor(MASK), slice(None), columns)
    return TokenContext(replace(rollout(), **changes), columns, {"correct": torch.tensor([1.0, 0.0], dtype=torch.float64)})


def states(function: Any) -> Array:
    """A number of each state from both scorers' probabilities."""
    return np.array([[function(P[b, t], Q[b, t], TOKENS[b, t]) for t in range(4)] for b in range(2)])


def kl(a: Array, b: Array) -> float:
    return float((a * np.log(a / b)).sum())


def best(values: Array, k: int) -> set[int]:
    return set(np.argsort(-values)[:k].tolist())


def margin(p: Array, q: Array, k: int) -> float:
    ordered = np.sort(np.log(q[list(best(p, k))]))
    return float(ordered[-1] - ordered[-2])


def share_before(values: Array, here: bool = False) -> Array:
    found = np.zeros(MASK.shape)
    for b, t in zip(*np.nonzero(MASK), strict=True):
        found[b, t] = values[b, : t + here].sum() / (values[b][MASK[b]].sum() + 1e-8)
    return found


def mean_ahead(values: Array, window: int) -> Array:
    """The mean over the next tokens of the same response; the last token has none and keeps its own."""
    found = values.copy()
    for b, length in ((0, 4), (1, 2)):
        for t in range(length - 1):
            found[b, t] = values[b, t + 1 : min(t + 1 + window, length)].mean()
    return found


def row_scaled(values: Array, how: Any) -> Array:
    found = np.zeros(MASK.shape)
    for b in range(2):
        found[b, MASK[b]] = how(values[b, MASK[b]])
    return found


def stretched(values: Array, low: float = 0.0, high: float = 1.0) -> Array:
    a, b = np.quantile(values[MASK], low), np.quantile(values[MASK], high)
    return np.asarray(np.clip((values - a) / (b - a), 0, 1) * MASK)


ENTROPY, DIVERGENCE = {"kind": "entropy"}, {"kind": "divergence"}
RATIO = {"kind": "log_ratio", "of": {"teacher": 1, "student": -1}, "absolute": True}
H_01 = {"kind": "scaled", "of": ENTROPY, "by": "min_max"}
KL_01 = {"kind": "scaled", "of": DIVERGENCE, "by": "min_max"}
REFERENCES: dict[str, list[tuple[dict[str, Any], Array]]] = {
    "entropy": [({}, H), ({"of": "teacher"}, -(Q * logp("teacher")).sum(-1))],
    "normalised_entropy": [({}, H / np.log(6.0)), ({"of": "teacher"}, -(Q * logp("teacher")).sum(-1) / np.log(6.0))],
    "divergence": [
        ({}, KL),
        ({"of": "teacher", "to": "student"}, states(lambda p, q, y: kl(q, p))),
        ({"by": "jsd"}, states(lambda p, q, y: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2))),
        ({"by": "hellinger"}, states(lambda p, q, y: np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2))),
        ({"by": "total_variation"}, states(lambda p, q, y: np.abs(p - q).sum() / 2)),
        ({"of": "teacher", "to": "student", "top_k": 2}, states(lambda p, q, y: sum(q[v] * np.log(q[v] / p[v]) for v in best(q, 2)))),
        ({"top_k": 9}, KL),
    ],
    "log_ratio": [
        ({"of": {"teacher": 1, "student": -1}}, T - S),
        ({"of": {"teacher": 2, "behaviour": -1}}, 2 * T - OLD),
        (RATIO, GAP),
    ],
    "probability": [({}, np.exp(S)), ({"of": "teacher"}, np.exp(T))],
    "confidence": [({}, P.max(-1)), ({"of": "teacher"}, Q.max(-1))],
    "rank": [
        ({}, states(lambda p, q, y: (q > q[y]).sum())),
        ({"of": "student"}, states(lambda p, q, y: (q > q[p.argmax()]).sum())),
        ({"under": "student", "of": "student"}, np.zeros((2, 4))),
    ],
    "mass": [({"k": 2}, states(lambda p, q, y: q[list(best(p, 2))].sum())), ({"k": 6}, np.ones((2, 4)))],
    "margin": [({"k": 3}, states(lambda p, q, y: margin(p, q, 3))), ({"k": 9}, states(lambda p, q, y: margin(p, q, 6)))],
    "overlap": [({"k": 3}, states(lambda p, q, y: len(best(p, 3) & best(q, 3)) / 3)), ({"k": 6}, np.ones((2, 4)))],
    "position": [({}, np.array([[0, 1, 2, 3], [0, 1, 0, 0]])), ({"relative": True}, np.array([[0.125, 0.375, 0.625, 0.875], [0.25, 0.75, 0, 0]]))],
    "length": [({}, np.array([[4.0] * 4, [2.0] * 4]))],
    "repetition": [({"n": 1}, np.zeros((2, 4)))],
    "spent": [({"of": RATIO}, share_before(GAP)), ({"of": ENTROPY, "here": True}, share_before(H, here=True))],
    "events": [
        ({"of": ENTROPY, "below": 1.3}, np.cumsum((H < 1.3) & MASK, 1)),
        ({"of": ENTROPY, "above": 1.3}, np.cumsum((H > 1.3) & MASK, 1)),
    ],
    "ahead": [({"of": ENTROPY, "window": window}, mean_ahead(H, window)) for window in (1, 2, 9)],
    "weight": [({"of": {"kind": "mapped", "of": ENTROPY, "map": "exp", "slope": -1.0, "low": 0.1, "high": 0.4}}, np.clip(np.exp(-H), 0.1, 0.4))],
    "scaled": [
        (H_01, stretched(H)),
        ({"of": ENTROPY, "by": "quantiles", "low": 0.1, "high": 0.7}, stretched(H, 0.1, 0.7)),
        ({"of": ENTROPY, "by": "max", "among": "response"}, row_scaled(H, lambda h: h / h.max())),
        ({"of": ENTROPY, "by": "median"}, H / np.median(H[MASK])),
        ({"of": DIVERGENCE, "by": "median", "within": {"kind": "share", "of": DIVERGENCE, "share": 0.5, "among": "batch"}}, KL / np.sort(KL[MASK])[4]),
        ({"of": DIVERGENCE, "by": "max", "among": "response", "within": {"kind": "position", "below": 1}}, KL / KL[:, :1]),
        ({"of": RATIO, "by": "whiten", "among": "response"}, row_scaled(GAP, lambda x: (x - x.mean()) / x.std())),
        ({"of": RATIO, "by": "whiten", "absolute": True}, np.abs((GAP - GAP[MASK].mean()) / GAP[MASK].std())),
    ],
    "combined": [
        ({"of": (H_01, KL_01), "how": "soft_or"}, stretched(H) + stretched(KL) - stretched(H) * stretched(KL)),
        ({"of": (H_01, KL_01), "how": "product"}, stretched(H) * stretched(KL)),
        ({"of": (ENTROPY, DIVERGENCE, RATIO), "how": "difference"}, H - KL - GAP),
        ({"of": (ENTROPY, DIVERGENCE), "how": "sum"}, H + KL),
        ({"of": (ENTROPY, DIVERGENCE), "how": "least"}, np.minimum(H, KL)),
    ],
}  # fmt: skip
CASES = [(kind, {k: v for k, v in fields.items() if k != "kind"}, expected) for kind, several in REFERENCES.items() for fields, expected in several]


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_measure(kind: str, fields: dict[str, Any], expected: Array) -> None:
    measure = build("measure", kind, **fields)
    found = measure.value(known(measure))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.numpy()[MASK], np.asarray(expected)[MASK], atol=1e-9)


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_what_stands_in_the_padding_does_not_matter(kind: str, fields: dict[str, Any], expected: Array) -> None:
    measure = build("measure", kind, **fields)
    plain = known(measure)
    noise = torch.where(plain.mask_BT, 0.0, 7.0).double()
    other = replace(plain, columns={s: c + noise for s, c in plain.columns.items()})
    assert torch.equal(measure.value(plain)[plain.mask_BT], measure.value(other)[plain.mask_BT])


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_an_empty_batch_gives_numbers(kind: str, fields: dict[str, Any], expected: Array) -> None:
    measure = build("measure", kind, **fields)
    empty = known(measure, mask_BT=torch.zeros(2, 4, dtype=torch.bool))
    assert torch.isfinite(measure.value(empty)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_statistics_of_the_batch_are_exact(dtype: torch.dtype) -> None:
    """Bisection over the bits finds each entry in order: negative, repeated, zero of either sign, denormal, infinite."""
    values = torch.tensor([3.5, -2.0, 0.0, -0.0, 1e-40, -7e30, 2.0, 2.0, torch.inf, -1e-3], dtype=dtype)
    counted = torch.ones(10, dtype=torch.bool)
    found = torch.stack([smallest(values, counted, i, lambda x: x) for i in range(10)])
    assert torch.equal(found, values.sort().values)
    counted[[1, 5]] = False
    assert torch.equal(smallest(values, counted, 0, lambda x: x), values[9])


def test_quantiles_are_numpys_over_several_processes() -> None:
    """Two processes, each with half of the batch, find the quantile of the whole: only sums are exchanged."""
    values = np.random.RandomState(3).standard_normal(13)
    whole = TokenContext(per_group(13, [1] * 13, range(13)).rollout)
    for level in (0.0, 0.05, 0.37, 0.5, 1.0):
        found = whole.quantile(tensor(values)[:, None], whole.mask_BT, level)
        np.testing.assert_allclose(float(found), np.quantile(values, level), atol=1e-15)
    here, there = tensor(values[:5])[:, None], tensor(values[5:])[:, None]

    low, high = -(2**63), 2**63 - 1
    key = there.contiguous().view(torch.int64)
    key = torch.where(key < 0, key ^ high, key)

    def total(value: torch.Tensor) -> torch.Tensor:
        """What the other process counts at the same bisection."""
        nonlocal low, high
        at = (low + high) // 2
        summed = value + (key <= at).sum()
        low, high = (low, at) if int(summed) > 6 else (at + 1, high)
        return summed

    assert float(smallest(here, torch.ones(5, 1, dtype=torch.bool), 6, total)) == np.sort(values)[6]


def test_row_quantiles_are_numpys() -> None:
    context, values = known(build("measure", "entropy")), tensor(H)
    for level in (0.0, 0.2, 0.5, 0.9, 1.0):
        expected = [np.quantile(H[b, MASK[b]], level) for b in range(2)]
        np.testing.assert_allclose(context.row_quantile(values, level)[:, 0].numpy(), expected, atol=1e-12)


def test_draws_depend_on_neither_order_nor_padding() -> None:
    plain = TokenContext(rollout())
    wide = TokenContext(replace(rollout(), **{n: torch.nn.functional.pad(getattr(rollout(), n), (0, 3)) for n in ("response_BT", "mask_BT")}))
    turned = TokenContext(rollout().rows([1, 0]))
    draws = plain.uniform_BT("x")
    assert torch.equal(draws, wide.uniform_BT("x")[:, :4]) and torch.equal(draws.flip(0), turned.uniform_BT("x"))
    assert not torch.equal(draws, plain.uniform_BT("y"))
    older = TokenContext(replace(rollout(), version=1))
    assert not torch.equal(draws, older.uniform_BT("x"))
    assert bool(((draws >= 0) & (draws < 1)).all())


def test_repetition_counts_earlier_copies_of_an_n_gram() -> None:
    answer = per_group(1, [8], [0]).rollout
    again = replace(answer, response_BT=torch.tensor([[1, 2, 1, 2, 3, 1, 2, 1]]))
    for n, expected in ((1, [0, 0, 1, 1, 0, 2, 2, 3]), (2, [0, 0, 0, 1, 0, 0, 2, 1]), (3, [0, 0, 0, 0, 0, 0, 0, 1])):
        found = build("measure", "repetition", n=n).value(TokenContext(again))[0].tolist()
        assert found == expected, n
    gap = replace(again, mask_BT=torch.tensor([[True, True, False, False, False, True, True, False]]))
    assert build("measure", "repetition", n=2).value(TokenContext(gap))[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_scaling_equal_numbers_gives_zeros() -> None:
    answer = per_group(2, [3, 2], [0, 1])
    for by in ("min_max", "quantiles", "whiten"):
        measure = build("measure", "scaled", of={"kind": "length"}, by=by, among="response")
        assert not measure.value(TokenContext(answer.rollout)).any(), by


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("events", {"of": ENTROPY}, "give exactly one of below, above"),
        ("events", {"of": ENTROPY, "below": 1, "above": 2}, "give exactly one of below, above"),
        ("scaled", {"of": ENTROPY, "by": "quantiles", "low": 0.5, "high": 0.5}, "smaller quantile"),
        ("combined", {"of": (ENTROPY,), "how": "sum"}, "at least 2 items"),
        ("margin", {"k": 1}, "greater than or equal to 2"),
        ("log_ratio", {"of": {}}, "at least 1 item"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("measure", kind, **fields)


def test_every_measure_is_one() -> None:
    assert all(isinstance(build("measure", kind, **fields), Measure) for kind, fields, _ in CASES)
