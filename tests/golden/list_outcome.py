"""References of the cards on rewards, black boxes, several teachers, system reports and draft models, by method id."""

from __future__ import annotations

from functools import partial

from . import reference_baselines as baselines
from . import reference_outcome_direct as direct
from . import reference_outcome_policy as policy
from .loss import Reference
from .numerics import token_mean

THEIRS, PAIRS, ROUTED = ("theirs",), ("theirs", "main"), ("self", "teacher")
WARM_UP = Reference(direct.on_theirs, THEIRS)
GRPO = Reference(baselines.group_policy)

OUTCOME: dict[str, Reference] = {
    "gad": WARM_UP,
    "lion": Reference(direct.lion, THEIRS),
    "ovd": Reference(policy.ovd),
    "ropd": Reference(policy.ropd),
    "luffy": Reference(policy.luffy),
    "supercorrect": WARM_UP,
    "rlkd": Reference(policy.rlkd),
    "aligndistil": Reference(direct.aligndistil),
    "rlad": Reference(policy.rlad),
    "kepo": Reference(policy.kepo),
    "hybrid_il_rl_note": Reference(policy.hybrid_il_rl_note),
    "sparse_to_dense": Reference(direct.forward_on_theirs, THEIRS),
    "signal_reshaping_grpo": Reference(policy.signal_reshaping_grpo),
    "dpkd": Reference(partial(direct.dpo, reference="teacher"), PAIRS),
    "opd_then_rl": Reference(policy.opd_then_rl),
    "mad_opd": Reference(direct.mad_opd),
    "mopd_mimo": Reference(policy.mopd_mimo),
    "glm5_cross_stage": Reference(policy.glm5_cross_stage),
    "qwen3_s2w": WARM_UP,
    "deepseek_v4_opd": Reference(partial(direct.reverse, members=ROUTED)),
    "baichuan_m3": Reference(partial(direct.forward_on_theirs, cap=5.0, reduce=direct.sum_then_mean), THEIRS),
    "hy_embodied": Reference(direct.reverse),
    "online_spec_decoding": Reference(direct.online_spec_decoding),
}

# Nothing that the six tokens hold is accepted.
OUTCOME_CROWDED: dict[str, Reference] = {"draft_opd": Reference(direct.draft_opd)}

OUTCOME_VARIANTS: dict[str, dict[str, Reference]] = {
    "aligndistil": {"adaptive": Reference(partial(direct.aligndistil, strength=None))},
    "mopd_mimo": {"narrow": Reference(partial(policy.mopd_mimo, band=(0.6, 1.5)))},
    "glm5_cross_stage": {"narrow": Reference(partial(policy.glm5_cross_stage, band=(0.6, 1.5)))},
    "baichuan_m3": {"tight": Reference(partial(direct.forward_on_theirs, cap=1.0, reduce=direct.sum_then_mean), THEIRS)},
}

# Later moments of a run: id -> share of the run -> the reference of that moment.
OUTCOME_MOMENTS: dict[str, dict[float, Reference]] = {
    "gad": {0.5: Reference(policy.gad)},
    "supercorrect": {0.75: Reference(partial(direct.dpo, reference="reference", wrong_only=True), PAIRS)},
    "sparse_to_dense": {0.5: Reference(partial(direct.reverse, reduce=token_mean)), 0.9: GRPO},
    "opd_then_rl": {0.75: Reference(partial(baselines.group_policy, reduce=token_mean))},
    "qwen3_s2w": {0.75: Reference(partial(direct.reverse, reduce=token_mean))},
    "baichuan_m3": {0.75: Reference(direct.routed_log_ratio)},
}

# Those that compare answers, on the crowd too.
OUTCOME_COMPARING = ("ovd", "ropd", "luffy", "rlkd", "rlad", "kepo", "hybrid_il_rl_note", "signal_reshaping_grpo", "mopd_mimo", "glm5_cross_stage")
