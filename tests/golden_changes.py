"""Other readings of a card, each one field of the entry away."""

from __future__ import annotations

from typing import Any

from zoo.components.base import Slot

PROPOSAL = {"kind": "threshold", "of": {"kind": "rank", "of": "student", "under": "teacher"}, "below": 3}
LONG_SEGMENTS = {
    "kind": "divergence_segment",
    "of": {"kind": "divergence", "of": "self", "to": "student"},
    "spike": 0.9,
    "boundary": {"kind": "entropy", "of": "student"},
    "boundary_above": 1.6,
}


OPENING_HALF = {"kind": "threshold", "of": {"kind": "spent", "of": {"kind": "entropy", "of": "student"}, "here": True}, "below": 0.5}


TEACHABLE = {
    "kind": "combined",
    "how": "product",
    "of": (
        {"kind": "scaled", "of": {"kind": "divergence", "of": "teacher", "to": "student", "top_k": 3}, "by": "quantiles"},
        {"kind": "scaled", "of": {"kind": "mass", "of": "teacher", "among": "student", "k": 3}, "by": "quantiles"},
    ),
}

TOKEN_SEGMENTS = {"kind": "change_point", "of": {"kind": "margin", "of": "teacher", "among": "student", "k": 3}, "segment": 1, "least": 1}
FAR = {"kind": "margin_shift", "name": "correct", "margin": 3.0}
NEAR = {"kind": "threshold", "of": {"kind": "log_ratio", "of": {"teacher": 1, "student": -1}, "absolute": True}, "below": 1.0}
DRIFT = {"kind": "events", "of": {"kind": "overlap", "of": "teacher", "among": "student", "k": 3}, "below": 0.5}
STEEP = {"kind": "mapped", "of": DRIFT, "slope": -0.4, "origin": 2.5, "low": 0.0, "high": 1.0}
NARROW = {"kind": "mapped", "of": {"kind": "position"}, "slope": -0.45, "origin": 1.0, "low": -0.9, "high": 0.0, "base": 1.0}
KEPT_TOKENS = {"kind": "token_mean", "over": "kept"}


def gates(*of: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(Slot("gate").validate(gate) for gate in of)


def weights(*of: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(Slot("weight").validate(weight) for weight in of)


def shapings(*of: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(Slot("shaping").validate(shaping) for shaping in of)


CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("seqkd", "token_sum"): {"reduce": "sum"},
    ("gkd", "sequence_mean"): {"reduce": "sequence_mean"},
    ("gkd", "forward_kl"): {"divergence": "forward_kl"},
    ("gkd", "reverse_kl"): {"divergence": "reverse_kl"},
    ("minillm", "code_return"): {"credit": {"kind": "discounted", "gamma": 0.95, "from": "this", "per_length": True}},
    ("distillm", "skew_reverse_kl"): {"divergence": {"kind": "skew_reverse_kl", "skew": 0.1}},
    ("eopd", "token_mean"): {"reduce": "token_mean"},
    ("aopd", "token_mean"): {"reduce": "token_mean"},
    ("opsd", "temperature_1"): {"temperature": 1.0},
    ("grpo", "token_mean"): {"reduce": "token_mean"},
    ("selectkd", "top_3"): {"weights": weights({"kind": "soft_gate", "gate": PROPOSAL, "outside": 0.3})},
    ("gear", "long_segments"): {"weights": weights({"kind": "normalised", "of": (LONG_SEGMENTS,)})},
    ("tsd_kd", "opening_half"): {"1.gates": gates(OPENING_HALF)},
    ("oppo_bayes", "tight"): {"reward": {"kind": "contrast", "of": {"self": 1, "student": -1}, "clip": 0.4}},
    ("ta_opd", "half"): {"gates": gates({"kind": "share", "of": TEACHABLE, "share": 0.5, "among": "batch"})},
    ("esr", "token_mean"): {"reduce": "token_mean"},
    ("adaswitch", "token_mean"): {"reduce": "token_mean"},
    ("ogls_sd", "forward"): {"0.divergence": "forward_kl"},
    ("imitkd", "optimal"): {"support": {"kind": "teacher_topk", "k": 1, "mass": {"renormalise": "teacher"}}},
    ("kdrl", "sequence_mean"): {"reduce": "sequence_mean"},
    ("tip", "per_rollout"): {"reduce": {"kind": "sequence_mean", "over": "kept"}},
    ("opd_plus", "reverse_kl"): {"shaping": shapings({"kind": "clip", "at": 6.0}, {"kind": "w_f", "of": "reverse_kl"})},
    ("opd_plus", "tight"): {"shaping": shapings({"kind": "clip", "at": 1.0}, {"kind": "w_f", "of": "forward_kl"})},
    ("uni_opd", "far"): {"shaping": shapings(FAR)},
    ("uni_opd", "near"): {"gates": gates(NEAR)},
    ("prune_opd", "steep"): {"weights": weights(STEEP)},
    ("fire_opd", "kept_tokens"): {"reduce": KEPT_TOKENS},
    ("prefix_teach", "token_segments"): {"gates": gates(TOKEN_SEGMENTS)},
    ("protein_opd", "token_sum"): {"reduce": "sum"},
    ("g_opd", "plain"): {"reward": {"kind": "contrast", "of": {"teacher": 1, "student": -1}}},
    ("opsa", "narrow"): {"weights": weights(NARROW)},
    ("iw_opd", "flat"): {"weights": ()},
    ("sdft", "forward"): {"divergence": "forward_kl"},
    ("opcd", "maths"): {"temperature": 0.6},
    ("opcd", "paper"): {"reduce": "sequence_mean"},
    ("vold", "forward"): {"1.divergence": "forward_kl"},
}
