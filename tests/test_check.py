"""`zoo check`: what it finds in sound entries, in broken ones, and in a harness that was broken on purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from zoo.check import Bench, Finding, Report, check_all, check_file, file_of
from zoo.cli import app
from zoo.components.reduces import TokenMean
from zoo.components.terms.direct import DivergenceTerm, LikelihoodTerm
from zoo.entry import load_entry
from zoo.harness import train
from zoo.paths import data_root

METHODS = data_root() / "registry" / "methods"
README = data_root() / "README.md"
NEWCOMER = """
id: newcomer
name: Discounted log-ratio, with a reverse KL on the teacher's best eight where the teacher is uncertain
paper: {year: 2026, first_author: Newcomer}
evidence: {level: inferred, source: an exercise}
fixed_point: teacher
coordinates: {feedback_signal: [logit], teacher_access: white_box, loss_granularity: hybrid,
              estimator: [pg_discounted, direct], routing: [sampled_token, teacher_topk]}
rollout: {author: student}
teachers: {teacher: {kind: external}}
objective:
  - {term: policy_gradient, reward: {kind: contrast, of: {teacher: 1, student: -1}}, credit: {kind: discounted, gamma: 0.9}, routing: sampled,
     reduce: token_mean}
  - {term: divergence, teacher: teacher, divergence: reverse_kl, support: {kind: teacher_topk, k: 8, mass: tail_bucket},
     gates: [{kind: teacher_entropy, above: 0.2}], reduce: token_mean}
"""
COMPARISON = """
id: newcomers
title: A first method against its student
pair: micro
methods: [student, newcomer]
seeds: [0]
suites: [micro]
budget: {unit: supervised_tokens, amount: 500}
settings: {rollouts_per_step: 16, max_new_tokens: 24, learning_rate: 1.0e-3}
evaluation: {limit: 8}
"""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an entry with replacements; its file is called like its id."""

    def write_entry(text: str, **changes: str) -> Path:
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / f"{re.findall(r'^id: (.*)$', text, re.MULTILINE)[0]}.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write_entry


def shipped(name: str) -> str:
    """The text of a registry entry."""
    return (METHODS / f"{name}.yaml").read_text(encoding="utf-8")


def found(report: Report) -> dict[str, str]:
    """Outcome by check."""
    return {finding.check: finding.outcome for finding in report.findings}


def failures(report: Report) -> dict[str, str]:
    """Reasons of what failed."""
    return {finding.check: finding.detail for finding in report.findings if finding.outcome == "fail"}


# --- sound entries


def test_a_sound_entry_passes_every_check(bench: Bench) -> None:
    report = check_file(file_of("eopd"), bench)
    assert failures(report) == {}
    assert list(found(report)) == [
        "schema",
        "coordinates",
        "golden",
        "lab",
        "gradient",
        "padding",
        "micro-batches",
        "two steps",
        "teacher",
        "student",
        "same seed",
    ]
    assert [term["tuples"] for term in report.terms] == [
        [[["logit"], "token", "pg_immediate", "sampled_token"]],
        [[["logit"], "token", "direct", "teacher_topk"]],
    ]


@pytest.mark.parametrize("name", ["grpo", "orpo_distill", "opsd", "distillm"])
def test_every_kind_of_entry_passes(bench: Bench, name: str) -> None:
    assert failures(check_file(file_of(name), bench)) == {}


def test_the_anchor_that_does_nothing_must_not_move(bench: Bench, write: Callable[..., Path]) -> None:
    report = check_file(file_of("no_op"), bench)
    assert failures(report) == {} and "no bit" in report.text()
    pushed = write(shipped("no_op"), **{"fixed_point: none": "fixed_point: none\nupdate: {kind: adamw, weight_decay: 0.1}"})
    assert "moved although every coefficient is 0" in failures(check_file(pushed, bench))["student"]


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_anchors_that_are_not_trained_have_nothing_to_run(bench: Bench, name: str) -> None:
    assert found(check_file(file_of(name), bench)) == {"schema": "pass", "micro pair": "skip"}


