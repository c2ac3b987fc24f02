"""The OPD cards beyond the six tokens at the start: later moments of a run, several groups, states that follow it, and what has no reference."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from tests.golden import reference_opd_direct as direct
from tests.golden import reference_opd_policy as policy
from tests.golden.list_opd import COMPARING, CROWDED, MOMENTS, OPD
from tests.golden.list_signal import COMPARING_SIGNAL
from tests.golden.loss import Reference
from tests.golden.reference_states_opd import pgpo_multiplier, prune_horizons, refreshes, within_budget
from tests.golden_kit import CROWD, FILES, SIX, as_written, assert_equal, load
from tests.golden_outcome import AWAITED, ELSEWHERE, EQUAL, PENDING, REFERENCES, WITHOUT, awaited, comparison, golden
from zoo.components.base import walk
from zoo.components.schedules import Adaptive
from zoo.components.teachers import GatedWeights
from zoo.entry import MethodEntry
from zoo.harness.state import Gated

MOST_AWAITED = 5  # lower it with each reference that is written


def entry_of(name: str) -> MethodEntry:
    if name not in FILES:
        pytest.skip(f"no entry '{name}' in the registry yet")
    return load(name)


@pytest.mark.parametrize(("name", "progress"), [(name, progress) for name, moments in MOMENTS.items() for progress in moments])
def test_later_moments_of_a_run_are_those_of_the_card(name: str, progress: float) -> None:
    entry = entry_of(name)
    assert_equal(entry, MOMENTS[name][progress], as_written(entry), progress=progress)


@pytest.mark.parametrize("name", (*COMPARING, *COMPARING_SIGNAL))
def test_groups_and_batches_of_several_answers(name: str) -> None:
    entry = entry_of(name)
    assert_equal(entry, REFERENCES[name], as_written(entry, CROWD), chunk=24)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_entries_that_need_more_than_the_six_tokens(name: str) -> None:
    entry_of(name)
    ELSEWHERE[name](name)


def test_the_crowd_divides_its_answers() -> None:
    """Some prompts weigh nothing, some answers are filtered, and the verdicts of one group differ."""
    main = CROWD["main"]
    assert {g: main.reward_B[main.group_B == g].mean() for g in range(3)} == {0: 1.0, 1: 0.5, 2: 0.25}
    kept = np.abs(Reference(CROWDED["npd"].build).gradient(CROWD)["main"]).max(axis=(1, 2)) > 0.0
    assert kept.sum() == 6
    filtered = np.abs(OPD["fire_opd"].gradient(CROWD)["main"]).max(axis=(1, 2)) > 0.0
    assert 0 < filtered.sum() < 8


def schedule_of(name: str) -> Adaptive:
    rules = dict.fromkeys(part for part in walk(entry_of(name)) if isinstance(part, Adaptive))
    assert len(rules) == 1
    return next(iter(rules))


@pytest.mark.parametrize("information", [0.0, 0.05, 0.1, 3.0])
def test_the_multiplier_of_pgpo_rises_with_what_the_feedback_says_and_is_capped(information: float) -> None:
    rule, entry = schedule_of("pgpo"), load("pgpo")
    wanted = pgpo_multiplier(information)
    found = rule.follow(rule.begin(), dict.fromkeys(rule.measures(), information), 0.5)["value"]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert_equal(entry, Reference(partial(direct.divergence, model="self", scale=wanted)), as_written(entry), measured={rule: found})


def test_the_horizon_of_prune_opd_follows_its_hits() -> None:
    rule, hits = schedule_of("prune_opd"), [0.0, 0.2, 0.6, 0.5, 1.0, 0.1] + [0.0] * 20
    state, found = rule.begin(), []
    for hit in hits:
        state = rule.follow(state, dict.fromkeys(rule.measures(), hit), 0.5)
        found.append(state["value"])
    assert found == pytest.approx(prune_horizons(hits), rel=1e-12)
    assert found[-1] == 0.25 and max(np.diff(found)) > 0.0


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.5, 50.0])
def test_the_behaviour_of_trb_spends_its_budget_and_no_more(budget: float) -> None:
    stream = entry_of("trb").rollouts["main"].model_copy(update={"budget": budget})
    for log_p, log_q in zip(*(SIX["main"].logp(model)[SIX["main"].mask_BT] for model in ("student", "teacher")), strict=True):
        logits = {name: torch.from_numpy(log[None]) for name, log in (("student", log_p), ("teacher", log_q))}
        wanted = within_budget(log_p, log_q, budget)
        for uniform in (0.05, 0.5, 0.95):
            choice, _ = stream.choose(None, logits, torch.full((1, 1), uniform, dtype=torch.float64))
            assert float(choice.behaviour_logp_B) == pytest.approx(wanted[int(choice.token_B)], abs=1e-4)
            assert int(choice.token_B) == int((np.exp(wanted).cumsum() <= uniform).sum())


def test_the_copy_of_cgtr_is_made_when_all_tests_hold() -> None:
    rule = next(part for part in walk(entry_of("cgtr")) if isinstance(part, GatedWeights))
    rewards = [0.1] * 12 + [0.5] * 10 + [0.2] * 15 + [0.9] * 30
    tails = [0.0] * 20 + [0.5] * 8 + [0.1] * 39
    model, student = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    copy, made = Gated(model, student, rule), []
    assert rule.tail is not None
    for step, (reward, tail) in enumerate(zip(rewards, tails, strict=True), start=1):
        student.weight.data.fill_(float(step))
        copy.after_step({rule.measure: reward, rule.tail: tail})
        if model.weight.item() == step:
            made.append(step)
    assert made == refreshes(rewards, tails)
    assert len(made) > 2 and min(np.diff(made)) >= 10


def test_every_executable_entry_has_a_reference_or_a_reason() -> None:
    """Both lists may only shrink: an id with a reference has to be taken off, and no id is added."""
    needing = {name: entry for name in FILES if (entry := load(name)).executable and entry.objective and not entry.identical_core_to}
    lacking = {name for name, entry in needing.items() if comparison(name) is None and not awaited(entry)}
    assert lacking == set(WITHOUT), "write a golden reference in tests/golden"
    assert [name for name in AWAITED if comparison(name) is not None] == [], "has a reference now: take it off the list"
    assert len(WITHOUT) <= 1 and len(AWAITED) <= MOST_AWAITED
    assert set(PENDING) <= set(needing), "only what runs can be pending"


@pytest.mark.parametrize("name", sorted(PENDING))
def test_pending_references_say_why(name: str) -> None:
    outcome, detail = golden(load(name))
    assert outcome == "skip" and PENDING[name] in detail


def test_an_outcome_is_shown_for_each_kind_of_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert golden(load("veto")) == ("pass", EQUAL)
    assert golden(load("no_op")) == ("skip", f"none: {WITHOUT['no_op']}")
    monkeypatch.setitem(PENDING, "veto", "because")
    assert golden(load("veto"))[0] == "fail", "a pending entry that is equal to its card is no longer pending"
    monkeypatch.setitem(REFERENCES, "veto", OPD["tip"])
    assert golden(load("veto")) == ("skip", "pending: because")
    monkeypatch.delitem(PENDING, "veto")
    assert golden(load("veto"))[0] == "fail"
    monkeypatch.delitem(REFERENCES, "veto")
    assert golden(load("veto")) == ("skip", "none yet: write one in tests/golden")


def test_the_extrapolated_rule_without_extrapolation_is_the_plain_one() -> None:
    entry = entry_of("g_opd")
    plain = Reference(partial(policy.g_opd, lam=1.0))
    expected = Reference(policy.sampled).gradient(as_written(entry))["main"]
    np.testing.assert_allclose(plain.gradient(as_written(entry))["main"], expected, atol=1e-9)
