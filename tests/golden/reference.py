"""The reference losses by method id: value, terms and gradient with respect to the student's logits.

Written from the catalogue's cards alone (where a card carries an audit, the audit), in float64 numpy, and never from the
registry's entries or the package's components, which are checked against it. Each function's docstring states the
formula, the normalisation and, after `open:`, each choice that the card does not settle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from . import reference_direct as direct
from . import reference_outcome as outcome
from . import reference_policy as policy
from .fixture import Fixture
from .list_classic import CLASSIC, CLASSIC_VARIANTS
from .list_opd import OPD, OPD_VARIANTS
from .list_outcome import OUTCOME, OUTCOME_VARIANTS
from .list_self import SELF, SELF_VARIANTS
from .list_signal import SIGNAL, SIGNAL_VARIANTS
from .list_survey import SURVEY, SURVEY_VARIANTS
from .loss import GoldenResult as GoldenResult
from .loss import Reference as Reference
from .numerics import Array, sequence_mean, token_mean, token_sum

CORPUS, PAIRS = ("main", "corpus"), ("theirs", "main")

REFERENCES: dict[str, Reference] = {
    "sft": Reference(direct.sft, ("data",)),
    "kd": Reference(direct.kd, ("data",)),
    "seqkd": Reference(direct.seqkd, ("theirs",)),
    "gkd": Reference(direct.gkd),
    "minillm": Reference(policy.minillm, CORPUS),
    "distillm": Reference(direct.distillm, CORPUS),
    "distillm2": Reference(direct.distillm2, PAIRS),
    "tml_opd": Reference(policy.tml_opd),
    "vopd": Reference(policy.vopd),
    "eopd": Reference(policy.eopd),
    "revisiting_opd": Reference(direct.revisiting_opd),
    "aopd": Reference(policy.aopd),
    "opsd": Reference(direct.opsd),
    "opsd_uncapped": Reference(partial(direct.opsd, cap=np.inf)),
    "opsd_jsd": Reference(partial(direct.opsd, beta=0.5, cap=np.inf)),
    "grpo": Reference(outcome.grpo),
    "kdrl": Reference(outcome.kdrl),
    "orpo_distill": Reference(outcome.orpo_distill, PAIRS),
    **CLASSIC,
    **SURVEY,
    **OPD,
    **OUTCOME,
    **SELF,
    **SIGNAL,
}

REFERENCE_GRADIENTS: dict[str, Callable[[Fixture], dict[str, Array]]] = {name: reference.gradient for name, reference in REFERENCES.items()}

# Other readings of the same card: what the docstrings call variants.
VARIANTS: dict[str, dict[str, Reference]] = {
    "kd": {"cross_entropy": Reference(partial(direct.kd, teacher_entropy=False), ("data",))},
    "seqkd": {"token_sum": Reference(partial(direct.seqkd, reduce=direct.sum_then_mean), ("theirs",))},
    "gkd": {
        "sequence_mean": Reference(partial(direct.gkd, reduce=sequence_mean)),
        "forward_kl": Reference(partial(direct.gkd, divergence="forward_kl")),
        "reverse_kl": Reference(partial(direct.gkd, divergence="reverse_kl")),
    },
    "minillm": {
        "code_return": Reference(partial(policy.minillm, first=0, discount_from=0), CORPUS),
        "discount_from_t": Reference(partial(policy.minillm, discount_from=0), CORPUS),
        "sample_std": Reference(partial(policy.minillm, ddof=1), CORPUS),
    },
    "distillm": {"skew_reverse_kl": Reference(partial(direct.distillm, reverse=True), CORPUS)},
    "tml_opd": {"token_sum": Reference(partial(policy.tml_opd, reduce=token_sum))},
    "vopd": {"rollout_scored": Reference(partial(policy.vopd, scored_by="old"))},
    "eopd": {"token_mean": Reference(partial(policy.eopd, reduce=token_mean))},
    "aopd": {
        "token_mean": Reference(partial(policy.aopd, reduce=token_mean)),
        "rollout_scored": Reference(partial(policy.aopd, scored_by="old")),
    },
    "opsd": {"temperature_1": Reference(partial(direct.opsd, temperature=1.0))},
    "grpo": {
        "token_mean": Reference(partial(outcome.grpo, reduce=token_mean)),
        "population_std": Reference(partial(outcome.grpo, ddof=0)),
    },
    "kdrl": {"sequence_mean": Reference(partial(outcome.kdrl, reduce=sequence_mean))},
    "orpo_distill": {"over_all_prompts": Reference(partial(outcome.orpo_distill, over_kept=False), PAIRS)},
    **CLASSIC_VARIANTS,
    **SURVEY_VARIANTS,
    **OPD_VARIANTS,
    **OUTCOME_VARIANTS,
    **SELF_VARIANTS,
    **SIGNAL_VARIANTS,
}