def test_a_newcomers_entry_passes_and_runs(tmp_path: Path, write: Callable[..., Path]) -> None:
    comparison, methods = tmp_path / "newcomers.yaml", tmp_path / "methods"
    comparison.write_text(COMPARISON, encoding="utf-8")
    methods.mkdir()
    entry = write(NEWCOMER).rename(methods / "newcomer.yaml")
    checked = CliRunner().invoke(app, ["check", str(entry), "--json"])
    assert checked.exit_code == 0, checked.output
    [report] = json.loads(checked.stdout)
    gradient = next(finding for finding in report["findings"] if finding["check"] == "gradient")
    assert report["ok"] and re.search(r"objective\[1\] (?!0%|100%)\d+%", gradient["detail"]), "the gate lets some tokens through"
    place = ["--registry", str(methods), "--results", str(tmp_path / "results"), "--tables", str(tmp_path / "tables")]
    ran = CliRunner().invoke(app, ["run", str(comparison), *place, "--json"])
    assert ran.exit_code == 0, ran.output
    assert [o["status"] for o in json.loads(ran.stdout)["outcomes"]] == ["success", "success"]


@pytest.mark.skipif(not README.is_file(), reason="only a checkout has the README")
def test_the_entry_in_the_readme_passes(bench: Bench, write: Callable[..., Path]) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    [entry] = [block for block in blocks if "objective:" in block]
    assert failures(check_file(write(entry), bench)) == {}


# --- broken entries


