"""Kinds that only say what the harness shall do: their defaults, their flags, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from zoo.components.base import Component, resolve, walk

from .six import build

REFERENCES: dict[str, dict[str, dict[str, Any]]] = {
    "teacher": {
        "external": {"model": "teacher", "access": "white_box", "lineage": False, "context": None, "target": None},
        "endpoint": {"model": "teacher", "access": "black_box", "lineage": False, "context": None, "target": None},
        "labels": {"field": "solution", "given": True, "lineage": False, "context": None, "target": None},
        "learner": {"learner": "pupil", "lineage": False, "members": ()},
        "student": {"lineage": True, "weights": build("weights_of", "initial")},
    },
    "weights_of": {
        "initial": {}, "live": {}, "ema": {"decay": 0.9}, "periodic": {"every": 3, "rounds": None},
        "gated": {"measure": "reward.correct.main", "every": 10, "smooth": 0.9, "margin": 0.0, "tail": None, "limit": 1.0},
        "snapshots": {"count": 4, "until": 0.5},  # their values: tests/test_branches.py
        "steered": {"strength": 1.0, "depth": 0.5, "prompts": 100},  # its states: tests/test_explore.py
    },
    "learner": {
        "value_head": {"learning_rate": 1e-3},
        "peer": {"model": "teacher", "learning_rate": 1e-3},
        "soft_prompt": {"model": "teacher", "learning_rate": 1e-3, "length": 7, "init": None},
        "adapter": {"model": "teacher", "learning_rate": 1e-3, "module": build("adapter", "lora")},
        "projector": {"learning_rate": 5e-4},
        "discriminator": {"learning_rate": 1e-4, "span": (0.0, 1.0)},
    },
    "update": {
        "adamw": {"betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 0.0, "step": None, "anchor": None, "adapter": None},
        "trust_region": {"kl": 0.01, "damping": 0.1, "iterations": 10, "backtracks": 10, "shrink": 0.5, "adapter": None},  # tests/test_trust_region.py
    },
    "step": {  # their values: tests/test_moves.py
        "dp": {"clip": 0.5, "noise": 1.0, "delta": None},
        "extrapolate": {"factor": 2.0, "trials": 5, "prompts": 50, "check": "answer"},
        "match_norm": {"to": 0},
        "merge": {"of": ("branch",)},  # tests/test_branches.py, with restart
        "restart": {"at": 0.5},
    },
    "anchor": {"l2": {"strength": 0.1}, "fisher": {"strength": 0.1, "samples": 64}},
    "adapter": {"lora": {"rank": 16, "alpha": 32.0}},
}  # fmt: skip
TERM = {"term": "likelihood", "reduce": "token_mean"}
# What a kind cannot do without.
GIVEN: dict[str, dict[str, Any]] = {
    "weights_of.ema": {"decay": 0.9}, "weights_of.periodic": {"every": 3}, "weights_of.gated": {"measure": "reward.correct.main"},
    "weights_of.snapshots": {"count": 4, "until": 0.5}, "learner.soft_prompt": {"objective": (TERM,), "length": 7},
    "step.merge": {"of": ("branch",)}, "step.restart": {"at": 0.5}, "weights_of.steered": {"toward": {"fields": ("hint",), "template": "hint"}},
    "teacher.learner": {"learner": "pupil"}, "learner.peer": {"objective": (TERM,)}, "learner.adapter": {"objective": (TERM,), "module": "lora"},
    "learner.discriminator": {"real": "given"}, "step.dp": {"clip": 0.5, "noise": 1.0}, "anchor.l2": {"strength": 0.1}, "anchor.fisher": {"strength": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(("slot", "kind"), [(slot, kind) for slot, kinds in REFERENCES.items() for kind in kinds])
def test_defaults(slot: str, kind: str) -> None:
    part = build(slot, kind, **GIVEN.get(f"{slot}.{kind}", {}))
    for name, value in REFERENCES[slot][kind].items():
        assert getattr(part, name) == value, name


@pytest.mark.parametrize(
    ("slot", "bad"),
    [
        ("weights_of", {"kind": "ema", "decay": 1.0}),
        ("weights_of", {"kind": "ema", "decay": -0.1}),
        ("weights_of", {"kind": "ema"}),
        ("weights_of", {"kind": "periodic"}),
        ("weights_of", {"kind": "periodic", "every": 2, "rounds": 2}),
        ("weights_of", {"kind": "gated", "measure": "loss", "smooth": 1.0}),
        ("weights_of", {"kind": "snapshots", "count": 1, "until": 0.5}),
        ("weights_of", {"kind": "snapshots", "count": 4, "until": 1.0}),
        ("learner", {"kind": "soft_prompt", "objective": (TERM,), "length": 0}),
        ("step", {"kind": "merge", "of": ()}),
        ("step", {"kind": "restart", "at": 1.0}),
        ("update", {"kind": "adamw", "adapter": "lora", "step": {"kind": "restart", "at": 0.5}}),
        ("learner", {"kind": "value_head", "learning_rate": 0}),
        ("learner", {"kind": "peer", "objective": ()}),
        ("learner", {"kind": "adapter", "objective": (TERM,)}),
        ("learner", {"kind": "projector", "learning_rate": 0}),
        ("learner", {"kind": "discriminator", "real": "main"}),
        ("learner", {"kind": "discriminator", "real": "given", "span": (0.5, 0.5)}),
        ("step", {"kind": "dp", "clip": 0.0, "noise": 1.0}),
        ("step", {"kind": "dp", "clip": 1.0, "noise": -1.0}),
        ("step", {"kind": "extrapolate", "factor": 0.0}),
        ("step", {"kind": "match_norm", "to": -1}),
        ("anchor", {"kind": "l2", "strength": 0.0}),
        ("anchor", {"kind": "fisher", "strength": 0.1, "samples": 0}),
        ("adapter", {"kind": "lora", "rank": 0}),
        ("update", {"kind": "adamw", "adapter": "lora", "anchor": {"l2": 0.1}}),
        ("update", {"kind": "adamw", "adapter": "lora", "step": "extrapolate"}),
        ("update", {"kind": "adamw", "betas": (0.9, 1.0)}),
        ("update", {"kind": "trust_region", "kl": 0.0}),
        ("update", {"kind": "trust_region", "shrink": 1.0}),
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
