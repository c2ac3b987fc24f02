"""Gates that remember, step by step against plain numpy on the six tokens, and as a part of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.compat import problems
from zoo.harness.remembered import Remembered
from zoo.statistics import TokenContext

from .compose import entry_of
from .six import MASK, TOKENS, V, build
from .test_measures import KL
from .test_measures import known as columns_of

ENTROPY, DIVERGENCE = {"kind": "entropy"}, {"kind": "divergence"}


def known() -> TokenContext:
    """The six tokens with the columns of both measures."""
    return columns_of([build("measure", "entropy"), build("measure", "divergence")])


def scaled(factor: float) -> TokenContext:
    """The six tokens with every column times a factor."""
    context = known()
    return replace(context, columns={statistic: factor * column for statistic, column in context.columns.items()})


def run(gate: Any, steps: list[tuple[float, TokenContext]]) -> list[Any]:
    """What the gate lets through at each step, which (progress after it, its batch) are."""
    state, found = gate.begin(V), []
    for progress, context in steps:
        found.append(gate.keep(replace(context, memory={gate.key: state}), None).numpy())
        state = gate.follow(state, gate.seen(context, V), progress)
    return found


def test_hysteresis() -> None:
    """Shut in the warm-up, whose mean is 1 here; then by two thresholds of the batch's mean, one step later."""
    gate = build("gate", "hysteresis", of=ENTROPY, down=0.9, up=1.0, warmup=0.25)
    factors = [1.1, 0.9, 1.0, 0.95, 0.91, 0.89, 0.95, 0.999, 1.0, 0.95]
    found = run(gate, [((i + 1) / 10, scaled(factor)) for i, factor in enumerate(factors)])
    wanted, level = [], False
    for i, factor in enumerate(factors):
        wanted.append(level)
        level = factor >= (0.9 if level else 1.0) if i >= 2 else False
    assert wanted == [False, False, False, True, True, True, False, False, False, True]
    np.testing.assert_array_equal(found, [MASK & on for on in wanted])


def test_a_warm_up_shorter_than_a_step_is_one_step() -> None:
    gate = build("gate", "hysteresis", of=ENTROPY, warmup=0.01)
    found = run(gate, [(0.5, scaled(1.0)), (1.0, scaled(1.0))])
    np.testing.assert_array_equal(found, [MASK & False, MASK])


def rocks(rounds: list[list[np.ndarray[Any, Any]]], level: float) -> list[set[int]]:
    """The types above the quantile of all types' means, round by round."""
    found = []
    for batches in rounds:
        means = {int(v): float(np.nanmean([b[v == TOKENS] for b in batches])) for v in np.unique(TOKENS[MASK])}
        found.append({v for v, mean in means.items() if mean > np.quantile(list(means.values()), level)})
    return found


@pytest.mark.parametrize("streak", [1, 2, 3])
def test_persistent_types(streak: int) -> None:
    gate = build("gate", "persistent", of=DIVERGENCE, level=0.65, rounds=5, streak=streak)
    steps = [((i + 1) / 10, scaled(1.0 + i)) for i in range(10)]
    kept = run(gate, steps)
    masked = np.where(MASK, KL, np.nan)
    hot = rocks([[masked * (1.0 + i), masked * (2.0 + i)] for i in range(0, 10, 2)], 0.65)
    assert len(hot[0]) == 2
    for i, found in enumerate(kept):
        over = i // 2  # rounds that are over before the step
        always = set.intersection(*hot[over - streak : over]) if over >= streak else set()
        np.testing.assert_array_equal(found, MASK & ~np.isin(TOKENS, sorted(always)))


def test_a_type_that_falls_back_or_is_rare_is_none() -> None:
    gate = build("gate", "persistent", of=DIVERGENCE, level=0.65, rounds=4, streak=2)
    high = gate.follow(gate.begin(V), gate.seen(known(), V), 0.25)
    assert set(high["streak_V"].tolist()) == {0.0, 1.0}
    low = replace(known(), columns={statistic: -column for statistic, column in known().columns.items()})
    assert not bool((gate.follow(high, gate.seen(low, V), 0.5)["streak_V"] > 1).any())
    rare = build("gate", "persistent", of=DIVERGENCE, level=0.65, rounds=4, streak=2, least=2)
    assert torch.equal(rare.follow(rare.begin(V), rare.seen(known(), V), 0.25)["streak_V"], torch.zeros(V, dtype=torch.float64))


def test_padding_is_not_seen() -> None:
    gate, context = build("gate", "persistent", of=DIVERGENCE), known()
    other = replace(context, rollout=replace(context.rollout, response_BT=torch.where(context.mask_BT, context.rollout.response_BT, 5)))
    assert all(torch.equal(a, b) for a, b in zip(gate.seen(context, V).values(), gate.seen(other, V).values(), strict=True))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "hysteresis", "down": 1.1}, "must not exceed up"),
        ({"kind": "persistent", "rounds": 3, "streak": 3}, "the run ends before any type"),
        ({"kind": "persistent", "of": {"kind": "log_ratio", "of": {"teacher": {"schedule": "linear", "start": 0, "end": 1}}}}, "no schedules inside"),
    ],
)
def test_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build("gate", **{"of": DIVERGENCE, **fields})


def test_a_part_of_the_run_comes_back_as_it_was() -> None:
    """Two terms share the state of equal gates; its tensors restore it; a gate whose measure nobody took this step rests."""
    gate = {"kind": "persistent", "of": DIVERGENCE, "level": 0.65, "rounds": 2, "streak": 1}
    term = {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "gates": (gate,), "reduce": "token_mean"}
    entry = entry_of([term, {**term, "divergence": "forward_kl"}])
    one = Remembered(entry, V)
    assert len(one.states) == 1
    one.shown({"main": known()})
    one.after_step({"progress": 0.5})
    again = Remembered(entry, V)
    again.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    [shown], [first] = again.shown({"main": known()}).values(), one.shown({"main": known()}).values()
    [built] = again.gates.values()
    kept = built.keep(shown, None)
    assert torch.equal(kept, built.keep(first, None))
    assert not torch.equal(kept, shown.mask_BT)
    one.shown({"main": replace(known(), columns={})})
    assert one.step == {}


def test_a_learner_remembers_nothing() -> None:
    term = {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "reduce": "token_mean"}
    inner = {**term, "teacher": "pupil", "gates": ({"kind": "persistent", "of": {"kind": "entropy"}},)}
    peers = {"learners": {"mate": {"kind": "peer", "objective": (inner,)}}, "teachers": {"teacher": {"kind": "learner", "learner": "mate"}}}
    assert [message for message in problems(entry_of([term], **peers)) if "remembers the student's steps" in message]
