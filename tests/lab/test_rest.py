"""Where exact updates come to rest: truncated supports, extrapolated teachers."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.entry import MethodEntry
from zoo.lab.engine import Bench
from zoo.lab.estimators import truncation_numbers
from zoo.lab.report import study
from zoo.lab.synthetic import LOG_RATIO, direct, entry_of, score_function
from zoo.lab.tilts import powers
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


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ("q^1.25 reference^-0.25, normalised", {"teacher": 1.25, "reference": -0.25}),
        ("q reference / base, normalised: since both moved", {"teacher": 1.0, "reference": 1.0, "base": -1.0}),
        ("base^(1 / 0.9) teacher^(-0.1 / 0.9) normalised", {"base": 1 / 0.9, "teacher": -0.1 / 0.9}),
        ("q(v) exp(A(v) / beta) normalised", None),
        ("q^(1 / (1 - b)), normalised", None),
        ("sqrt(q_1 q_2), normalised", None),
        ("the teacher renormalised on its top-k", None),
        ("nobody^2, normalised", None),
    ],
)
def test_products_of_powers_are_read(stated: str, wanted: dict[str, float] | None) -> None:
    assert powers(stated, "teacher", {"teacher", "reference", "base"}) == wanted


def test_a_stated_product_is_held_against_the_update() -> None:
    of = {"teacher": 1.25, "reference": -0.25, "student": -1}
    term = {**score_function("immediate"), "reward": {"kind": "contrast", "of": of}}
    right = study(entry_of(term, fixed_point="tilted: q^1.25 reference^-0.25, normalised"))
    assert right.ok and right.fixed is not None and right.fixed.at_tilt is not None and right.fixed.at_tilt < 1e-12
    wrong = study(entry_of(term, fixed_point="tilted: q^1.5 reference^-0.5, normalised"))
    assert any("q^1.5" in line and "is left" in line for line in wrong.contradictions)
