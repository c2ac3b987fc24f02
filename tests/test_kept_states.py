"""Teachers' states of texts that come again: read back instead of computed, with the same outcome, and only where that is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, comparison, made, read_pair, trainer_of, weights

from zoo.bench import Bench
from zoo.check import file_of
from zoo.entry import load_entry
from zoo.harness.comparison import settings_that_matter
from zoo.harness.kept_states import KeptStates, comes_again, keys_of
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import hidden_states, score
from zoo.harness.train import Trainer
from zoo.method import Method

GIVEN = {"rollout": {"author": "dataset"}, **TEACHER, "objective": [REVERSE_KL]}
OWN = {"rollout": {"author": "student"}, **TEACHER, "objective": [REVERSE_KL]}
REPLAYED = {**OWN, "rollout": {"author": "replay", "of": {"author": "student"}, "capacity": 16, "phi": {"start": 0.6, "step": 0.0, "eps": 0.0}}}
MIXED = {**OWN, "rollout": {"author": "mixture", "of": {"student": 0.5, "dataset": 0.5}, "per": "sequence"}}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def trained(pair: LoadedPair, body: dict[str, Any], **settings: Any) -> tuple[Trainer, int]:
    """A run to its end, and how many passes its teacher made."""
    passes = list[int]()
    hook = pair.teachers["teacher"].base_model.register_forward_hook(lambda *_: passes.append(1))
    trainer = trainer_of(made(**body), pair, **settings)
    trainer.train(lambda row: None, lambda: None)
    hook.remove()
    return trainer, len(passes)


SETTINGS: dict[str, Any] = {"budget": {"amount": 1500}, "learning_rate": 1e-3, "micro_tokens": 10_000, "diagnose_every": 0, "rollouts_per_step": 24}


@pytest.mark.parametrize("body", [GIVEN, REPLAYED], ids=["given", "replayed"])
def test_what_comes_again_is_computed_once_and_changes_nothing(pair: LoadedPair, body: dict[str, Any]) -> None:
    plain, passes = trained(pair, body, **SETTINGS)
    expected = weights(pair.student)
    kept, fewer = trained(pair, body, **SETTINGS, teacher_cache_gib=0.01)
    assert fewer < passes and kept.spent.steps == plain.spent.steps > 3
    for name, value in weights(pair.student).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9)
    assert [row["loss.0.divergence"] for row in kept.rows] == pytest.approx([row["loss.0.divergence"] for row in plain.rows], rel=1e-6)
    texts = {(p, tuple(r[m].tolist())) for p, r, m in seen(kept)}
    assert kept.spent.teacher_tokens == sum(len(ids) for _, ids in texts) < plain.spent.teacher_tokens
    assert kept.accounts.figures()["teacher"]["scored_tokens"] == kept.spent.teacher_tokens


def seen(trainer: Trainer) -> list[Any]:
    """All sequences of a run that is run again from its start."""
    again, found = trainer_of(trainer.entry, trainer.pair, **SETTINGS), list[Any]()
    write = again.write

    def written(method: Method) -> Any:
        streams = write(method)
        found.extend(zip(streams["main"].prompt_ids, streams["main"].response_BT, streams["main"].mask_BT, strict=True))
        return streams

    again.write = written  # type: ignore[method-assign]
    again.train(lambda row: None, lambda: None)
    return found


def test_what_the_student_writes_is_new_each_time_and_not_kept(pair: LoadedPair) -> None:
    for body, expected in ((OWN, False), (MIXED, True)):
        trainer = trainer_of(made(**body), pair, rollouts_per_step=24, teacher_cache_gib=0.01)
        method = Method(trainer.entry)
        streams = trainer.write(method)
        rows = comes_again(trainer.entry.rollouts["main"], streams["main"])
        assert bool(rows) == expected and len(rows) < 24
        trainer.judge(method, streams)
        assert trainer.bank.kept is not None and bool(trainer.bank.kept.held) == expected


def test_contexts_are_told_apart_and_what_moves_is_computed_each_time(pair: LoadedPair) -> None:
    hint = {"fields": ["solution"], "template": "solution"}
    teachers = {"teacher": {"kind": "external"}, "shown": {"kind": "external", "model": "teacher", "context": hint},
                "before": {"kind": "student", "weights": "initial"}, "now": {"kind": "student", "weights": "live", "context": hint},
                "mean": {"kind": "student", "weights": {"ema": 0.7}}}  # fmt: skip
    entry = made(**{**GIVEN, "teachers": teachers, "objective": [{**REVERSE_KL, "teacher": name} for name in teachers]})
    plain, kept = trainer_of(entry, pair), trainer_of(entry, pair, teacher_cache_gib=0.01)
    method, rollout = Method(entry), plain.write(Method(entry))["main"]
    first, expected = (score(method, one.bank, "main", rollout, lambda value: value).hidden for one in (kept, plain))
    assert plain.bank.kept is None and kept.bank.kept is not None
    asked = range(len(rollout))
    keys = {name: keys_of(kept.bank, name, rollout, kept.bank.prompts(name, rollout), asked) for name in teachers}
    assert [len(kept.bank.kept.known(found)) for found in keys.values()] == [8, 8, 8, 0, 0]
    assert len({key for found in keys.values() for key in found.values()}) == 24
    for model in kept.bank.models.values():  # only what is read back is as it was
        model.base_model.embed_tokens.weight.data.mul_(1.1)
    again = score(method, kept.bank, "main", rollout.rows(range(5)), lambda value: value).hidden
    count = int(rollout.mask_BT[:5].sum())
    for model in kept.bank.models.values():
        model.base_model.embed_tokens.weight.data.div_(1.1)
    assert first.keys() == expected.keys() == again.keys() == set(teachers)
    for name in teachers:
        torch.testing.assert_close(first[name], expected[name], rtol=1e-9, atol=1e-12)
        assert torch.equal(again[name], first[name][:count]) == (name in ("teacher", "shown", "before"))


def test_part_of_a_text_that_is_supervised_otherwise_is_another_text(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**GIVEN), pair, teacher_cache_gib=0.01)
    rollout = trainer.write(Method(trainer.entry))["main"]
    other = replace(rollout, mask_BT=rollout.mask_BT & (torch.arange(rollout.mask_BT.shape[1]) > 0))
    keys = [keys_of(trainer.bank, "teacher", one, rollout.prompt_ids, range(8)) for one in (rollout, other)]
    assert not set(keys[0].values()) & set(keys[1].values())


def test_a_teacher_with_another_tokenizer_is_kept_in_its_own_tokens() -> None:
    trainer = Bench().cross.sized(6, 30).trainer(load_entry(file_of("btb")))
    rollout = next(iter(trainer.write(Method(trainer.entry, 0.0)).values()))
    rows = range(len(rollout))
    kept, found = KeptStates(1 << 20), list[Any]()
    for trainer.bank.kept in (kept, kept, None):
        found.append(hidden_states(trainer.bank, ["teacher"], rollout, rows)["teacher"])
    first, again, plain = found
    assert torch.equal(again.states_MH, first.states_MH) and torch.equal(plain.states_MH, first.states_MH)
    assert trainer.bank.scored_tokens == 2 * len(first.states_MH)  # once for the first, once for the plain one


def test_what_was_read_longest_ago_makes_room() -> None:
    kept = KeptStates(100)
    kept.keep({b"a": torch.zeros(5, 2), b"b": torch.ones(5, 2)})
    assert kept.held == 80 and list(kept.known({7: b"a", 8: b"c"})) == [7]
    kept.keep({b"a": torch.zeros(5, 2), b"d": torch.zeros(1, 8)})
    assert kept.held == 72 and set(kept.known({0: b"a", 1: b"b", 2: b"d"})) == {0, 2}
    kept.keep({b"e": torch.zeros(30, 2)})  # larger than all the room
    assert kept.held == 0 and not kept.known({0: b"a", 1: b"e"})


def test_the_setting_is_no_part_of_a_cell() -> None:
    assert settings_that_matter(comparison(teacher_cache_gib=1.5), "gkd") == settings_that_matter(comparison(), "gkd")
    assert "teacher_cache_gib" not in comparison().settings.model_dump()
