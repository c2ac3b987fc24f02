"""Every entry of the registry in the real training loop: it is built, stands where it says, takes two steps and takes them again.

What one entry claims beyond that (padding, micro-batches, its golden value, the lab) is in `zoo check ID`; a batch here is smaller.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.shares import shared_out
from zoo.check import Bench
from zoo.components.base import walk
from zoo.components.teachers import External
from zoo.coordinates import derive_coordinates
from zoo.entry import MethodEntry, load_entry
from zoo.harness.train import Trainer
from zoo.method import Method
from zoo.paths import data_root
from zoo.probe import Finding, idle, misfits, steps

FILES = sorted((data_root() / "registry" / "methods").glob("*.yaml"))
SFT = data_root() / "registry" / "methods" / "sft.yaml"
SMALL = (8, 12)  # sequences and new tokens of a batch
REWARDED = (32, 24)  # answers have to end, and in some group one has to be right and one wrong


@pytest.fixture(scope="module")
def bench() -> Bench:
    """The micro pair, shared by all."""
    return Bench().sized(*SMALL)


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.detail for finding in findings if finding.outcome == "fail"}


def with_further_teachers(entry: MethodEntry, bench: Bench) -> Bench:
    """The micro pair has one teacher; it also plays those that an entry wants beside it, such as the teacher before its fine-tuning."""
    wanted = {part.model for part in walk(entry.teachers) if isinstance(part, External)} - set(bench.pair.teachers)
    if not wanted:
        return bench
    other, pair = bench.sized(*SMALL), bench.pair
    spec = pair.spec.model_copy(update={"teachers": {**pair.spec.teachers, **dict.fromkeys(wanted, pair.spec.teachers["teacher"])}})
    other.pair = replace(pair, spec=spec, teachers={**pair.teachers, **dict.fromkeys(wanted, pair.teachers["teacher"])})
    return other


@pytest.mark.parametrize("name", shared_out(file.stem for file in FILES))
def test_an_entry_runs_where_it_says_it_stands(name: str, bench: Bench) -> None:
    """Two steps on the micro pair: finite, a gradient in every trained weight and in no teacher, all of it the same under the same seed."""
    entry = load_entry(data_root() / "registry" / "methods" / f"{name}.yaml")
    if entry.objective:
        assert entry.coordinates is None or entry.coordinates.differences(derive_coordinates(entry)) == {}
        for progress in (0.0, 0.5, 1.0):
            assert Method(entry, progress).entry.id == entry.id
    if not entry.executable or not entry.objective:
        assert entry.executable or entry.blocked_by
        return
    bench = with_further_teachers(entry, bench.suited(entry))
    assert misfits(entry, bench.pair) == [], "every executable entry runs on the micro pair"
    grouped = any(stream.group > 1 for stream in entry.rollouts.values())
    findings = steps(entry, bench.sized(*REWARDED) if entry.rewards or grouped else bench)
    assert failed(findings) == {}
    assert {finding.check for finding in findings} == {"two steps", "teacher", "student", "same seed"}
    assert idle(entry) == any("no bit" in finding.detail for finding in findings)


def test_a_step_that_is_not_the_same_twice_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def noisy(self: Trainer, *arguments: object) -> object:
        next(self.pair.student.parameters()).data += 1e-3 * torch.rand(1)
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", noisy)
    assert "named axes" in failed(steps(load_entry(SFT), bench))["same seed"]


def test_a_weight_that_no_gradient_reaches_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Trainer._apply

    def without(self: Trainer) -> float:
        list(self.pair.student.parameters())[-1].grad = None
        return apply(self)

    monkeypatch.setattr(Trainer, "_apply", without)
    name = [name for name, _ in bench.pair.student.named_parameters()][-1]
    assert failed(steps(load_entry(SFT), bench)) == {"student": f"no gradient reached {name} in two steps"}