def test_missing_coordinates_are_derived_for_the_author(bench: Bench, write: Callable[..., Path]) -> None:
    file = write(re.sub(r"coordinates: .*?\}\n", "", NEWCOMER, flags=re.DOTALL))
    [finding] = check_file(file, bench).findings
    assert finding.outcome == "fail" and "coordinates are required" in finding.detail
    line = finding.detail.partition("what runs has: ")[2]
    assert "loss_granularity: hybrid, estimator: [pg_discounted, direct], routing: [sampled_token, teacher_topk]}" in line
    file.write_text(f"{file.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    assert load_entry(file).id == "newcomer"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teacher_access: white_box", "teacher_access: black_box", "claimed black_box, but what runs is white_box"),
        ("gamma: 0.9", "gama: 0.9", "did you mean 'gamma'"),
        ("teacher_entropy", "teacher_entrpy", "did you mean 'teacher_entropy'"),
        ("mass: tail_bucket", "with_sampled: true", "leaks mass"),
        ("id: newcomer", "id: someone", "differs from the file's name"),
    ],
)
def test_a_malformed_entry_is_a_finding_with_file_and_line(bench: Bench, tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "newcomer.yaml"
    file.write_text(NEWCOMER.replace(old, new), encoding="utf-8")
    [finding] = check_file(file, bench).findings
    assert finding.check == "schema" and message in finding.detail and f"{file}:" in finding.detail


def test_an_entry_without_signal_fails(bench: Bench, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.probe.BATCHES", 1)
    silent = write(NEWCOMER, **{"credit: {kind: discounted": "gates: [{kind: position, above: 900}], credit: {kind: discounted", "above: 0.2": "above: 90"})
    reasons = failures(check_file(silent, bench))
    assert "no signal" in reasons["gradient"] and "no weight moved" in reasons["student"]


def test_what_the_micro_pair_lacks_is_skipped_with_the_reason(bench: Bench, write: Callable[..., Path]) -> None:
    other = write(NEWCOMER, **{"{kind: external}": "{kind: external, model: judge}"})
    [finding] = [f for f in check_file(other, bench).findings if f.outcome == "skip"]
    assert "'judge' is no teacher of this pair" in finding.detail


def test_blocked_entries_are_loaded_only(bench: Bench, write: Callable[..., Path]) -> None:
    blocked = write(NEWCOMER, **{"fixed_point: teacher": "fixed_point: teacher\nexecutable: false\nblocked_by: a judge that nobody has"})
    assert found(check_file(blocked, bench)) == {"schema": "pass", "coordinates": "pass", "micro pair": "skip"}


def test_several_with_one_bad_exit_with_1_and_name_it(write: Callable[..., Path]) -> None:
    bad = write(NEWCOMER, **{"teacher_access: white_box": "teacher_access: black_box"})
    result = CliRunner().invoke(app, ["check", "student", str(bad)])
    assert result.exit_code == 1 and "1 of 2 failed: newcomer" in result.stderr and "FAIL schema" in result.stdout


def test_all_checks_the_registry_as_a_whole(bench: Bench, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # What these two say of each entry is tested in tests/test_every_entry.py and tests/lab/test_registry.py.
    monkeypatch.setattr("zoo.check._dynamic", lambda *_: [])
    monkeypatch.setattr("zoo.check._lab", lambda *_: [])
    write(shipped("gkd"))
    reports = list(check_all([write(NEWCOMER).parent], bench))
    assert len(reports) == len(list(METHODS.glob("*.yaml"))) + 3
    assert "ids are unique" in failures(reports[-1])["registry"]


# --- a harness broken on purpose


@pytest.fixture
def sft(bench: Bench) -> Callable[[], dict[str, str]]:
    """Checks a plain entry when called; returns what failed."""
    return lambda: failures(check_file(file_of("sft"), bench))


def test_a_mean_over_each_chunk_is_found(sft: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    loss = LikelihoodTerm.token_loss
    monkeypatch.setattr(LikelihoodTerm, "token_loss", lambda self, view, columns: loss(self, view, columns) / len(view.token_N))
    assert "micro-batches" in sft()


def test_a_denominator_that_counts_padding_is_found(sft: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(self: TokenMean, mask_BT: Any, *rest: Any) -> Any:
        return mask_BT.float() / mask_BT.numel()

    monkeypatch.setattr(TokenMean, "scale", scale)
    assert "padding" in sft()


def test_a_loss_that_reads_padding_is_found(sft: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenMean, "scale", lambda self, mask_BT, *rest: mask_BT.float() * 1e-3)
    score = train.score

    def leaking(method: Any, bank: Any, stream: str, rollout: Any, *rest: Any) -> Any:
        bank.pair.student.get_output_embeddings().weight.data *= 1 + 1e-4 * float(rollout.response_BT.sum())
        return score(method, bank, stream, rollout, *rest)

    monkeypatch.setattr(train, "score", leaking)
    assert "other tokens in the padding change the gradient" in sft()["padding"]


def test_a_teacher_that_learns_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = next(bench.pair.teachers["teacher"].parameters())
    before, after_step = weight.detach().clone(), train.Trainer._after_step
    monkeypatch.setattr(train.Trainer, "_after_step", lambda self, method: (weight.data.mul_(1.001), after_step(self, method))[1])
    try:
        assert "weights of teacher changed" in failures(check_file(file_of("gkd"), bench))["teacher"]
    finally:
        weight.data.copy_(before)


def test_a_parameter_without_gradient_is_found(bench: Bench, sft: Callable[[], dict[str, str]]) -> None:
    name, parameter = list(bench.pair.student.named_parameters())[-1]
    parameter.requires_grad_(False)
    try:
        assert name in sft()["gradient"]
    finally:
        parameter.requires_grad_(True)


def test_a_loss_that_is_not_finite_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = DivergenceTerm.token_loss
    monkeypatch.setattr(DivergenceTerm, "token_loss", lambda self, view, columns: loss(self, view, columns) * torch.inf)
    reasons = failures(check_file(file_of("gkd"), bench))
    assert "gradient norm is" in reasons["two steps"] or "gradient norm is" in reasons["gradients"]


def test_an_exception_inside_a_component_is_a_finding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such column")

    monkeypatch.setattr(DivergenceTerm, "token_loss", broken)
    assert failures(check_file(file_of("gkd"), bench))["steps"] == "ValueError: no such column"


def test_a_card_that_disagrees_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = pytest.importorskip("tests.test_golden", reason="only a checkout has the golden references")
    monkeypatch.setitem(tests.REFERENCES, "sft", tests.REFERENCES["gkd"])
    monkeypatch.setattr("zoo.check._dynamic", lambda *_: [Finding("micro pair", "skip", "not now")])
    assert list(failures(check_file(file_of("sft"), bench))) == ["golden"]
