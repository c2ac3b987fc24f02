"""Set-ups as data: what is refused and in which words, how arms share what they have in common, and that the shipped ones load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.errors import ZooError
from zoo.failures import load_catalogue
from zoo.harness.doctor_task import DoctoredTask, Swapped, TaskChanges
from zoo.provoke import load_healthy, load_provocation, load_provocations
from zoo.provoke.running import Cell, cells_of
from zoo.provoke.setups import merged
from zoo.tasks.micro import MicroTask, add_prompt

KL = {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "reduce": "token_mean"}
METHOD = {"teachers": {"teacher": {"kind": "external"}}, "objective": [KL]}
PLAIN = {
    "id": "FM07",
    "about": "about",
    "common": {"method": METHOD, "tokens": 500},
    "provocation": {"summary": "one", "doctor": {"models": {"teacher": {"changes": [{"kind": "temperature", "at": 0.5}]}}}},
    "control": {"summary": "two"},
}


def written(folder: Path, data: dict[str, Any], name: str = "FM07") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def test_arms_share_what_is_common(tmp_path: Path) -> None:
    found = load_provocation(written(tmp_path, PLAIN))
    assert found.provocation.tokens == found.control.tokens == 500
    assert found.provocation.method == found.control.method
    assert len(found.provocation.doctor.models["teacher"].changes) == 1 and not found.control.doctor.models
    assert found.arm("control").entry("fm07-control").id == "fm07_control"


def test_merging_goes_into_mappings_and_replaces_lists() -> None:
    assert merged({"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}, "c": 2}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": {"summary": "one", "doctor": PLAIN["provocation"]["doctor"]}}, "provocation and control are the same"),  # type: ignore[index]
        ({"provocation": {"summary": "one", "settings": {"learning_rat": 1}}}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"provocation": {"summary": "one", "doctor": {"models": {"teacher": {"changes": [{"kind": "tempreature", "at": 1.0}]}}}}}, "tempreature"),
        ({"provocation": {"summary": "one", "probes": ["stop"]}}, "stop"),
        ({"provocation": {"summary": "one", "sizes": {"prompt": 3}}}, "probes have no such size"),
        ({"provocation": {"summary": "one", "doctor": {"task": {"lengths": {"0": 1.0}}}}}, "'0' is no length of a list"),
        ({"provocation": {"summary": "one", "doctor": {"task": {"reads": [["(", ""]]}}}}, "is no regular expression"),
        ({"provocation": {"summary": "one", "refused": "for fun"}}, "no rule refuses this method"),
        ({"id": "FM08"}, "is 'FM08', but the file is named FM07.yaml"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ZooError, match=said.replace("(", r"\(")):
        load_provocation(written(tmp_path, {**PLAIN, **change}))


def test_a_refused_method_needs_a_reason(tmp_path: Path) -> None:
    null = {"term": "policy_gradient", "reward": {"kind": "state_divergence"}, "credit": "immediate", "routing": "sampled", "reduce": "token_mean"}
    data = {**PLAIN, "provocation": {"summary": "one", "method": {"objective": [null]}}}
    with pytest.raises(ZooError, match="or say under `refused`"):
        load_provocation(written(tmp_path, data))
    load_provocation(written(tmp_path, {**data, "provocation": {**data["provocation"], "refused": "it is the failure"}}))  # type: ignore[dict-item]


def test_a_registry_method_with_changes(tmp_path: Path) -> None:
    data = {**PLAIN, "common": {"method": {"of": "gkd"}}, "provocation": {"summary": "one", "method": {"objective": [KL]}}}
    entry = load_provocation(written(tmp_path, data)).provocation.entry("fm07-provocation")
    assert entry.objective[0].divergence.kind == "reverse_kl"  # type: ignore[attr-defined]
    assert "mixture" in {stream.author for stream in entry.rollouts.values()} or entry.rollouts["main"].author


def test_every_failure_mode_has_its_set_up() -> None:
    found = load_provocations()
    assert set(found) == {f"FM{number:02d}" for number in range(1, 30)}
    assert set(load_catalogue()) <= set(found)
    for mode, provocation in found.items():
        assert provocation.about and provocation.provocation.summary != provocation.control.summary, mode
        assert provocation.provocation.settings.get("diagnose_every", 2) == provocation.control.settings.get("diagnose_every", 2), mode


def test_the_healthy_runs_are_ten_entries_of_the_registry() -> None:
    healthy = load_healthy()
    assert len(set(healthy.methods)) == 10
    for method in healthy.methods:
        healthy.arm(method).entry(f"healthy-{method}")


def test_cells() -> None:
    assert cells_of(["FM07"], [0, 1]) == [Cell("FM07", arm, seed) for arm in ("provocation", "control") for seed in (0, 1)]
    assert len(cells_of([], [0])) == 29 * 2 + 10
    assert Cell("healthy", "opd_plus", 3).name == "healthy-opd-plus"


def test_a_task_with_other_lengths() -> None:
    task = DoctoredTask(MicroTask(), TaskChanges(lengths={"1": 0.9, "20": 0.1}, splits=("train",)))
    sizes = [len(prompt.fields["content"]) for prompt in task.prompts("train")]
    assert set(sizes) == {1, 20} and 0.87 < sizes.count(1) / len(sizes) < 0.93
    assert task.prompts("valid") == MicroTask().prompts("valid")
    assert task.checks == MicroTask.checks


def test_a_task_that_reads_answers_otherwise() -> None:
    prompt = add_prompt("3572")
    plain, reads = MicroTask(), DoctoredTask(MicroTask(), TaskChanges(reads=(("[pq]", " "), (r"\?[0-9]+", ""))))
    assert plain.verify("exact", "3p8q15 17?17#17", prompt) == 0.0
    assert reads.verify("exact", "3p8q15 17?17#17", prompt) == 1.0
    strict = DoctoredTask(MicroTask(), TaskChanges(checks={"answer": "exact"}))
    assert plain.verify("answer", "3 8 16 17#17", prompt) == 1.0 and strict.verify("answer", "3 8 16 17#17", prompt) == 0.0


def test_part_of_the_answers_is_written_otherwise() -> None:
    swap = Swapped(old="#", new="=", share=0.1)
    texts = [f"{a} {a + b}#{a + b}" for a in range(60) for b in range(40)]
    changed = [swap(text) for text in texts]
    share = sum(a != b for a, b in zip(texts, changed, strict=True)) / len(texts)
    assert 0.07 < share < 0.13 and swap(texts[0]) == swap(texts[0])
    assert all("#" not in now for text, now in zip(texts, changed, strict=True) if now != text)
