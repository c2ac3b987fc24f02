"""References of the classic white-box cards, by method id."""

from __future__ import annotations

from functools import partial

from . import reference_classic as classic
from . import reference_classic_more as more
from . import reference_direct as direct
from . import reference_policy as policy
from .loss import Reference
from .numerics import sequence_mean, token_mean

DATA, TEXTS, BOTH, PAIRS = ("data",), ("corpus",), ("main", "theirs"), ("theirs", "main")

CLASSIC: dict[str, Reference] = {
    "minillm_code": Reference(partial(policy.minillm, first=0, discount_from=0, kd_ratio=0.5), ("main", "corpus")),
    "minillm_trl": Reference(policy.minillm_trl),
    "gkd_seqkd": Reference(direct.gkd),
    "gkd_on_policy_jsd": Reference(direct.gkd),
    "gkd_on_policy_fkl": Reference(partial(direct.gkd, divergence="forward_kl")),
    "rkl_topk_raw": Reference(partial(direct.truncated_reverse_kl, mass="raw")),
    "rkl_topk_detach": Reference(partial(direct.truncated_reverse_kl, mass="detach")),
    "rkl_topk_renormalised": Reference(partial(direct.truncated_reverse_kl, mass="renormalise")),
    "rkl_topk_tail": Reference(partial(direct.truncated_reverse_kl, mass="tail")),
    "xkd": Reference(direct.gkd),  # without the experiential term: see its blocked_by
    "imitkd": Reference(classic.imitkd),
    "scheduled_sampling": Reference(classic.scheduled_sampling),
    "f_distill": Reference(classic.f_distill, BOTH),
    "f_distill_js": Reference(partial(classic.f_distill, divergence="js"), BOTH),
    "akl": Reference(classic.akl, DATA),
    "atkd": Reference(classic.atkd, DATA),
    "taid": Reference(classic.taid, DATA),
    "skd": Reference(classic.forward_kl),
    "adaswitch": Reference(partial(classic.forward_kl, reduce=sequence_mean)),
    "selectkd": Reference(classic.selectkd),
    "adakd": Reference(classic.adakd, DATA),
    "ketchup": Reference(more.ketchup),
    "delta_kd": Reference(more.delta_kd, DATA),
    "tsd_kd": Reference(more.tsd_kd),
    "okd": Reference(more.okd, DATA),
    "warmup_distill": Reference(more.warmup_preference, PAIRS),
    "distillspec": Reference(classic.distillspec),
    "cmdp_kd": Reference(more.cmdp_kd),
    "training_wheels": Reference(more.training_wheels),
    "abkd": Reference(classic.abkd, ("data", "corpus")),
    "minitron": Reference(partial(classic.forward_kl, stream_name="corpus"), TEXTS),
    "distill_step_by_step": Reference(more.distill_step_by_step, ("data", "theirs")),
    "offline_opkd": Reference(classic.offline_opkd),
    "dp_opd": Reference(classic.dp_opd),
}

CLASSIC_VARIANTS: dict[str, dict[str, Reference]] = {
    "imitkd": {"optimal": Reference(partial(classic.imitkd, optimal=True))},
    "f_distill": {
        "kl": Reference(partial(classic.f_distill, divergence="kl"), ("theirs",)),
        "rkl": Reference(partial(classic.f_distill, divergence="rkl")),
    },
    "adaswitch": {"token_mean": Reference(partial(classic.forward_kl, reduce=token_mean))},
    "adakd": {"half": Reference(partial(classic.adakd, ratio=0.5), DATA)},
    "selectkd": {"top_3": Reference(partial(classic.selectkd, k=3, beta=0.3))},
    "tsd_kd": {"opening_half": Reference(partial(more.tsd_kd, opening=0.5))},
}
