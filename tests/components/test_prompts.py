"""Draws of prompts: their weights in plain numpy, the law of the draw, their limits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zoo.components.base import Slot
from zoo.components.prompts import Delta, PassRate, ranked
from zoo.seeds import uniforms

Array = NDArray[np.float64]
OWN = np.array([0.0, 0.25, 0.5, 1.0, np.nan, 0.75])
OTHER = np.array([1.0, 0.25, 0.75, 0.5, 1.0, np.nan])


def pass_rate(own: Array, other: Array, *, alpha: float = 1.0, beta: float = 1.0, floor: float = 0.1) -> Array:
    grid = np.linspace(0, 1, 100_001)
    best = float((grid**alpha * (1 - grid) ** beta).max())
    return np.array([1.0 if np.isnan(r) else max(floor, r**alpha * (1 - r) ** beta / best) for r in own])


def delta(own: Array, other: Array, *, above: float = 0.0, power: float = 0.0, absolute: bool = False, floor: float = 0.1) -> Array:
    found = []
    for mine, theirs in zip(own, other, strict=True):
        apart = abs(theirs - mine) if absolute else theirs - mine
        found.append(1.0 if np.isnan(apart) else max(floor, apart**power if apart > above else 0.0))
    return np.array(found)


REFERENCES: dict[str, Callable[..., Array]] = {"pass_rate": pass_rate, "delta": delta}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("pass_rate", {}), ("pass_rate", {"alpha": 2.0, "beta": 0.5, "floor": 0.0}), ("pass_rate", {"alpha": 0.0, "beta": 0.0}),
    ("pass_rate", {"alpha": 0.0, "beta": 1.0}),
    ("delta", {}), ("delta", {"power": 1.0, "floor": 0.0}), ("delta", {"absolute": True, "above": 0.3}), ("delta", {"absolute": True, "power": 2.0}),
]  # fmt: skip


def built(kind: str, **fields: Any) -> Any:
    more = {"against": "theirs"} if kind == "delta" else {}
    return Slot("prompts").validate({"kind": kind, "name": "correct", **more, **fields})


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_weights_against_plain_numpy(kind: str, fields: dict[str, Any]) -> None:
    draw = built(kind, **fields)
    means = [torch.as_tensor(OWN), torch.as_tensor(OTHER)][: 1 + len(draw.others)]
    found = draw.weights(draw.value(*means))
    np.testing.assert_allclose(found.numpy(), REFERENCES[kind](OWN, OTHER, **fields), rtol=1e-8)


def test_the_default_is_a_kernel_with_its_peak_at_one_half() -> None:
    draw = built("pass_rate")
    assert isinstance(draw, PassRate) and draw.grouped and draw.others == ()
    assert draw.weights(torch.tensor([0.5, 0.0, 1.0, float("nan")], dtype=torch.float64)).tolist() == [1.0, 0.1, 0.1, 1.0]
    delta = built("delta")
    assert isinstance(delta, Delta) and delta.others == ("theirs",) and not delta.grouped


def test_a_draw_follows_its_weights() -> None:
    """Without replacement: the chance of an order is the product of the weights over what is left."""
    weight = np.array([0.5, 0.3, 0.2])
    drawn = [tuple(ranked(torch.as_tensor(weight), u).tolist()) for u in uniforms(list(range(20_000)), 3)]
    for order in permutations(range(3)):
        left = np.array([weight[list(order[i:])].sum() for i in range(3)])
        assert drawn.count(order) / len(drawn) == pytest.approx(float((weight[list(order)] / left).prod()), abs=0.01)


def test_prompts_of_weight_zero_come_last() -> None:
    uniform = torch.tensor([0.9, 0.1, 0.5, 0.2], dtype=torch.float64)
    weight = torch.tensor([0.0, 1.0, 0.0, 1e-12], dtype=torch.float64)
    assert ranked(weight, uniform).tolist() == [1, 3, 2, 0]
    assert ranked(torch.zeros(4, dtype=torch.float64), uniform).tolist() == [1, 3, 2, 0]
    assert sorted(ranked(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "pass_rate", "name": "correct", "alpha": -1.0},
        {"kind": "pass_rate", "name": "correct", "pool": 0},
        {"kind": "pass_rate", "name": "correct", "floor": 1.5},
        {"kind": "pass_rate"},
        {"kind": "delta", "name": "correct"},
        {"kind": "delta", "name": "correct", "against": "theirs", "above": 1.0},
        {"kind": "delta", "name": "correct", "against": "theirs", "floor": 1.0},
    ],
)
def test_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Slot("prompts").validate(bad)
