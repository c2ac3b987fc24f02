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
from .fixture import Fixture, six_tokens
from .loss import Reference
from .numerics import sequence_mean, token_mean
from .reference_direct import sum_then_mean

DATA, THEIRS, BOTH, THREE = ("data",), ("theirs",), ("main", "theirs"), ("main", "theirs", "data")
IN_CONTEXT = Reference(partial(opd.divergence, model="self", reduce=sequence_mean))


def mixed() -> Fixture:
    """The six tokens with one wrong answer in `theirs` and `data` too."""
    six = six_tokens()
    return Fixture(
        {**six.streams, "theirs": replace(six["theirs"], reward_B=np.array([0.0, 1.0])), "data": replace(six["data"], reward_B=np.array([1.0, 0.0]))}
    )


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
    "rltf_sd": Reference(policy.rltf_sd, THREE),
    "sdpo_user": Reference(policy.sdpo_user),
    "cord": Reference(policy.cord),
    "vold": Reference(policy.vold),
    "srpo": Reference(routed.srpo),
    "hdpo": Reference(routed.hdpo, BOTH),
    "gates": Reference(routed.gates, BOTH),
    "dapo": Reference(routed.dapo),
    "ssd": Reference(texts.ssd, THEIRS),
    "on_policy_sft": Reference(lambda fixture: texts.right(fixture, "main")),
    "rft": Reference(lambda fixture: texts.right(fixture, "main", also=DATA), ("main", "data")),
    "star": Reference(lambda fixture: texts.right(fixture, "main", "theirs"), BOTH),
    "sdzero": Reference(lambda fixture: texts.right(fixture, "main", "theirs"), BOTH),
    "ddt": Reference(texts.ddt, DATA),
    "dasd": Reference(texts.dasd, THEIRS),
    "pbsd": Reference(partial(texts.preferred, winner="theirs", loser="main"), BOTH),
    "spin": Reference(partial(texts.preferred, winner="data", loser="theirs"), ("data", "theirs")),
}
