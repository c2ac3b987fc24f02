"""The cards on rewards, black boxes, several teachers and other tokenizers, beyond the six tokens; and that a changed number of an entry is found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests import golden_cross
from tests.golden import reference_cross as cross
from tests.golden import reference_cross_more as more
from tests.golden import reference_outcome_direct as direct
from tests.golden import reference_outcome_policy as policy
from tests.golden.fixture_cross import STUDENT, TEACHER, crossed
from tests.golden.list_outcome import OUTCOME, OUTCOME_COMPARING, OUTCOME_VARIANTS
from tests.golden.loss import Reference
from tests.golden_changes import shapings
from tests.golden_cross import CROSSED
from tests.golden_kit import CROWD, SIX, as_written, assert_equal, changed, load
from zoo.components.base import Slot
from zoo.entry import MethodEntry

BAND = {"kind": "one_sided", "below": 0.6, "above": 1.5}


def ratios(*of: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(Slot("ratio").validate(ratio) for ratio in of)


CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("mopd_mimo", "narrow"): {"ratio": ratios({"kind": "importance"}, BAND)},
    ("glm5_cross_stage", "narrow"): {"ratio": ratios({"kind": "ppo_clip", "at": 0.2, "upper": 0.28}, BAND)},
    ("baichuan_m3", "tight"): {"0.shaping": shapings({"kind": "clip", "at": 1.0, "side": "upper", "where": "token"})},
}


@pytest.mark.parametrize("name", OUTCOME_COMPARING)
def test_groups_of_several_answers(name: str) -> None:
    entry = load(name)
    assert_equal(entry, OUTCOME[name], as_written(entry, CROWD), chunk=24)


@pytest.mark.parametrize(("name", "variant"), CHANGES)
def test_other_numbers_of_a_card_are_one_field_away(name: str, variant: str) -> None:
    entry = changed(load(name), CHANGES[name, variant])
    assert_equal(entry, OUTCOME_VARIANTS[name][variant], as_written(entry))


def test_lost_rollouts_leave_the_mean() -> None:
    cut = CROWD.with_stream("main", replace(CROWD["main"], finished_B=np.arange(8) % 4 != 3))
    entry = load("signal_reshaping_grpo")
    assert_equal(entry, OUTCOME["signal_reshaping_grpo"], as_written(entry, cut), chunk=24)


def test_only_hard_prompts_are_imitated_and_easy_ones_are_not_counted() -> None:
    entry, gap_B = load("lion"), policy.mark(SIX["theirs"], 0) - policy.mark(SIX["theirs"], 1)
    assert sorted(gap_B > 0.0) == [False, True]
    gate = Slot("gate").validate({"kind": "reward", "name": "gap", "at_least": -1.0})
    assert_equal(changed(entry, {"gates": (gate,)}), Reference(partial(direct.lion, gap=-1.0), ("theirs",)), as_written(entry))


@pytest.mark.parametrize("name", CROSSED)
def test_responses_taken_one_after_the_other_change_nothing(name: str) -> None:
    entry = load(name)
    whole, parts = (golden_cross.evaluate(entry, as_written(entry, crossed()), apart) for apart in (False, True))
    assert parts.values == pytest.approx(whole.values, rel=1e-12)
    for stream, gradient_BTV in whole.gradients.items():
        torch.testing.assert_close(parts.gradients[stream], gradient_BTV, rtol=0, atol=1e-14)


def with_columns(entry: MethodEntry, **fields: Any) -> MethodEntry:
    teacher = entry.teachers["teacher"]
    alignment = teacher.alignment.model_copy(update={"columns": teacher.alignment.columns.model_copy(update=fields)})
    return entry.model_copy(update={"teachers": {"teacher": teacher.model_copy(update={"alignment": alignment})}})


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.6])
def test_tokens_are_mapped_to_near_ones_below_the_threshold(threshold: float) -> None:
    golden_cross.assert_equal(with_columns(load("cdm"), threshold=threshold), Reference(partial(more.cdm, threshold=threshold), ("data",)))


def test_the_threshold_of_mapped_columns_acts() -> None:
    values = [Reference(partial(more.cdm, threshold=threshold), ("data",))(crossed()).loss for threshold in (0.1, 0.45, 0.6)]
    assert len({round(value, 9) for value in values}) == 3
    assert {*STUDENT} - {*TEACHER} and {*TEACHER} - {*STUDENT}


def test_temperature_of_a_chunk_and_the_sharpness_of_a_transport() -> None:
    golden_cross.assert_equal(with_columns(load("alm"), tau=2.0), Reference(partial(cross.alm, tau=2.0), ("data",)))
    transport = Slot("divergence").validate({"kind": "sinkhorn", "eps": 0.5, "rounds": 2})
    sharp = changed(load("multilevel_ot"), {"3.divergence": transport})
    golden_cross.assert_equal(sharp, Reference(partial(cross.multilevel_ot, eps=0.5, rounds=2), ("data",)))


# One number or sign of an entry that is not its card's: field by field, at the top of a term.
WRONG: dict[str, dict[str, Any]] = {
    "luffy": {"2.coefficient": 1.0e-3},
    "rlad": {"ratio": ratios({"kind": "trust_region", "alpha": 0.4, "teacher": "teacher", "at": 0.2})},
    "kepo": {"1.divergence": Slot("divergence").validate({"kind": "generalized_jsd", "beta": 0.4})},
    "mad_opd": {"temperature": 0.8},
    "hybrid_il_rl_note": {"2.coefficient": -1.0},
    "mopd_mimo": {"ratio": ratios({"kind": "one_sided", "below": 0.2, "above": 5.0})},
    "dpkd": {"reference": "reference"},
    "deepseek_v4_opd": {"divergence": "forward_kl"},
    "aligndistil": {"coefficient": 0.2},
    "rlkd": {"coefficient": -1.0},
}
WRONG_ACROSS: dict[str, dict[str, Any]] = {
    "uld": {"1.coefficient": 1.5},
    "multilevel_ot": {"3.coefficient": 3.0e-5},
    "gold": {"reduce": "token_mean"},
    "simct": {"divergence": "forward_kl"},
    "xtok_likelihood": {"divergence": "reverse_kl"},
    "xtoken_pkl": {"0.coefficient": -1.0},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_number_of_an_entry_is_found(name: str) -> None:
    change = {field: value if field != "reference" else str(value) for field, value in WRONG[name].items()}
    entry = load(name)
    if "reference" in change:
        entry = entry.model_copy(update={"objective": tuple(term.model_copy(update=change) for term in entry.objective)})
    else:
        entry = changed(entry, change)
    with pytest.raises(AssertionError):
        assert_equal(entry, OUTCOME[name], as_written(entry))


@pytest.mark.parametrize("name", WRONG_ACROSS)
def test_a_wrong_number_across_tokenizers_is_found(name: str) -> None:
    with pytest.raises(AssertionError):
        golden_cross.assert_equal(changed(load(name), WRONG_ACROSS[name]), CROSSED[name])
