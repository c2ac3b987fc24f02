"""Pairs that are missing, broken or not what they seem: one clear line that names the model, the place and the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness_kit import REVERSE_KL, TEACHER, comparison, llama, made, registry, write_pair
from safetensors.torch import load_file, save_file

from zoo.components.base import Context
from zoo.errors import ZooError
from zoo.harness.models import load_pair, load_pair_spec
from zoo.harness.plan import Place, make_plan
from zoo.tensors import Prompt


@pytest.fixture
def folder(pair_file: Path, tmp_path: Path) -> Path:
    """A copy of the pair that a test may damage."""
    shutil.copytree(pair_file.parent, tmp_path / "pair")
    spec = yaml.safe_load(pair_file.read_text())
    spec["student"]["path"], spec["teachers"]["teacher"]["path"] = str(tmp_path / "pair" / "student"), str(tmp_path / "pair" / "teacher")
    (tmp_path / "pair" / "tiny.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "pair"


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(folder: Path) -> None:
    torch.save(llama(1, 16, True).state_dict(), folder / "student" / "pytorch_model.bin")
    (folder / "student" / "model.safetensors").unlink()


def without_a_tensor(folder: Path) -> None:
    file = folder / "student" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    file = folder / "student" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "intermediate_size": 8}))


def capped_logits(folder: Path) -> None:
    file = folder / "teacher" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "final_logit_softcapping": 30.0}))


def no_tokenizer(folder: Path) -> None:
    for file in (folder / "teacher").glob("tokenizer*"):
        file.unlink()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated weights": (lambda f: half(f / "student" / "model.safetensors"), "cannot load student from .*; a file is missing, damaged .*: fetch it again"),
    "empty weights": (lambda f: (f / "teacher" / "model.safetensors").write_bytes(b""), "cannot load teacher from .*: fetch it again"),
    "no weights": (lambda f: (f / "teacher" / "model.safetensors").unlink(), "cannot load teacher from .*: fetch it again"),
    "pickled weights": (pickled, r"cannot load student from .*pickled weights \(.bin\) are never loaded: save the model again"),
    "a tensor is missing": (without_a_tensor, "lack 1 tensors, model.layers.1.mlp.up_proj.weight among them.*: fetch it again"),
    "other shapes": (other_shapes, "cannot load student from"),
    "truncated config": (lambda f: half(f / "student" / "config.json"), "cannot load student from .*config.*: fetch it again"),
    "no config": (lambda f: (f / "student" / "config.json").unlink(), r"student is missing at .* \(no config.json\); check the path"),
    "no folder": (lambda f: shutil.rmtree(f / "teacher"), "teacher is missing at .*; check the path"),
    "no tokenizer": (no_tokenizer, "cannot load teacher from .*its tokenizer: .*: fetch it again"),
    "truncated tokenizer": (lambda f: half(f / "student" / "tokenizer.json"), "cannot load student from .*its tokenizer: .*: fetch it again"),
    "logits changed after the head": (capped_logits, r"teacher at .* changes its logits after the head \(final_logit_softcapping\)"),
    "another model's tokenizer": (
        lambda f: llama(1, 16, True, vocabulary=30).save_pretrained(f / "student"),
        "the tokenizer of student at .* has 40 tokens, but the model only 30 logits; is the tokenizer another model's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_pairs_are_refused(name: str, folder: Path) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(ZooError, match=f"pair 'tiny': .*{message}") as refused:
        load_pair(load_pair_spec(folder / "tiny.yaml"))
    assert "\n" not in str(refused.value)


def test_a_plan_names_missing_weights_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    entry = made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL])
    declared = comparison(folder / "tiny.yaml", methods=("made",))
    make_plan(declared, registry(entry), Place(tmp_path))
    with pytest.raises(ZooError, match="--pair-path techer: pair 'tiny' has no such model; did you mean 'teacher'"):
        make_plan(declared, registry(entry), Place(tmp_path, {"techer": folder}))
    (folder / "student" / "model.safetensors").unlink()
    with pytest.raises(ZooError, match=r"pair 'tiny': no weights for student at .*; check the path"):
        make_plan(declared, registry(entry), Place(tmp_path))


def test_unknown_pairs_and_paths(folder: Path) -> None:
    with pytest.raises(ZooError, match="no pair 'mirco'; did you mean 'micro'"):
        load_pair_spec("mirco")
    with pytest.raises(ZooError, match="--pair-path student2: pair 'tiny' has no such model; did you mean 'student'"):
        load_pair(load_pair_spec(folder / "tiny.yaml"), paths={"student2": folder})
    with pytest.raises(ZooError, match=r"student is missing at .*nowhere"):
        load_pair(load_pair_spec(folder / "tiny.yaml"), paths={"student": folder / "nowhere"})
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text() + "vocab: 3\n")
    with pytest.raises(ZooError, match="unknown key 'vocab'"):
        load_pair_spec(folder / "tiny.yaml")


def test_a_local_folder_replaces_a_source(folder: Path, tmp_path: Path) -> None:
    llama(9, 24, True).save_pretrained(tmp_path / "other")
    shutil.copy(folder / "student" / "tokenizer.json", tmp_path / "other")
    shutil.copy(folder / "student" / "tokenizer_config.json", tmp_path / "other")
    pair = load_pair(load_pair_spec(folder / "tiny.yaml"), paths={"student": tmp_path / "other"})
    assert pair.student.config.hidden_size == 24 and torch.equal(pair.student.model.norm.weight, torch.ones(24))


def test_what_a_loaded_pair_says(folder: Path) -> None:
    llama(2, 24, False, vocabulary=48).save_pretrained(folder / "teacher")  # padded logits, as families of models have them
    pair = load_pair(load_pair_spec(folder / "tiny.yaml"))
    assert (pair.vocab_size, pair.stop_ids, pair.pad_id, pair.same_vocabulary) == (40, (1,), 0, True)
    assert all(p.requires_grad for p in pair.student.parameters()) and not any(p.requires_grad for p in pair.teachers["teacher"].parameters())
    prompt = Prompt("p", "+35=", {"solution": "3 8#8"})
    shown = pair.format_prompt(prompt, Context(fields=("solution",), template="solution"))
    assert pair.tokenizer.decode(pair.format_prompt(prompt)) == "+35=" and pair.tokenizer.decode(shown) == "!3 8#8!+35="
    vocabulary = json.loads((folder / "teacher" / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["+"], vocabulary["model"]["vocab"]["@"] = vocabulary["model"]["vocab"]["@"], vocabulary["model"]["vocab"]["+"]
    (folder / "teacher" / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert not load_pair(load_pair_spec(folder / "tiny.yaml")).same_vocabulary


def test_the_student_goes_back_to_its_first_weights(folder: Path) -> None:
    pair = load_pair(load_pair_spec(folder / "tiny.yaml"))
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
            parameter += 1
    frozen = pair.frozen_student()
    student = pair.reset_student()
    for name, value in before.items():
        assert torch.equal(student.state_dict()[name], value) and torch.equal(frozen.state_dict()[name], value)
    assert all(p.grad is None for p in student.parameters()) and not any(p.requires_grad for p in frozen.parameters())


def test_writing_the_pair_again_gives_the_same_weights(pair_file: Path, tmp_path: Path) -> None:
    again = load_file(write_pair(tmp_path).parent / "student" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in load_file(pair_file.parent / "student" / "model.safetensors").items())
