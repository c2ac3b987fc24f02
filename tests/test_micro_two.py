"""The pair `micro-two`: two domains, a specialist for each, and whom a routed method asks about what."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from harness_kit import made, stub_evaluation, trainer_of

from zoo.errors import ZooError
from zoo.harness import build_two, run
from zoo.harness.build_micro import accuracy
from zoo.harness.comparison import Comparison
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes
from zoo.harness.plan import Place
from zoo.harness.suites import load_suite
from zoo.paths import data_root, shipped_pair
from zoo.tasks import make_task, micro, micro_two
from zoo.tensors import Prompt

ROUTED = {
    "rollout": {"author": "student"},
    "teachers": {
        "add": {"kind": "external", "model": "add"},
        "times": {"kind": "external", "model": "times"},
        "expert": {"kind": "route", "by": "domain", "of": {"add": "add", "times": "times"}},
    },
    "objective": [{"term": "divergence", "teacher": "expert", "divergence": "reverse_kl", "support": "full", "reduce": "token_mean"}],
}


@cache
def pair() -> LoadedPair:
    return load_pair(load_pair_spec("micro-two"))


def by_domain(prompts: list[Prompt], domain: str) -> list[Prompt]:
    return [p for p in prompts if p.fields["domain"] == domain]


def test_times_chains_are_products_and_keep_to_their_split() -> None:
    prompt = micro_two.times_prompt("3672")
    assert (prompt.text, prompt.fields["solution"], prompt.fields["hint"], prompt.fields["domain"]) == ("#3672=", "3 8 6 2#2", "3 8", "times")
    task = make_task("micro-two")
    train, valid = task.prompts("train"), task.prompts("valid")
    assert len(train) == 20_000 and len(valid) == 512 and len({p.id for p in train}) == 20_000
    for prompts, split in ((train, "train"), (valid, "valid"), (micro_two.held_out_times(), "test")):
        assert {micro.split_of(p.fields["domain"], p.fields["content"]) for p in prompts} == {split}
    assert [p.fields["domain"] for p in train[:4]] == ["add", "times", "add", "times"]
    assert all(task.verify("exact", p.fields["solution"], p) == task.verify("answer", p.fields["solution"], p) == 1.0 for p in valid)
    assert task.verify("answer", "3 8 6 4#4", prompt) == 0.0 and task.feedback("3 8 5 2#2", prompt) == "bad 3"
    with pytest.raises(ZooError, match="task micro-two has no split 'test'"):
        task.prompts("test")


def test_tools_and_the_user_multiply_where_the_prompt_does() -> None:
    task, prompt, sums = micro_two.MicroTwoTask(), micro_two.times_prompt("3672"), micro.add_prompt("357")
    assert (task.tool("calculator", "3 8", prompt), task.tool("lookup", "3 8", prompt)) == ("2", "6")
    assert (task.tool("calculator", "3", sums), task.tool("inspector", "x", prompt)) == ("15", "form")
    assert task.wishes(prompt) == ["3", "8", "6", "2", "2"] and task.state("3 8 6", prompt) == pytest.approx(0.6)
    assert task.shards(prompt, 2) == ["#36=", "#72="] and task.shards(sums, 2) == ["+3=", "+57="]


def test_the_suite_holds_the_test_lists() -> None:
    file = data_root() / "suites" / "tasks" / "data" / "micro_times.jsonl"
    assert [json.loads(line)["prompt"] for line in file.read_text().splitlines()] == [p.text for p in micro_two.held_out_times()]
    assert [task.task for task in load_suite("micro-two").tasks] == ["micro_add", "micro_times", "micro_ood"]


def test_each_specialist_knows_its_domain_and_not_the_other() -> None:
    valid = pair().task.prompts("valid")[:128]
    models = {"student": pair().student, **pair().teachers}
    share = {name: {d: accuracy(m, pair().tokenizer, by_domain(valid, d)) for d in micro_two.DOMAINS} for name, m in models.items()}
    assert min(share["teacher"].values()) > 0.9
    assert share["add"]["add"] > 0.85 and share["add"]["times"] < 0.1
    assert share["times"]["times"] > 0.9 and share["times"]["add"] < 0.1
    assert all(0.3 < own < 0.85 for own in share["student"].values())


def test_what_is_shipped_is_small_and_says_how_it_was_made() -> None:
    files = list(shipped_pair("micro-two").rglob("*.safetensors"))
    assert len(files) == 4 and sum(file.stat().st_size for file in files) < 600_000
    report = json.loads((shipped_pair("micro-two") / "build.json").read_text())
    assert {report[name]["recipe"]["rank"] for name in build_two.RECIPES} == {8, 16}


def test_the_build_writes_what_the_pair_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {name: build_two.Recipe(recipe.domains, recipe.rank, steps=2, batch=4) for name, recipe in build_two.RECIPES.items()}
    monkeypatch.setattr(build_two, "RECIPES", {name: quick[name] for name in ("add", "times")})
    monkeypatch.setattr(build_two, "measure", lambda folder: {"add": 0.0})
    lines: list[str] = []
    report = build_two.build(tmp_path, 0, lines.append)
    assert set(report) == {"seed", "packages", "base", "add", "times"} and "add: saved" in lines[0]
    source = {"path": str(shipped_pair("micro") / "student"), "adapter": {"path": str(tmp_path / "add")}}
    spec = load_pair_spec("micro-two").model_dump()
    loaded = load_pair(type(load_pair_spec("micro-two")).model_validate({**spec, "teachers": {"add": source}}))
    base = load_pair(load_pair_spec("micro")).student
    changed = [n for (n, a), b in zip(loaded.teachers["add"].named_parameters(), base.parameters(), strict=True) if not torch.equal(a, b)]
    assert changed and all(name.split(".")[-2] in build_two.TARGETS for name in changed)


def test_a_route_asks_each_specialist_about_its_own_domain_alone() -> None:
    trainer = trainer_of(made(**ROUTED), pair(), max_new_tokens=24, rollouts_per_step=16, budget={"amount": 10}, micro_tokens=400)
    seen: list[str] = []
    write = trainer.write

    def noted(method):  # type: ignore[no-untyped-def]
        streams = write(method)
        seen.extend(p.fields["domain"] for p, row in zip(streams["main"].prompts, streams["main"].mask_BT, strict=True) for _ in range(int(row.sum())))
        return streams

    trainer.write = noted  # type: ignore[method-assign]
    trainer.train(lambda row: None, lambda: None)
    figures = trainer.accounts.figures()
    assert figures == {d: {"scored_tokens": seen.count(d), "written_tokens": 0} for d in micro_two.DOMAINS}
    assert sum(own["scored_tokens"] for own in figures.values()) == trainer.spent.teacher_tokens == len(seen)
    kept = trainer.accounts.state_dict()
    trainer.accounts.tokens = {}
    trainer.accounts.load_state_dict(kept)
    assert trainer.accounts.figures() == figures
    pair().reset_student()


def test_what_teachers_write_is_charged_to_them() -> None:
    mixed = {"rollout": {"author": "mixture", "of": {"add": 1, "times": 1, "student": 2}, "per": "sequence"},
             "teachers": {name: {"kind": "external", "model": name} for name in micro_two.DOMAINS},
             "objective": [{"term": "likelihood", "reduce": "token_mean"}]}  # fmt: skip
    trainer = trainer_of(made(**mixed), pair(), max_new_tokens=24, rollouts_per_step=16, budget={"amount": 10})
    trainer.train(lambda row: None, lambda: None)
    figures = trainer.accounts.figures()
    assert all(own["written_tokens"] > 0 == own["scored_tokens"] for own in figures.values()) and set(figures) == set(micro_two.DOMAINS)
    assert sum(own["written_tokens"] for own in figures.values()) < trainer.spent.generated_tokens
    pair().reset_student()


def test_the_record_names_each_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "evaluate", stub_evaluation)
    from harness_kit import comparison, registry

    entry = made("routed", **ROUTED)
    asked: Comparison = comparison("micro-two", methods=("routed",), budget={"amount": 10}, rollouts_per_step=8, max_new_tokens=16)
    [outcome] = run.run_comparison(asked, registry(entry), Place(tmp_path), device="cpu")
    assert outcome.record is not None
    found = json.loads((outcome.record / "run.json").read_text())["budget"]
    assert set(found["teachers"]) == set(micro_two.DOMAINS)
    assert sum(own["scored_tokens"] for own in found["teachers"].values()) == found["spent"]["teacher_tokens"]


def test_two_processes_count_as_one() -> None:
    class Doubled(Processes):
        def total_int(self, value: int) -> int:
            return 2 * value

    trainer = trainer_of(made(**ROUTED), pair(), Doubled(), max_new_tokens=16, rollouts_per_step=8, budget={"amount": 10})
    trainer.bank.charge("add", 5)
    trainer.accounts.after_step({})
    assert trainer.accounts.figures() == {"add": {"scored_tokens": 10, "written_tokens": 0}}
