"""The references on dialogues: replies teach nothing, limits where one turn is all, and that turns, spans and verdicts matter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from . import reference_turns as turns
from .fixture import ROLES, dialogues
from .list_turns import TURNED
from .loss import Reference
from .numerics import sequence_mean, token_mean
from .reference_guided import along, surrogate
from .reference_opd_policy import clipped, log_ratio
from .reference_outcome import group_advantage
from .values_turns import VALUES_TURNS

MANY = dialogues()
MAIN = MANY["main"]
ALONE = MANY.with_stream("main", replace(MAIN, turn_BT=np.zeros_like(MAIN.response_BT), mask_BT=np.arange(8) < MAIN.mask_BT.sum(axis=1, keepdims=True)))
EACH = pytest.mark.parametrize("name", TURNED)


def test_the_values_are_those_that_were_published() -> None:
    assert {name: reference(MANY).loss for name, reference in TURNED.items()} == pytest.approx(VALUES_TURNS, rel=1e-9)


@EACH
def test_replies_and_padding_teach_nothing_and_do_not_matter(name: str) -> None:
    gradient_BTV = TURNED[name].gradient(MANY)["main"]
    assert np.all(gradient_BTV[~MAIN.mask_BT] == 0.0) and np.abs(gradient_BTV).max() > 1e-3
    np.testing.assert_allclose(gradient_BTV.sum(axis=-1), 0.0, atol=1e-9)
    logits = {model: values + np.sin(np.arange(7)) * ~MAIN.mask_BT[..., None] for model, values in MAIN.logits.items()}
    moved = MANY.with_stream("main", replace(MAIN, logits=logits, response_BT=np.where(MAIN.mask_BT, MAIN.response_BT, 3)))
    assert TURNED[name](moved).loss == pytest.approx(TURNED[name](MANY).loss, abs=1e-14)


def test_dialogues_have_turns_of_unequal_length_and_replies_between_them() -> None:
    assert MAIN.role_BT is not None and MAIN.turn_BT is not None
    assert {i: [int(own.sum()) for row, own in turns.pieces(MAIN) if row == i] for i in range(6)} == {
        0: [3, 3],
        1: [2, 1, 2],
        2: [3],
        3: [1, 4],
        4: [2, 2],
        5: [1, 2, 2],
    }
    assert not MAIN.mask_BT[MAIN.role_BT == ROLES.index("reply")].any()
    assert (MAIN.role_BT == ROLES.index("call")).sum() == 8


def test_one_turn_is_a_response() -> None:
    old = ALONE["main"]
    plain = sequence_mean(clipped(old, old.logits["student"], log_ratio(old), 0.2), old.mask_BT)
    assert Reference(turns.tcod)(ALONE).loss == pytest.approx(plain)
    both = along(old, group_advantage(old, eps=1e-6)) + log_ratio(old)
    single = token_mean(clipped(old, old.logits["student"], both, 0.2, 0.28), old.mask_BT)
    assert Reference(turns.sod)(ALONE).loss == pytest.approx(single), "with a single step it is GRPO and distillation"
    assert Reference(turns.tcod)(MANY).loss != pytest.approx(Reference(turns.tcod)(MANY.with_stream("main", replace(MAIN, turn_BT=0 * MAIN.turn_BT))).loss)


def test_the_weights_of_steps_telescope_and_some_are_capped() -> None:
    gap_BT = np.abs(log_ratio(MAIN))
    weight_BT = turns.step_weight(MAIN, gap_BT, 0.2, 1e-6)
    free_BT = turns.step_weight(MAIN, gap_BT, np.inf, 1e-6)
    first, last = gap_BT[1, :2].mean(), gap_BT[1, 6:].mean()
    assert free_BT[1, 7] == pytest.approx((first + 1e-6) / (last + 1e-6))
    assert (weight_BT == 1.2).any() and (weight_BT < 1.0).any()


def test_hindsight_only_moves_credit_inside_a_turn() -> None:
    flat = Reference(partial(turns.step_opsd, lam=0.0))(MANY).loss
    group = Reference(lambda fixture: surrogate(fixture, along(MAIN, group_advantage(MAIN)), reduce=token_mean))
    assert flat == pytest.approx(group(MANY).loss)
    assert Reference(turns.step_opsd)(MANY).loss != pytest.approx(flat, rel=1e-3)


def test_importance_weights_of_skill_sd_are_one_at_the_first_step() -> None:
    even = MANY.with_logits("main", old=MAIN.logits["student"])
    now, then = (Reference(partial(turns.skill_sd, current=c)) for c in (True, False))
    assert now(even).loss == pytest.approx(then(even).loss)
    assert now(MANY).loss != pytest.approx(then(MANY).loss, rel=1e-3)


def test_rejected_dialogues_are_no_part_of_a_mean() -> None:
    for name in ("cei", "dagger_llm"):
        gradient = np.abs(TURNED[name].gradient(MANY)["main"]).max(axis=(1, 2))
        assert np.array_equal(gradient > 0.0, MAIN.reward_B > 0.5)
