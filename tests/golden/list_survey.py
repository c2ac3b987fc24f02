"""References of cards that the surveys name beyond the classics, by method id."""

from __future__ import annotations

from functools import partial

from . import reference_guided as guided
from . import reference_objective as objective
from .loss import Reference
from .numerics import token_mean

PAIRS = ("theirs", "main")

SURVEY: dict[str, Reference] = {
    "anti_sd": Reference(guided.anti_sd),
    "direction_adaptive_sd": Reference(guided.direction_adaptive_sd),
    "amr_sd": Reference(guided.amr_sd),
    "oppo_bayes": Reference(guided.oppo_bayes),
    "rlcsd": Reference(guided.rlcsd),
    "gear": Reference(guided.gear),
    "gndpo": Reference(guided.gndpo),
    "codistill_grpo": Reference(guided.codistill_grpo),
    "dgrpo": Reference(guided.dgrpo),
    "tgpo": Reference(guided.tgpo),
    "spot": Reference(objective.spot, PAIRS),
    "credit_pmi": Reference(objective.credit_pmi),
    "ogls_sd": Reference(objective.ogls_sd),
    "pw_opsd": Reference(objective.pw_opsd),
    "ta_opd": Reference(objective.ta_opd),
    "raft_domain": Reference(objective.raft_domain, ("theirs",)),
    "rwopd": Reference(objective.rwopd),
    "mopd_peer": Reference(objective.mopd_peer),
    "decomposed_opd": Reference(objective.decomposed_opd),
    "va_opd": Reference(objective.va_opd),
    "esr": Reference(objective.esr),
}

SURVEY_VARIANTS: dict[str, dict[str, Reference]] = {
    "anti_sd": {"gate_shut": Reference(partial(guided.anti_sd, gate=0.0))},
    "gndpo": {"sequence_ratio": Reference(partial(guided.gndpo, sequence_ratio=True))},
    "gear": {"long_segments": Reference(partial(guided.gear, tau=0.9, boundary=1.6))},
    "oppo_bayes": {"tight": Reference(partial(guided.oppo_bayes, cap=0.4))},
    "codistill_grpo": {"constant": Reference(partial(guided.codistill_grpo, length=40.0))},
    "va_opd": {"pooled": Reference(partial(objective.va_opd, pooled=True))},
    "rlcsd": {"additive": Reference(partial(guided.rlcsd, additive=0.5))},
    "ogls_sd": {"forward": Reference(partial(objective.ogls_sd, forward=True))},
    "ta_opd": {"half": Reference(partial(objective.ta_opd, rho=0.5))},
    "esr": {"token_mean": Reference(partial(objective.esr, reduce=token_mean))},
}
