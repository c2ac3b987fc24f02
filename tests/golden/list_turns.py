"""References of the cards on agents, by method id: on the `dialogues` of the fixture alone."""

from __future__ import annotations

from functools import partial

from . import reference_self_routed as routed
from . import reference_turns as turns
from . import reference_turns_more as more
from .loss import Reference

TURNED: dict[str, Reference] = {
    "sod": Reference(turns.sod),
    "tcod": Reference(turns.tcod),
    "step_opsd": Reference(turns.step_opsd),
    "cei": Reference(turns.cei),
    "skill_sd": Reference(turns.skill_sd),
    "dagger_llm": Reference(turns.dagger_llm),
    "hypereyes": Reference(turns.hypereyes),
    "tt_opd": Reference(turns.tt_opd),
    "hero": Reference(more.hero),
    "hint_sd": Reference(more.hint_sd),
    "sd_search": Reference(more.sd_search),
    "tod_proactivity": Reference(more.tod_proactivity),
    "search_e1": Reference(more.search_e1),
    "maigo": Reference(more.maigo),
    "canonical_ctx_opd": Reference(more.canonical_ctx_opd),
    "pi_play": Reference(more.pi_play),
    "resd": Reference(more.resd),
    "sdar": Reference(more.sdar),
    "openclaw_rl": Reference(routed.openclaw_rl),
}

# Later moments of a run, on the dialogues: id -> share of the run -> the reference of that moment.
TURNED_MOMENTS: dict[str, dict[float, Reference]] = {
    "search_e1": {0.2: Reference(partial(more.search_e1, distilling=True)), 0.3: Reference(more.search_e1)},
}
