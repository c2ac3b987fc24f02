"""References of the cards of self-distillation, self-play and experience, and of the baselines beside them, by method id."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from . import reference_opd_direct as opd
from . import reference_self_direct as direct
from . import reference_self_policy as policy
from . import reference_self_routed as routed
from . import reference_self_texts as texts
from .fixture import Fixture, Stream, crowd
from .loss import Reference
from .numerics import sequence_mean
from .reference_direct import sum_then_mean

DATA, THEIRS, BOTH, THREE = ("data",), ("theirs",), ("main", "theirs"), ("main", "theirs", "data")
IN_CONTEXT = Reference(partial(opd.divergence, model="self", reduce=sequence_mean))


def mixed() -> Fixture:
    """Eight answers to three prompts in each of `main`, `theirs` and `data`, with verdicts of their own.

    Nobody is right about the third prompt in `main` and about the second in `theirs`, and answers of `theirs` have one to four tokens.
    """
    many = crowd()
    first = many["main"]

    def turned(by: int, reward_B: list[float]) -> Stream:
        tables = {name: np.roll(getattr(first, name), by, axis=0) for name in ("response_BT", "mask_BT", "gold_BT", "value_BT")}
        logits = {model: np.roll(values, by, axis=0) for model, values in first.logits.items()}
        return replace(first, logits=logits, reward_B=np.array(reward_B), **tables)

    verdicts = {
        "main": (0, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        "theirs": (1, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]),
        "data": (3, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]),
    }
    streams = {name: turned(*told) for name, told in verdicts.items()}
    length_B1 = streams["theirs"].mask_BT.sum(axis=1, keepdims=True) - np.array([[0, 1, 1, 0, 0, 0, 0, 0]]).T
    streams["theirs"] = replace(streams["theirs"], mask_BT=np.arange(4) < length_B1)
    return Fixture({**many.streams, **streams})


SELF: dict[str, Reference] = {
    "sdft": Reference(direct.sdft),
    "sdpo": Reference(direct.sdpo),
    "vision_opd": Reference(partial(direct.sdpo, gated=False)),
    "opcd": Reference(direct.opcd),
    "oel": Reference(direct.opcd),
    "opsdc": IN_CONTEXT,
    "graft": IN_CONTEXT,
    "ophsd": Reference(partial(opd.divergence, model="self")),
    "ssb": Reference(direct.ssb, THEIRS),
    "dail": Reference(direct.dail),
    "gui_sd": Reference(direct.gui_sd),
    "opsdl": Reference(partial(routed.sampled, reduce=sum_then_mean)),
    "video_opd": Reference(partial(routed.sampled, model="teacher")),
    "vla_opd": Reference(partial(routed.sampled, model="teacher", reduce=sequence_mean)),
    "x_opd": Reference(policy.x_opd, BOTH),
    "rlsd": Reference(policy.rlsd),
    "egrsd": Reference(policy.egrsd),
    "cl_egrsd": Reference(partial(policy.egrsd, window=16)),
    "ssopd": Reference(policy.ssopd),
    "pi_distill": Reference(policy.pi_distill, BOTH),
    "sdpo_user": Reference(policy.sdpo_user),
    "cord": Reference(policy.cord),
    "vold": Reference(policy.vold),
    "srpo": Reference(routed.srpo),
    "gates": Reference(routed.gates, BOTH),
    "dapo": Reference(routed.dapo),
    "ssd": Reference(texts.ssd, THEIRS),
    "on_policy_sft": Reference(lambda fixture: texts.right(fixture, "main")),
    "rft": Reference(lambda fixture: texts.right(fixture, "main", also=DATA), ("main", "data")),
    "star": Reference(texts.star, BOTH),
    "sdzero": Reference(lambda fixture: texts.right(fixture, "main", "theirs"), BOTH),
    "tms": Reference(lambda fixture: texts.chosen(fixture, {"data": None}), DATA),  # gold first, for the checkpoints
    "ddt": Reference(texts.ddt, DATA),
    "dasd": Reference(texts.dasd, THEIRS),
    "pbsd": Reference(partial(texts.preferred, winner="theirs", loser="main"), BOTH),
    "spin": Reference(partial(texts.preferred, winner="data", loser="theirs"), ("data", "theirs")),
}

# Cards that compare verdicts of several streams: on `mixed` alone. Others look there, and at the `crowd`, as well.
UNEVEN: dict[str, Reference] = {"rltf_sd": Reference(policy.rltf_sd, THREE), "hdpo": Reference(routed.hdpo, BOTH)}
MIXED = ("ssb", "star", "sdzero", "gates", "pi_distill", "dasd", "ssd", "pbsd", "spin", "x_opd", "rft", "dapo", "srpo", "ssopd", "rlsd", "ddt")
COMPARING_SELF = ("sdft", "sdpo", "rlsd", "egrsd", "ssopd", "sdpo_user", "cord", "vold", "srpo", "dapo", "on_policy_sft", "rft", "pi_distill")

SELF_VARIANTS: dict[str, dict[str, Reference]] = {
    "sdft": {"forward": Reference(partial(direct.sdft, forward=True))},
    "opcd": {"maths": Reference(partial(direct.opcd, temperature=0.6)), "paper": Reference(partial(direct.opcd, reduce=sequence_mean))},
    "egrsd": {"high_floor": Reference(partial(policy.egrsd, floor=0.75))},
    "cl_egrsd": {"one_ahead": Reference(partial(policy.egrsd, window=1))},
    "vold": {"forward": Reference(partial(policy.vold, forward=True))},
    "unisd": {
        "plain": Reference(direct.unisd),
        "weighted": Reference(partial(direct.unisd, gamma=0.001)),
        "published": Reference(partial(direct.unisd, gamma=0.001, contrast=0.01)),
    },
    "pi_distill": {"card": Reference(partial(policy.pi_distill, inside=True, pessimistic=True), BOTH)},
    "srpo": {"card": Reference(partial(routed.srpo, routed=True))},
    "star": {"card": Reference(partial(texts.star, pooled=True), BOTH)},
    "spin": {"hinge": Reference(partial(texts.preferred, winner="data", loser="theirs", hinge=True), ("data", "theirs"))},
    "sdzero": {"second_phase": Reference(direct.sdzero)},
    "dasd": {"last_stage": Reference(lambda fixture: texts.chosen(fixture, {"main": None}))},
}

# Later moments of a run, as `MOMENTS` of `list_opd`.
SELF_MOMENTS: dict[str, dict[float, Reference]] = {
    "tms": {0.75: Reference(lambda fixture: texts.chosen(fixture, {"main": None}))},  # a quarter gold, the rest of the checkpoints: one likelihood
    "rlsd": {0.125: Reference(partial(policy.rlsd, lam=0.25)), 0.25: Reference(partial(policy.rlsd, lam=0.0))},
    "sdzero": {0.5: SELF_VARIANTS["sdzero"]["second_phase"]},
    "dasd": {0.45: SELF["dasd"], 0.95: SELF_VARIANTS["dasd"]["last_stage"]},
}
