"""The published value of each reference on the dialogues."""

from __future__ import annotations

VALUES_TURNS: dict[str, float] = {
    "sod": 0.6757440263559243,
    "tcod": 1.1999380530430999,
    "step_opsd": 0.059291828894354526,
    "cei": 1.586003247421236,
    "skill_sd": 0.13802681089988159,
    "dagger_llm": 2.3371945721686487,
    "hypereyes": 1.117238470609695,
    "tt_opd": 2.7804982232318545,
    "hero": 0.6615749371309635,
    "hint_sd": 0.4712111303552241,
    "sd_search": 0.10035791813390207,
    "tod_proactivity": 2.447204303330303,
    "search_e1": 0.09342242404655753,
    "maigo": 0.15028218191017167,
    "canonical_ctx_opd": 0.30469586901853163,
    "pi_play": 0.3208861190195007,
    "resd": 1.3889320299706218,
    "sdar": 0.09836172803743876,
    "openclaw_rl": 0.3108597381676158,
}
