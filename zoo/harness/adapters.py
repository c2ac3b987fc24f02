"""Low-rank modules on a model's linear maps, through peft, and the models of learners."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.components.learners import Model, SoftPrompt, TeacherAdapter
from zoo.components.updates import Lora
from zoo.errors import ZooError, suggest
from zoo.harness.soft_prompts import Prompted
from zoo.seeds import seed_for

if TYPE_CHECKING:
    from zoo.harness.models import LoadedPair


def attach(model: Any, spec: Lora, *axes: str | int) -> None:
    """Put modules on a model in place: its own weights are frozen, theirs are fp32 and trained, the first factor seeded by the axes.

    Raises:
        ZooError: peft is not installed, or no linear map has one of the names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ZooError("an adapter needs peft: pip install 'opd-zoo[peft]', or train all weights") from None
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    targets = [name for name in spec.targets if name in names]
    if not targets:
        raise ZooError(f"adapter targets {', '.join(spec.targets)}: the model has no such linear map{suggest(spec.targets[0], names)}")
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=targets, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("adapter", *axes) % 2**63)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def detach(model: Any) -> bool:
    """Take all modules off again, and say whether there were any; the model's own weights were never changed."""
    found = False
    for name, module in list(model.named_modules()):
        base = getattr(module, "base_layer", None)
        if isinstance(base, torch.nn.Linear):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], base)
            found = True
    return found


@torch.no_grad()
def merged(model: Any, folder: Path, where: str) -> Any:
    """A model with the low-rank modules of a folder (as peft saves them, in safetensors) added into its weights, W + (alpha / rank) B A; peft itself
    is not needed. `where` begins messages.

    Raises:
        ZooError: the modules are missing, are of another kind, or are another model's.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ZooError(f"{where}: no adapter_model.safetensors at {folder}; check the path")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        for name, change in _changes(config, load_file(folder / "adapter_model.safetensors")).items():
            weight = model.get_submodule(name).weight
            if weight.shape != change.shape:
                raise ValueError(f"{name} is {tuple(weight.shape)}, its module {tuple(change.shape)}")
            weight.add_(change.to(weight))
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ZooError(f"{where}: the adapter at {folder} does not fit ({line.rstrip('.:')}); is it another model's?") from None
    return model


def _changes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What plain low-rank modules add to each weight, by the name of its linear map."""
    further = [key for key in ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or further:
        raise ValueError(f"only plain LoRA is merged, and it is {config.get('peft_type')}{' with ' + further[0] if further else ''}")
    first, second = ".lora_A.weight", ".lora_B.weight"
    if stray := [key for key in tensors if not key.endswith((first, second))]:
        raise ValueError(f"it holds {stray[0]}, which is no low-rank factor")
    if unlike := [key for key, value in tensors.items() if key.endswith(first) and len(value) != config["r"]]:
        raise ValueError(f"{unlike[0]} has rank {len(tensors[unlike[0]])}, its configuration {config['r']}")
    scale = float(config["lora_alpha"]) / int(config["r"])
    names = [key.removesuffix(first) for key in tensors if key.endswith(first)]
    return {name.removeprefix("base_model.model."): scale * tensors[name + second].float() @ tensors[name + first].float() for name in names}


def learner_model(spec: Model, pair: LoadedPair, name: str) -> Any:
    """A learner's own copy of one of the pair's models, in fp32 at least; `student` is a branch of the initial student. With a soft prompt it is
    the model itself behind learned embeddings.

    Raises:
        ZooError: the pair has no such model.
    """
    if spec.model == "student":
        return pair.frozen_student().requires_grad_(True)
    if spec.model not in pair.teachers:
        raise ZooError(f"learners.{name}.model '{spec.model}' is no teacher of pair '{pair.spec.id}'{suggest(spec.model, pair.teachers)}")
    source = pair.teachers[spec.model]
    if isinstance(spec, SoftPrompt):
        return Prompted.before(source, pair.tokenizers[spec.model], spec, pair.spec.id, name)
    kind = next(source.parameters()).dtype
    model = copy.deepcopy(source).to(kind if kind == torch.float64 else torch.float32).requires_grad_(True)
    if isinstance(spec, TeacherAdapter):
        attach(model, spec.module, pair.spec.id, name)
    return model
