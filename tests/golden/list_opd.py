"""References of the cards on objectives, stability and dynamics of on-policy distillation, and of the baselines, by method id."""

from __future__ import annotations

from functools import partial

from . import reference_baselines as baselines
from . import reference_opd_direct as direct
from . import reference_opd_more as more
from . import reference_opd_policy as policy
from .loss import Reference
from .numerics import sequence_mean, token_mean
from .reference_direct import sum_then_mean

DATA, GOLDEN = ("data",), ("main", "data")

OPD: dict[str, Reference] = {
    "veto": Reference(direct.veto),
    "veto_reverse": Reference(partial(direct.veto, reverse=True)),
    "reopold": Reference(policy.reopold),
    "paced": Reference(direct.paced),
    "rethinking_opd": Reference(policy.rethinking_opd),
    "stable_opd": Reference(policy.stable_opd, GOLDEN),
    "tip": Reference(direct.tip),
    "scope": Reference(more.scope),
    "lightning_opd": Reference(policy.sampled),
    "g_opd": Reference(policy.g_opd),
    "prefix_opd": Reference(policy.horizon),
    "popd": Reference(policy.horizon),
    "topd_truncated": Reference(policy.horizon),
    "caopd": Reference(direct.caopd),
    "tropd": Reference(policy.tropd),
    "opd_plus": Reference(policy.opd_plus),
    "opd_plus_jsd": Reference(partial(policy.opd_plus, divergence="jsd")),
    "fire_opd": Reference(policy.fire_opd),
    "effopd": Reference(policy.effopd),
    "prefix_teach": Reference(policy.prefix_teach),
    "list_opd": Reference(partial(policy.g_opd, lam=1.2, clip=0.2)),
    "iw_opd": Reference(policy.iw_opd),
    "state_view_continuation": Reference(partial(direct.likelihood, stream_name="theirs"), ("theirs",)),
    "distil": Reference(direct.distil),
    "todi": Reference(direct.todi, DATA),
    "prune_opd": Reference(policy.prune_opd),
    "uni_opd": Reference(more.uni_opd),
    "power_opd": Reference(more.power_opd),
    "gae_opd": Reference(more.gae_opd),
    "cr_opd": Reference(more.cr_opd),
    "self_eval_opd": Reference(baselines.group_policy),
    "f_opd": Reference(more.f_opd),
    "trb": Reference(direct.divergence),
    "cgtr": Reference(baselines.cgtr),
    "trd": Reference(partial(direct.jsd, stream_name="theirs", reduce=token_mean), ("theirs",)),
    "kat_termination": Reference(policy.sampled),
    "async_opd": Reference(more.async_opd),
    "camopd": Reference(more.camopd),
    "pgpo": Reference(partial(direct.divergence, model="self")),
    "orbit_modes": Reference(more.orbit_modes),
    "litegui": Reference(partial(direct.divergence, reduce=sum_then_mean)),
    "opd_av": Reference(direct.jsd),
    "protein_opd": Reference(direct.protein_opd),
    "tts_spec": Reference(direct.tts_spec),
    "gemma2_kd": Reference(direct.gemma2_kd, ("corpus",)),
    "delta_prompts": Reference(direct.delta_prompts),
    "motab": Reference(partial(direct.divergence, forward=True, reduce=sum_then_mean)),
    "eopd_soft": Reference(more.eopd_soft),
    "gkd_on_policy": Reference(direct.divergence),
    "miniplm": Reference(direct.miniplm, ("corpus",)),
    "reinforce": Reference(baselines.reinforce),
    "ppo": Reference(baselines.ppo),
    "trpo": Reference(baselines.trpo),
    "mixer": Reference(baselines.mixer),
    "ewc": Reference(partial(direct.likelihood, stream_name="data", reduce=token_mean), DATA),
}

# Cards that compare more answers than two: on the `crowd` of the fixture alone, or there too.
CROWDED: dict[str, Reference] = {"npd": Reference(direct.npd)}
COMPARING = ("paced", "scope", "uni_opd", "delta_prompts", "tip", "fire_opd", "camopd", "orbit_modes", "cgtr", "f_opd", "caopd", "reopold", "distil")

OPD_VARIANTS: dict[str, dict[str, Reference]] = {
    "reopold": {"second_phase": Reference(partial(policy.reopold, phase=2))},
    "paced": {"second_stage": Reference(partial(direct.paced, reverse=True))},
    "tip": {"per_rollout": Reference(partial(direct.tip, reduce=sequence_mean))},
    "opd_plus": {"reverse_kl": Reference(partial(policy.opd_plus, divergence="reverse_kl")), "tight": Reference(partial(policy.opd_plus, cap=1.0))},
    "uni_opd": {"far": Reference(partial(more.uni_opd, delta=3.0)), "near": Reference(partial(more.uni_opd, outlier=1.0))},
    "prune_opd": {"steep": Reference(partial(policy.prune_opd, drop=0.4))},
    "fire_opd": {"kept_tokens": Reference(partial(policy.fire_opd, reduce=token_mean))},
    "prefix_teach": {"token_segments": Reference(partial(policy.prefix_teach, segment=1, least=1))},
    "cr_opd": {"card": Reference(partial(more.cr_opd, top=(3, 5)))},
    "protein_opd": {"token_sum": Reference(partial(direct.protein_opd, reduce=sum_then_mean))},
    "veto": {"plain": Reference(partial(direct.veto, b=0.0))},
    "g_opd": {"plain": Reference(partial(policy.g_opd, lam=1.0))},
    "iw_opd": {"flat": Reference(partial(policy.iw_opd, gamma=0.0))},
    "camopd": {"domain": Reference(partial(more.camopd, teacher="reference"))},
    "litegui": {"second_stage": Reference(partial(baselines.group_policy, high=0.28, reduce=token_mean))},
    "self_eval_opd": {"second_stage": Reference(partial(direct.likelihood, stream_name="data", reduce=token_mean), DATA)},
}

# Later moments of a run: id -> share of the run -> the reference of that moment.
MOMENTS: dict[str, dict[float, Reference]] = {
    "veto": {0.5: Reference(partial(direct.veto, b=0.4)), 1.0: OPD_VARIANTS["veto"]["plain"]},
    "reopold": {0.5: OPD_VARIANTS["reopold"]["second_phase"]},
    "paced": {0.75: OPD_VARIANTS["paced"]["second_stage"]},
    "camopd": {0.017: OPD_VARIANTS["camopd"]["domain"]},
    "litegui": {0.75: OPD_VARIANTS["litegui"]["second_stage"]},
    "self_eval_opd": {0.2: OPD_VARIANTS["self_eval_opd"]["second_stage"]},
}
