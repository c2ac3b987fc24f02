"""No kind of the grammar is without a reference test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from zoo.components.base import kinds, slots

from . import (
    test_ahead,
    test_alignments,
    test_answers,
    test_asked,
    test_bytes,
    test_chunks,
    test_contexts,
    test_credits,
    test_divergences,
    test_dual,
    test_gates,
    test_losses,
    test_measures,
    test_plain,
    test_prompts,
    test_schedules,
    test_signals,
    test_supports,
    test_teachers,
    test_terms,
    test_turns,
    test_weights,
)

TESTED: dict[str, Mapping[str, Any]] = {
    "adapter": test_plain.REFERENCES["adapter"],
    "anchor": test_plain.REFERENCES["anchor"],
    "alignment": {**test_alignments.ALIGNMENTS, **test_dual.REFERENCES["alignment"], **test_bytes.REFERENCES["alignment"]},
    "baseline": test_signals.BASELINES,
    "columns": test_alignments.COLUMNS,
    "context": {**test_contexts.REFERENCES, **test_turns.CONTEXTS},
    "credit": test_credits.REFERENCES,
    "divergence": {**test_divergences.REFERENCES, "sinkhorn": test_alignments.test_sinkhorn_against_plain_numpy},
    "environment": test_turns.ENVIRONMENTS,
    "gate": {
        **test_chunks.REFERENCES["gate"],
        **test_dual.REFERENCES["gate"],
        **test_ahead.GATES,
        **test_signals.GATES,
        **test_gates.REFERENCES,
        **test_turns.GATES,
    },
    "learner": {**test_plain.REFERENCES["learner"], **test_dual.REFERENCES["learner"], **test_bytes.REFERENCES["learner"]},
    "mass": test_supports.MASSES,
    "measure": test_measures.REFERENCES,
    "preference": test_losses.PREFERENCES,
    "prompts": test_prompts.REFERENCES,
    "ratio": test_losses.RATIOS,
    "reduce": test_losses.REDUCES,
    "reward": {**test_ahead.REWARDS, **test_signals.REWARDS, **test_answers.REFERENCES, **test_asked.REFERENCES, **test_turns.REWARDS},
    "routing": test_losses.ROUTINGS,
    "schedule": {**test_losses.SCHEDULES, **test_schedules.REFERENCES},
    "shaping": test_signals.SHAPINGS,
    "step": test_plain.REFERENCES["step"],
    "support": test_supports.REFERENCES,
    "target": test_losses.TARGETS,
    "teacher": {**test_dual.REFERENCES["teacher"], **test_bytes.REFERENCES["teacher"], **test_plain.REFERENCES["teacher"], **test_teachers.REFERENCES},
    "term": test_terms.REFERENCES,
    "update": test_plain.REFERENCES["update"],
    "weight": {**test_chunks.REFERENCES["weight"], **test_signals.WEIGHTS, **test_weights.REFERENCES},
    "weights_of": test_plain.REFERENCES["weights_of"],
}
DECODED = ("handover", "rollout", "verify", "when")  # streams: tested with the engine that writes them


def test_every_slot_is_tested() -> None:
    assert {*TESTED, *DECODED} == set(slots())


@pytest.mark.parametrize("slot", TESTED)
def test_every_kind_has_a_reference(slot: str) -> None:
    assert set(TESTED[slot]) == set(kinds(slot)), f"add a reference for each kind of {slot} to tests/components"
