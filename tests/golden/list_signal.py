"""References of the cards of further signals that the surveys name, by method id: on the six tokens, or on others where these say too little."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from . import reference_signal_direct as direct
from . import reference_signal_policy as policy
from .fixture import Fixture, crowd, six_tokens
from .loss import Reference
from .numerics import sequence_mean
from .reference_direct import sum_then_mean

THEIRS, DATA, PAIRS, THREE = ("theirs",), ("data",), ("data", "theirs"), ("main", "theirs", "data")

SIGNAL: dict[str, Reference] = {
    "mpd": Reference(partial(direct.divergence, kind="forward", model="teacher", stream_name="theirs", reduce=sequence_mean), THEIRS),
    "promptkd": Reference(partial(direct.divergence, model="second")),
    "copd": Reference(policy.copd),
    "csd": Reference(direct.csd),
    "dudi": Reference(direct.dudi, THREE),
    "prism": Reference(policy.prism, THEIRS),
    "msd": Reference(direct.msd),
    "visd": Reference(policy.visd),
    "copsd": Reference(direct.copsd),
    "atesd": Reference(partial(direct.divergence, kind="forward", reduce=sequence_mean)),
    "trace": Reference(policy.trace),
    "avsd": Reference(policy.avsd),
    "sgsd": Reference(direct.sgsd),
    "critique_distill": Reference(direct.critique_distill),
    "constitutional_opsd": Reference(partial(policy.sampled, clip=0.2)),
    "sdpg": Reference(policy.sdpg),
    "mgsd": Reference(direct.mgsd),
    "ptd_po": Reference(policy.ptd_po),
    "twi": Reference(partial(direct.divergence, reduce=sequence_mean)),
    "pbsd_bayes": Reference(policy.pbsd_bayes),
    "visual_sdpo": Reference(policy.visual_sdpo),
    "ar_opd": Reference(direct.ar_opd),
    "nca": Reference(direct.nca, ("main", "theirs")),
    "rgsd": Reference(partial(direct.divergence, kind="jsd")),
    "it_takes_two": Reference(lambda fixture: direct.summed(*(direct.divergence(fixture, model=model) for model in ("right", "wrong")))),
    "rosd": Reference(direct.rosd),
    "rlrt": Reference(policy.rlrt),
    "paint": Reference(direct.paint),
    "opct": Reference(partial(policy.sampled, reduce=sum_then_mean)),
    "sg_opd": Reference(policy.sg_opd),
    "iris": Reference(direct.iris, PAIRS),
    "opsa": Reference(direct.opsa),
}

SIGNAL_VARIANTS: dict[str, dict[str, Reference]] = {
    "copd": {"mutual": Reference(partial(policy.copd, mutual=True))},
    "prism": {"aligned": Reference(partial(policy.prism, aligned=True))},
    "trace": {"half_way": Reference(partial(policy.trace, lam=0.5)), "behind": Reference(partial(policy.trace, lam=0.0))},
    "avsd": {"plain": Reference(partial(policy.avsd, law=False))},
    "sgsd": {"tight": Reference(partial(direct.sgsd, cap=1.0))},
    "sdpg": {"warm": Reference(partial(policy.sdpg, beta=1e-3))},
    "paint": {"signed": Reference(partial(direct.paint, signed=True))},
    "iris": {"late": Reference(partial(direct.iris, alpha=1.05), PAIRS)},
    "opsa": {"narrow": Reference(partial(direct.opsa, window=1.0, fall=2.0))},
}

SIGNAL_MOMENTS: dict[str, dict[float, Reference]] = {
    "copd": {0.2: SIGNAL_VARIANTS["copd"]["mutual"], 0.3: Reference(policy.copd)},
    "prism": {0.5: SIGNAL_VARIANTS["prism"]["aligned"]},
    "trace": {0.2: SIGNAL_VARIANTS["trace"]["half_way"], 0.7: SIGNAL_VARIANTS["trace"]["behind"]},
    "sdpg": {0.5: SIGNAL_VARIANTS["sdpg"]["warm"]},
    "iris": {0.5: SIGNAL_VARIANTS["iris"]["late"]},
}


def told() -> Fixture:
    """The six tokens with one wrong answer in `data`."""
    six = six_tokens()
    return six.with_stream("data", replace(six["data"], reward_B=np.array([1.0, 0.0])))


def shown() -> Fixture:
    """The six tokens with eight texts of a reader of the answer as `theirs`: some wrong, and one that nobody would write unread."""
    six, many = six_tokens(), crowd()["main"]
    logits = {**many.logits, "student": many.logits["self"], "old": many.logits["self"], "self": many.logits["student"]}
    return six.with_stream("theirs", replace(many, logits=logits, reward_B=np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0])))


def tiers() -> Fixture:
    """The six tokens with eight texts of a teacher, right for two prompts of three, as `theirs`, and eight of one that was helped as `data`."""
    six, many = six_tokens(), crowd()["main"]
    swapped = {**many.logits, "student": many.logits["self"], "old": many.logits["self"], "self": many.logits["student"]}
    theirs = replace(many, reward_B=np.array([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]))
    helped = replace(many, logits=swapped, reward_B=np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]))
    return six.with_stream("theirs", theirs).with_stream("data", helped)


def fours() -> Fixture:
    """The crowd as two decisions between four answers."""
    many = crowd()
    return many.with_stream("main", replace(many["main"], group_B=np.arange(8) // 4))


ELSEWHERE_SIGNAL: dict[str, tuple[Reference, Fixture]] = {
    "brts": (Reference(direct.brts, THREE), tiers()),
    "vpg_ea": (Reference(policy.vpg_ea, ("main", "theirs")), shown()),
    "vpd": (Reference(direct.vpd, ("theirs", "data", "main")), told()),
    "opcod": (Reference(direct.opcod), crowd()),
    "world_model_pi": (Reference(policy.world_model_pi), fours()),
}
# Cards that compare answers or prompts, on the crowd too.
COMPARING_SIGNAL = ("pbsd_bayes", "visual_sdpo", "critique_distill", "rlrt", "sgsd", "trace")
# Surrogates with another value: what is compared is the gradient.
GRADIENT_ALONE = frozenset({"world_model_pi", "sdar"})

# Which streams and models of the fixture play those of an entry.
SIGNAL_STREAMS: dict[str, dict[str, str]] = {
    "brts": {"helped": "data"},
    "nca": {"seen": "theirs"},
    "vpd": {"good": "theirs", "bad": "data"},
    "vpg_ea": {"hinted": "theirs"},
}
SIGNAL_MODELS: dict[str, dict[str, str]] = {
    "copd": {"sibling": "peer"},
    "promptkd": {"prompted": "second"},
    "dudi": {"told": "second", "before": "reference"},
    "avsd": {"half": "right", "short": "wrong"},
    "ar_opd": {"half": "elsewhere", "anchored": "elsewhere"},
    "nca": {"plain": "peer"},
    "it_takes_two": {"useful": "right", "discreet": "wrong"},
    "vpd": {"plain": "reference"},
    "maigo": {"whole": "right"},
}
