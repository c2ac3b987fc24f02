"""Where exact updates come to rest: truncated supports, extrapolated teachers."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.entry import MethodEntry
from zoo.lab.engine import Bench
from zoo.lab.estimators import truncation_numbers
from zoo.lab.synthetic import LOG_RATIO, direct, entry_of, score_function
from zoo.lab.world import world_of

W = world_of(3, 4)


def test_what_every_mass_handling_does_to_the_mass() -> None:
    """D.11 and Part 5 item 11, followed to rest from two starts."""
    found = {n.row.name: n for n in truncation_numbers()}
    for name, n in found.items():
        assert n.teacher == pytest.approx(0.7) and n.shape < 2e-3, name
    at = {name: n.student for name, n in found.items()}
    assert at["reverse KL, raw"] == pytest.approx((0.7 / np.e, 0.7 / np.e), abs=1e-9)
    assert at["reverse KL, teacher renormalised"] == pytest.approx((1 / np.e, 1 / np.e), abs=1e-9)
    for name in ("reverse KL, log-ratio detached", "reverse KL, tail bucket", "forward KL, tail bucket"):
        assert at[name] == pytest.approx((0.7, 0.7), abs=1e-9)
    for name in ("forward KL, raw", "forward KL, teacher renormalised"):
        assert min(at[name]) > 0.998
    free = at["reverse KL, both sides renormalised"]
    assert abs(free[0] - free[1]) > 0.1


def test_the_teacher_is_no_zero_of_a_raw_truncation_or_an_extrapolation() -> None:
    raw = entry_of(direct(support={"kind": "teacher_topk", "k": 2, "mass": "raw"}))
    further = entry_of(
        {**score_function("immediate"), "reward": {**LOG_RATIO, "of": {"teacher": 1.25, "reference": -0.25, "student": -1}}},
    )
    for entry, zero in ((raw, False), (further, False), (entry_of(direct()), True)):
        bench = Bench(entry, W)
        tables = bench.tables()
        left = np.abs(bench.measure(tables.at(tables.logits("teacher"))).gradient).max()
        assert (left < 1e-14) == zero, entry


def test_an_extrapolated_reward_rests_at_the_extrapolated_teacher() -> None:
    """ExOPD: lambda log q - (lambda - 1) log r - log p vanishes in mean at p proportional to q^lambda / r^(lambda - 1)."""
    of = {"teacher": 1.25, "reference": -0.25, "student": -1}
    entry: MethodEntry = entry_of({**score_function("immediate"), "reward": {"kind": "contrast", "of": of}})
    bench = Bench(entry, W)
    tables = bench.tables()
    tilted = 1.25 * tables.logits("teacher") - 0.25 * tables.logits("reference")
    assert np.abs(bench.measure(tables.at(tilted)).gradient).max() < 1e-15
