"""References of the cards on agents, by method id: on the `dialogues` of the fixture alone."""

from __future__ import annotations

from . import reference_self_routed as routed
from . import reference_turns as turns
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
    "openclaw_rl": Reference(routed.openclaw_rl),
}
