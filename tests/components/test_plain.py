"""Kinds that only say what the harness shall do: their defaults, their flags, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from zoo.components.base import Component, resolve, walk

from .six import build

REFERENCES: dict[str, dict[str, dict[str, Any]]] = {
    "teacher": {
        "external": {"model": "teacher", "access": "white_box", "lineage": False, "context": None, "target": None},
        "student": {"lineage": True, "weights": build("weights_of", "initial")},
    },
    "weights_of": {"initial": {}, "live": {}, "ema": {"decay": 0.9}},
    "learner": {"value_head": {"learning_rate": 1e-3}},
    "update": {"adamw": {"betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 0.0}},
}


@pytest.mark.parametrize(("slot", "kind"), [(slot, kind) for slot, kinds in REFERENCES.items() for kind in kinds])
def test_defaults(slot: str, kind: str) -> None:
    given = {"decay": 0.9} if kind == "ema" else {}
    part = build(slot, kind, **given)
    for name, value in REFERENCES[slot][kind].items():
        assert getattr(part, name) == value, name


@pytest.mark.parametrize(
    ("slot", "bad"),
    [
        ("weights_of", {"kind": "ema", "decay": 1.0}),
        ("weights_of", {"kind": "ema", "decay": -0.1}),
        ("weights_of", {"kind": "ema"}),
        ("learner", {"kind": "value_head", "learning_rate": 0}),
        ("update", {"kind": "adamw", "betas": (0.9, 1.0)}),
        ("teacher", {"kind": "external", "access": "grey_box"}),
        ("teacher", {"kind": "student", "context": {"fields": (), "template": "hint"}}),
    ],
)
def test_refused(slot: str, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        build(slot, **bad)


def test_schedules_are_resolved_everywhere_and_nothing_else_is_copied() -> None:
    ramp = {"schedule": "linear", "start": 0.2, "end": 0.8}
    divergence = {"kind": "generalized_jsd", "beta": ramp}
    term = build("term", "divergence", divergence=divergence, coefficient=ramp, gates=({"kind": "teacher_entropy", "above": ramp},), reduce="token_mean")

    def halfway(schedule: Component) -> float:
        return float(schedule.value(0.5))  # type: ignore[attr-defined]

    now = resolve(term, halfway)
    assert (now.divergence.beta, now.coefficient, now.gates[0].above) == pytest.approx((0.5, 0.5, 0.5))
    assert now.reduce is term.reduce
    assert resolve(now, halfway) is now
    assert sum(part.tag == "schedule" for part in walk(term)) == 3
    assert sum(part.tag == "schedule" for part in walk(now)) == 0
