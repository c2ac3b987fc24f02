"""Prompts that are drawn by what earlier answers showed: which ones a step reads, what is remembered. Two processes, and runs that are killed,
have tests of their own, in which a drawing entry takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, made, read_pair, trainer_of

from zoo.coordinates import derive_coordinates
from zoo.harness.models import LoadedPair
from zoo.harness.prompts import prompt_order
from zoo.harness.train import Trainer
from zoo.method import Method
from zoo.statistics import TokenContext

PASS_RATE = {"kind": "pass_rate", "name": "correct", "pool": 6, "floor": 0}
DELTA = {"kind": "delta", "name": "correct", "against": "theirs", "floor": 0, "pool": 6}
REWARDS = {"rewards": {"correct": {"kind": "verifier"}}}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


def entry_of(**main: Any) -> Any:
    return made(rollouts={"main": {"author": "student", "group": 2, **main}}, **TEACHER, **REWARDS, objective=[REVERSE_KL])


def compared(**draw: Any) -> Any:
    streams = {"main": {"author": "student", "group": 2, "prompts": {**DELTA, **draw}}, "theirs": {"author": "teacher", "share": 0.5}}
    return made(rollouts=streams, **TEACHER, **REWARDS, objective=[REVERSE_KL])


def read(trainer: Trainer, iterations: int) -> list[list[str]]:
    """The prompts of the main stream, iteration by iteration."""
    found = []
    write = trainer.write

    def noted(method: Method) -> Any:
        streams = write(method)
        found.append(list(dict.fromkeys(prompt.id for prompt in streams["main"].prompts)))
        return streams

    trainer.write = noted  # type: ignore[method-assign]
    for _ in range(iterations):
        list(trainer.iterate())
        trainer.iteration += 1
    return found


def following(trainer: Trainer, **counts: int) -> dict[str, list[int]]:
    """What the fifth iteration would read."""
    return trainer.drawn.orders(trainer.entry.rollouts, counts or {"main": 4}, 4)


LONG = {"budget": {"amount": 100_000}}


def test_without_a_draw_the_prompts_are_read_in_turn(pair: LoadedPair) -> None:
    trainer = trainer_of(entry_of(), pair, **LONG)
    expected = [trainer.prompts[i].id for i in prompt_order(48, range(12), ("trial", 0))]
    assert [name for step in read(trainer, 3) for name in step] == expected
    assert trainer.drawn.state_dict() == {}


def test_a_pool_is_the_beginning_of_the_same_reading_and_pure_groups_are_left_out(pair: LoadedPair) -> None:
    trainer = trainer_of(entry_of(prompts=PASS_RATE), pair, **LONG)
    pool = [trainer.prompts[i].id for i in prompt_order(48, range(6), ("trial", 0))]
    rates: dict[str, float] = {}
    for _ in range(12):
        [step] = read(trainer, 1)
        assert len(step) == 4 and set(step) <= set(pool)
        weights = {name: 4 * rate * (1 - rate) for name, rate in rates.items()}
        if sum(weights.get(name, 1.0) > 0 for name in pool) >= 4:
            assert all(weights.get(name, 1.0) > 0 for name in step)
        value_P = trainer.drawn.values[trainer.drawn.rules["main"]]
        rates = {name: float(value_P[trainer.drawn.place[name]]) for name in pool if not value_P[trainer.drawn.place[name]].isnan()}
    assert {0.0, 0.5} <= set(rates.values()) | {1.0} and len(rates) >= 5
    assert int((~value_P.isnan()).sum()) == len(rates)  # nothing is known of prompts beyond the pool


def test_what_is_remembered_is_the_newest_mean(pair: LoadedPair) -> None:
    trainer = trainer_of(entry_of(prompts={**PASS_RATE, "pool": None, "floor": 0.2}), pair, **LONG)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    context = scored["main"].context
    for rewards, expected in (([1, 0, 1, 1, 0, 0, 0, 1], [0.5, 1.0, 0.0, 0.5]), ([0, 0, 1, 0, 0, 0, 1, 1], [0.0, 0.5, 0.0, 1.0])):
        told = TokenContext(context.rollout, context.columns, {"correct": torch.tensor(rewards, dtype=torch.float32)})
        trainer.drawn.observe({"main": told})
        [value_P] = trainer.drawn.state_dict().values()
        assert [float(value_P[trainer.drawn.place[p.id]]) for p in context.rollout.prompts[::2]] == expected


def test_the_same_seed_draws_the_same_and_another_one_other_prompts(pair: LoadedPair) -> None:
    entry = entry_of(prompts={**PASS_RATE, "pool": 20})
    one, two, three = (read(trainer_of(entry, pair, seed=seed, **LONG), 4) for seed in (0, 0, 1))
    assert one == two != three


def test_a_restored_draw_goes_on(pair: LoadedPair) -> None:
    trainer = trainer_of(compared(), pair, **LONG)
    read(trainer, 4)
    other = trainer_of(compared(), pair, **LONG)
    before = following(other)
    other.drawn.load_state_dict(trainer.drawn.state_dict())
    assert following(other) == following(trainer) != before


def test_all_streams_of_a_step_read_the_same_prompts_and_the_compared_one_is_not_learned(pair: LoadedPair) -> None:
    trainer = trainer_of(compared(), pair, **LONG)
    method = Method(trainer.entry)
    assert method.weighed == {"main": {"correct"}, "theirs": {"correct"}} and method.learned == {"main"}
    streams = trainer.write(method)
    mine = [p.id for p in streams["main"].prompts[::2]]
    assert [p.id for p in streams["theirs"].prompts] == mine[:4]
    scored = trainer.judge(method, streams)
    assert set(scored["theirs"].context.rewards) == {"correct"} and not scored["theirs"].context.columns
    trainer.drawn.observe({name: part.context for name, part in scored.items()})
    [value_P] = trainer.drawn.state_dict().values()
    own_B, other_B = (scored[name].context.rewards["correct"] for name in ("main", "theirs"))
    found = [float(value_P[trainer.drawn.place[name]]) for name in mine]
    assert found == pytest.approx((other_B - own_B.reshape(-1, 2).mean(1)).tolist()) and len(set(found)) > 1
    row = trainer.step(method, scored)
    assert row["tokens"] == streams["main"].tokens


def test_a_step_reads_no_prompt_twice_while_there_are_others(pair: LoadedPair) -> None:
    trainer = trainer_of(compared(pool=3), pair, **LONG)
    orders = following(trainer, main=8, theirs=5)
    assert len(set(orders["main"])) == 8 and orders["theirs"] == orders["main"][:5]
    assert set(orders["main"]) == set(prompt_order(48, range(8), ("trial", 0)))
    [many] = following(trainer, main=100).values()
    assert len(many) == 100 and sorted(many[:48]) == list(range(48)) and many[48:96] == many[:48]


def test_a_draw_by_outcomes_makes_a_token_signal_hybrid() -> None:
    plain, drawn = (derive_coordinates(entry) for entry in (entry_of(), entry_of(prompts=PASS_RATE)))
    assert (plain.feedback_signal, plain.loss_granularity) == (("logit",), "token")
    assert (drawn.feedback_signal, drawn.loss_granularity) == (("logit", "outcome"), "hybrid")


def test_a_stream_at_rest_draws_nothing() -> None:
    terms = [{**REVERSE_KL, "on": "main", "during": [0.0, 0.5]}, {**REVERSE_KL, "on": "later", "during": [0.5, 1.0]}]
    streams = {"main": {"author": "student"}, "later": {"author": "student", "group": 2, "prompts": PASS_RATE}}
    entry = made(rollouts=streams, **TEACHER, **REWARDS, objective=terms)
    assert [Method(entry, progress).weighed for progress in (0.1, 0.9)] == [{}, {"later": {"correct"}}]
