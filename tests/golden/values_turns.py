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
}
