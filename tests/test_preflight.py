"""`zoo preflight`: its checks on the micro pair, its verdicts, and what it says about bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from zoo.bench import FewPrompts
from zoo.cli import app
from zoo.cli.preflight import MARKS
from zoo.components.base import Context
from zoo.components.teachers import External
from zoo.entry import load_registry
from zoo.errors import ZooError
from zoo.failures.probes.parts import Sizes
from zoo.failures.probes.scene import scene_of_pair
from zoo.harness.doctor import Swap, install
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.suites import load_suite
from zoo.preflight import Check, Report, preflight, running
from zoo.preflight.checks import limits, verdict
from zoo.preflight.figures import figures

FEW = Sizes(prompts=10, rollouts=8, failing=10, continuations=1, greedy=8, gradient=16, micro_batches=4)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(running, "FULL", FEW)


def micro(name: str = "micro") -> LoadedPair:
    pair = load_pair(load_pair_spec(name))
    return replace(pair, task=FewPrompts(pair.task))


def by_name(report: Report) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


def test_a_healthy_pair() -> None:
    said: list[str] = []
    report = preflight(micro(), load_suite("micro"), say=lambda check: said.append(check.name), doing=lambda text: None)
    found = by_name(report)
    assert said == [check.name for check in report.checks]
    for name in ("stop tokens", "chat template", "vocabulary of teacher", "stop mass", "format and boundaries", "teacher's lead", "cut answers"):
        assert found[name].level == "ok", found[name]
    assert found["rescue gain"].level == "not measured"  # too few continuations here
    assert "400 are needed" in found["rescue gain"].says
    assert found["log-ratio tails"].level == "amber"
    assert found["log-ratio tails"].remedy
    assert report.verdict == "amber"
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["verdict"] == "amber"


def test_a_teacher_that_stops_with_another_token() -> None:
    pair = micro()
    install(pair.teachers["teacher"], [Swap(kind="swap", tokens=("<e1>", "<e2>"))], pair.tokenizer.get_vocab(), pair.pad_id)
    pair.teachers["teacher"].generation_config.eos_token_id = [pair.tokenizer.get_vocab()["<e2>"]]
    found = by_name(preflight(pair, load_suite("micro")))
    assert found["stop mass"].level == "red"
    assert "<e2>" in found["stop mass"].says
    assert found["stop mass"].remedy


def test_a_method_brings_its_own_checks() -> None:
    registry = load_registry()
    report = preflight(micro(), load_suite("micro"), registry["g_opd"])
    found = by_name(report)
    assert {"gradient slope", "cliff risk"} <= found.keys()
    assert "lambda 1.25" in found["cliff risk"].says
    assert report.method == "g_opd"
    assert "hidden context" in by_name(preflight(micro(), load_suite("micro"), registry["opsd"]))


def test_two_tokenizers_get_the_checks_of_tokens() -> None:
    found = by_name(preflight(micro("micro-cross"), load_suite("micro")))
    assert found["vocabulary of teacher"].level in ("amber", "red")
    assert found["token boundaries"].level in ("amber", "red")
    assert found["teacher's signal"].level == "not measured"


def test_a_method_that_cannot_run_here_is_refused_in_a_line() -> None:
    entry = load_registry()["tml_opd"]
    with pytest.raises(ZooError, match="cannot run: no such machine"):
        preflight(micro(), load_suite("micro"), entry.model_copy(update={"executable": False, "blocked_by": "no such machine"}))
    strange = entry.model_copy(update={"teachers": {"teacher": External(model="teacher", context=Context(fields=("solution",), template="nowhere"))}})
    with pytest.raises(ZooError, match=r"method 'tml_opd' on pair 'micro': .*nowhere"):
        preflight(micro(), load_suite("micro"), strange)


def test_limits_say_which_side_is_bad() -> None:
    assert limits()["gap"].level(0.2) == "ok"
    assert limits()["gap"].level(0.02) == "amber"
    assert limits()["gap"].level(-0.1) == "red"
    assert limits()["tails"].level(0.0) == "ok"
    assert limits()["tails"].level(0.5) == "red"
    assert limits()["tails"].level(float("nan")) == "not measured"
    assert all(limit.source and limit.remedy for limit in limits().values())


def test_the_verdict_is_the_worst() -> None:
    checks = [Check("a", "b", level, "") for level in ("ok", "not measured", "amber")]
    assert verdict(checks) == "amber"  # type: ignore[arg-type]
    assert set(MARKS) == {"ok", "amber", "red", "not measured"}


def test_figures_of_a_student_against_itself() -> None:
    scene = scene_of_pair(micro(), 40, sizes=FEW)
    own = figures(scene, replace(scene.student, name="teacher"), scene.answers())
    assert (own.overlap, own.tails) == (1.0, 0.0)
    assert own.entropy_student == pytest.approx(own.entropy_teacher)
    assert own.surprise == pytest.approx(own.surprise_own)
    assert max(map(abs, own.ratio)) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["micr", "micro"], "no pair 'micr'; did you mean 'micro'?"),
        (["micro", "micr"], "no suite 'micr'; did you mean 'micro'?"),
        (["micro", "micro", "--method", "tml_op"], "did you mean 'tml_opd'?"),
        (["micro", "micro", "--pair-path", "teach=/tmp"], "pair 'micro' has no such model"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["preflight", *arguments])
    assert result.exit_code == 1
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_the_command_prints_and_exits_by_the_verdict() -> None:
    result = CliRunner().invoke(app, ["preflight", "micro", "micro", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pair"] == "micro"
    shown = CliRunner().invoke(app, ["preflight", "micro", "micro", "--device", "cpu"])
    assert "stop mass" in shown.output
    assert "->" in shown.output
    assert "verdict  AMBER" in shown.output
