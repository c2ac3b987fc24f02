"""The cards of self-distillation beyond the six tokens at the start: later moments, several groups and verdicts, dialogues, hidden states, other numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.golden import reference_self_direct as direct
from tests.golden import reference_self_policy as policy
from tests.golden import reference_self_routed as routed
from tests.golden.fixture import Fixture, Loss
from tests.golden.list_self import COMPARING_SELF, MIXED, SELF, SELF_MOMENTS, SELF_VARIANTS, UNEVEN, mixed
from tests.golden.loss import Reference
from tests.golden.values_self import VALUES_UNEVEN
from tests.golden_kit import CROWD, DIALOGUES, as_written, assert_equal, changed, load
from tests.golden_outcome import golden
from zoo.components.base import Slot
from zoo.entry import MethodEntry


@pytest.mark.parametrize(("name", "progress"), [(name, progress) for name, moments in SELF_MOMENTS.items() for progress in moments])
def test_later_moments_of_a_run_are_those_of_the_card(name: str, progress: float) -> None:
    entry = load(name)
    assert_equal(entry, SELF_MOMENTS[name][progress], as_written(entry), progress=progress)


@pytest.mark.parametrize("name", COMPARING_SELF)
def test_groups_and_batches_of_several_answers(name: str) -> None:
    entry = load(name)
    assert_equal(entry, SELF[name], as_written(entry, CROWD), chunk=24)


@pytest.mark.parametrize("name", MIXED)
def test_streams_with_verdicts_of_their_own(name: str) -> None:
    entry = load(name)
    assert_equal(entry, SELF[name], as_written(entry, mixed()), chunk=24)


@pytest.mark.parametrize("name", UNEVEN)
def test_verdicts_of_several_streams(name: str) -> None:
    assert UNEVEN[name](mixed()).loss == pytest.approx(VALUES_UNEVEN[name], rel=1e-9)
    assert golden(load(name))[0] == "pass"


def with_rewards(name: str, reward: str, **fields: Any) -> MethodEntry:
    """An entry one of whose rewards has other numbers."""
    entry = load(name)
    return entry.model_copy(update={"rewards": {**entry.rewards, reward: entry.rewards[reward].model_copy(update=fields)}})


@pytest.mark.parametrize(("limit", "buffer"), [(4, 2), (3, 2), (5, 4)])
def test_long_answers_lose_a_part_of_their_reward(limit: int, buffer: int) -> None:
    """At most the answer at the limit loses all of it; the published limit is far off."""
    entry = with_rewards("dapo", "length", limit=limit, buffer=buffer)
    reference = Reference(partial(routed.dapo, limit=limit, buffer=buffer))
    assert abs(reference(CROWD).loss - SELF["dapo"](CROWD).loss) > 1e-3
    assert_equal(entry, reference, as_written(entry, CROWD), chunk=24)


def test_an_answer_that_was_cut_is_no_short_one() -> None:
    """on_policy_sft's length filter: what the cap cut is not learned from, though it be right."""
    stream = replace(CROWD["main"], finished_B=np.arange(8) != 0)
    cut = CROWD.with_stream("main", stream)
    failed = CROWD.with_stream("main", replace(stream, reward_B=stream.reward_B * (np.arange(8) != 0)))
    entry = load("on_policy_sft")
    assert SELF["on_policy_sft"](failed).loss != pytest.approx(SELF["on_policy_sft"](CROWD).loss, rel=1e-3)
    assert_equal(entry, Reference(lambda _: SELF["on_policy_sft"].build(failed)), as_written(entry, cut), chunk=24)


@pytest.mark.parametrize(("name", "field", "value", "reference"), [
    ("sdft", "gates", {"kind": "position", "at_least": 1}, partial(direct.sdft, skip=1)),
    ("ssopd", "1.gates", {"kind": "position", "below": 1}, partial(policy.ssopd, first=1)),
    ("ssopd", "1.gates", {"kind": "position", "below": 3}, partial(policy.ssopd, first=3)),
])  # fmt: skip
def test_other_places_in_a_response(name: str, field: str, value: dict[str, Any], reference: Callable[[Fixture], Loss]) -> None:
    """The published 3 and K leave one token of four, and all of them."""
    entry = load(name)
    others = entry.objective[1].gates[:1] if name == "ssopd" else ()
    entry = changed(entry, {field: (*others, Slot("gate").validate(value))})
    assert Reference(reference)(mixed()).loss != pytest.approx(SELF[name](mixed()).loss, rel=1e-3)
    assert_equal(entry, Reference(reference), as_written(entry, mixed()), chunk=24)


def test_the_clip_of_gates_bounds_what_a_token_says() -> None:
    entry = load("gates")
    contrast = entry.objective[1].reward.model_copy(update={"clip": 0.4})  # type: ignore[attr-defined]
    entry = entry.model_copy(update={"objective": tuple(t.model_copy(update={"reward": contrast}) if i == 1 else t for i, t in enumerate(entry.objective))})
    assert_equal(entry, Reference(partial(routed.gates, cap=0.4), ("main", "theirs")), as_written(entry, mixed()), chunk=24)


def test_the_second_loss_of_spin() -> None:
    entry = load("spin")
    hinge = entry.objective[0].model_copy(update={"loss": Slot("preference").validate({"kind": "hinge", "beta": 0.1})})
    entry = entry.model_copy(update={"objective": (hinge,)})
    assert_equal(entry, SELF_VARIANTS["spin"]["hinge"], as_written(entry))


def test_a_floor_under_the_entropy_gate_and_a_shorter_look_ahead() -> None:
    """The published numbers are not found; those of the entries never act, or always, on answers of four tokens."""
    for name, variant, field, value in (("egrsd", "high_floor", "low", -0.25), ("cl_egrsd", "one_ahead", "window", 1)):
        entry = load(name)
        evidence, gate = entry.objective[0].weights  # type: ignore[attr-defined]
        if field == "low":
            gate = gate.model_copy(update={field: value})
        else:
            near = gate.of.of[1].model_copy(update={field: value})
            gate = gate.model_copy(update={"of": gate.of.model_copy(update={"of": (gate.of.of[0], near)})})
        entry = changed(entry, {"weights": (evidence, gate)})
        assert SELF_VARIANTS[name][variant](CROWD).loss != pytest.approx(SELF[name](CROWD).loss, rel=1e-3)
        assert_equal(entry, SELF_VARIANTS[name][variant], as_written(entry, CROWD), chunk=24)


def test_turns_have_rewards_of_their_own() -> None:
    entry = load("openclaw_rl")
    gains = routed.gains(DIALOGUES["main"])
    assert {-1.0, 0.0, 1.0} == set(gains[DIALOGUES["main"].mask_BT])
    assert_equal(entry, Reference(routed.openclaw_rl), as_written(entry, DIALOGUES))
