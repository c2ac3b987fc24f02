"""Entries whose numbers follow the run: the numbers after given measures, and the loss at them, against the independent references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pytest

from tests.golden import reference_classic as classic
from tests.golden import reference_classic_more as more
from tests.golden import reference_guided as guided
from tests.golden import reference_objective as objective
from tests.golden import reference_signal_direct as signal
from tests.golden.loss import Reference
from tests.golden.reference_outcome import group_advantage
from tests.golden.reference_states import adakd_shares, raft_weights, taid_shares
from tests.golden_kit import FILES, SIX, as_written, assert_equal, load
from zoo.components.base import walk
from zoo.components.schedules import Adaptive
from zoo.components.teachers import LiveWeights, SelfTeacher
from zoo.entry import MethodEntry

LOSSES = [2.0, 1.9, 2.4, 1.2, 0.9, 0.9, 0.5, 0.6, 1.5, 1.4, 0.7, 0.4]
OTHERS = [0.5, 0.9, 0.4, 0.3, 0.8, 0.2, 0.6, 0.5, 0.3, 0.4, 0.4, 0.9]


def follow(rule: Adaptive, metrics: Sequence[Mapping[str, float]]) -> list[float]:
    """The rule's number after each step of a run that leaves these metrics."""
    state, found = rule.begin(), []
    for n, row in enumerate(metrics, start=1):
        state = rule.follow(state, row, n / len(metrics))
        found.append(state["value"])
    return found


def rule_of(name: str) -> Adaptive:
    if name not in FILES:
        pytest.skip(f"no entry '{name}' in the registry yet")
    rules = dict.fromkeys(part for part in walk(load(name)) if isinstance(part, Adaptive))
    assert len(rules) == 1
    return next(iter(rules))


def assert_at(name: str, rule: Adaptive, value: float, reference: Reference) -> None:
    entry = load(name)
    assert_equal(entry, reference, as_written(entry), measured={rule: value})


def test_taid_moves_with_its_loss_and_learns_at_the_share_it_reached() -> None:
    rule = rule_of("taid")
    shares = taid_shares(LOSSES)
    assert follow(rule, [dict.fromkeys(rule.measures(), loss) for loss in LOSSES]) == pytest.approx(shares, rel=1e-12)
    steady = [1.0 / 2**n for n in range(12)]
    assert follow(rule, [dict.fromkeys(rule.measures(), loss) for loss in steady]) == pytest.approx(taid_shares(steady), rel=1e-12)
    assert_at("taid", rule, shares[5], Reference(partial(classic.taid, t=shares[5]), ("data",)))


def test_adakd_narrows_while_its_loss_falls_and_learns_on_the_share_it_reached() -> None:
    rule = rule_of("adakd")
    losses = [2.0] * 5 + [0.2] * 20 + [30.0] * 20 + [0.5] * 15
    shares = adakd_shares(losses)
    assert min(shares) < 0.9 and np.diff(shares).max() > 0.0, "narrowed, and widened again"
    assert follow(rule, [dict.fromkeys(rule.measures(), loss) for loss in losses]) == pytest.approx(shares, rel=1e-12)
    assert_at("adakd", rule, 0.5, Reference(partial(classic.adakd, ratio=0.5), ("data",)))


def test_raft_balances_its_two_losses() -> None:
    rule = rule_of("raft_domain")
    of, to = rule.measures()
    weights = raft_weights(LOSSES, OTHERS)
    assert follow(rule, [{of: a, to: b} for a, b in zip(LOSSES, OTHERS, strict=True)]) == pytest.approx(weights, rel=1e-9)
    assert_at("raft_domain", rule, weights[3], Reference(partial(objective.raft_domain, lam=weights[3]), ("theirs",)))


def test_warmup_distill_is_plain_distillation_after_its_first_stage() -> None:
    if "warmup_distill" not in FILES:
        pytest.skip("no entry 'warmup_distill' in the registry yet")
    entry = load("warmup_distill")
    for progress, reference in ((0.1, Reference(more.warmup_preference, ("theirs", "main"))), (0.6, Reference(more.okd, ("data",)))):
        assert_equal(entry, reference, as_written(entry), progress=progress)


@pytest.mark.parametrize("progress", [0.25, 0.75])
def test_the_teachers_token_of_tgpo_fades(progress: float) -> None:
    """Linearly from w; the entry lets it end at half of the run."""
    weight = max(1.0 - 2.0 * progress, 0.0)
    assert_equal(load("tgpo"), Reference(partial(guided.tgpo, weight=weight)), as_written(load("tgpo")), progress=progress)


@pytest.mark.parametrize("progress", [0.5, 0.9])
def test_the_modulation_of_amr_sd_fades_to_grpo(progress: float) -> None:
    assert_equal(load("amr_sd"), Reference(partial(guided.amr_sd, alpha=1.0 - progress)), as_written(load("amr_sd")), progress=progress)


def learner_entry(name: str, learner: str) -> MethodEntry:
    """A learner's own objective as an entry whose student it is."""
    entry = load(name)
    teachers = {**entry.teachers, "pupil": SelfTeacher(weights=LiveWeights())}
    return entry.model_copy(update={"objective": entry.learners[learner].objective, "teachers": teachers, "learners": {}})  # type: ignore[attr-defined]


def test_the_large_model_of_codistill_learns_on_the_small_ones_text() -> None:
    """L_large: the verifier's group advantage, the ratio of the large model to the small one that wrote the text."""
    large = SIX.with_logits("main", student=SIX["main"].logits["peer"])
    build = partial(guided.surrogate, advantage_BT=guided.along(SIX["main"], group_advantage(SIX["main"])))
    assert_equal(learner_entry("codistill_grpo", "large"), Reference(build), large)


def test_the_module_of_okd_stays_right_and_moves_towards_the_student() -> None:
    """L_T = CE(y, p_phi) + b KL(sg[q] || p_phi), b = 1 in the entry; the pupil is played by `self`, as every self-teacher."""
    module = SIX.with_logits("data", student=SIX["data"].logits["teacher"], self=SIX["data"].logits["student"], teacher=SIX["data"].logits["student"])
    assert_equal(learner_entry("okd", "module"), Reference(more.okd, ("data",)), module)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_module_of_promptkd_moves_to_the_student_and_is_held_less_and_less(progress: float) -> None:
    """L_P = KL(p_P || sg[q]) + (1 - k/K) KL(p_P || sg[p]); the module is played by `student`, the pupil by `self`."""
    both = (signal.divergence, partial(signal.divergence, model="teacher", scale=1.0 - progress))
    reference = Reference(lambda fixture: signal.summed(*(build(fixture) for build in both)))
    entry = learner_entry("promptkd", "module")
    assert_equal(entry, reference, as_written(entry), progress=progress)
