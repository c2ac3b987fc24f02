"""Models split over the processes (FSDP2): each holds its part of every layer's weights, gradients and optimizer state, and gathers one layer at a time.

Embeddings, the last norm and the head stay whole on every process: the head runs on chunks of tokens, of which each process has another number.
A sharded model runs in step: all processes pass through it equally often (`InStep`). What decodes is a whole copy, gathered before each rollout.
Losses carry global denominators, so gradients are summed, as they are without sharding (`zoo.harness.parallel`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.components.rollouts import Corpus, Dataset, Mixture, Student
from zoo.components.teachers import Composite, External, Labels, SelfTeacher
from zoo.components.updates import AdamW
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.parallel import Processes, is_split
from zoo.statistics import Explored

if TYPE_CHECKING:
    from zoo.harness.comparison import Comparison

SKELETON = "zoo_skeleton"  # the attribute by which a sharded model is known: a tuple of its unsharded modules, without weights


def wanted(comparison: Comparison, processes: Processes) -> bool:
    """Whether models are to be sharded: `sharding: fsdp2` in the settings, or `accelerate launch --use_fsdp --fsdp_version 2`. Never in one process.

    Raises:
        ZooError: the launcher asked for the first FSDP.
    """
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if launched and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ZooError("accelerate launch --use_fsdp means FSDP1 here, which is not supported; add --fsdp_version 2")
    return processes.count > 1 and (launched or comparison.settings.sharding == "fsdp2")


def shard(model: Any, processes: Processes) -> Any:
    """Split a model's layers in place; a layer moves to the device as it is split, so that no device ever holds the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    backbone, bones = model.base_model, skeleton(model)
    if not isinstance(getattr(backbone, "layers", None), nn.ModuleList):
        raise ZooError(f"{type(model).__name__} has no list of layers to shard; use sharding: none")
    layered = {id(p) for p in backbone.layers.parameters()}
    outer = {p for p in backbone.parameters() if id(p) not in layered}
    for layer in backbone.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(backbone, mesh=mesh, ignored_params=outer)
    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # a plain sum: gloo knows no other, and nothing is to be divided
    for tensor in (*(p for p in model.parameters() if not is_split(p)), *model.buffers()):
        tensor.data = tensor.data.to(processes.device)
    object.__setattr__(model, SKELETON, (bones,))
    return model


def skeleton(model: Any) -> Any:
    """The modules of an unsharded model without their weights; buffers and ties are kept."""
    empty = {id(p): nn.Parameter(torch.empty(0, dtype=p.dtype), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, dict(empty))


def is_sharded(model: Any) -> bool:
    """Whether a model is split over processes."""
    return hasattr(model, SKELETON)


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of a split one, gathered by all processes."""
    return tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor as `reference` is kept: this process's part of it, if that is split. Nothing is exchanged."""
    if not is_split(reference) or is_split(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    spec: Any = reference
    return distribute_tensor(value.to(reference.device), spec.device_mesh, spec.placements, src_data_rank=None)


def all_like(values: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each whole tensor as its namesake is kept."""
    return {name: like(value, references[name]) if name in references else value for name, value in values.items()}


def gathered(values: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Each tensor in one piece on the CPU, for one process; the others help and `keep` nothing."""
    found = {}
    for name, value in values.items():
        one = whole(value.detach()) if isinstance(value, Tensor) else value
        if keep:
            found[name] = one.to("cpu") if is_split(value) else one
    return found


@torch.no_grad()
def whole_copy(model: Any, dtype: torch.dtype | None) -> Any:
    """The model in one piece on every process, on its device; of another type if one is given. Gathered by all processes."""
    made = copy.deepcopy(getattr(model, SKELETON)[0])
    for empty, part in zip(made.parameters(), model.parameters(), strict=True):
        empty.data = whole(part.detach()).to(dtype or part.dtype, copy=True)
    for buffer, live in zip(made.buffers(), model.buffers(), strict=True):
        buffer.data = live.clone()
    return made.requires_grad_(False)


@torch.no_grad()
def sharded_copy(model: Any, weights: Mapping[str, Tensor], processes: Processes, dtype: torch.dtype | None) -> Any:
    """A frozen copy that is sharded as well, with these weights."""
    made = copy.deepcopy(getattr(model, SKELETON)[0])
    for empty, part in zip(made.parameters(), model.parameters(), strict=True):
        empty.data = torch.empty(part.shape, dtype=dtype or part.dtype)
    made = shard(made, processes).requires_grad_(False).eval()
    made.load_state_dict({name: value.to(dtype) if dtype else value for name, value in weights.items()}, strict=False)
    return made


@torch.no_grad()
def clip(parameters: list[nn.Parameter], limit: float, processes: Processes) -> Tensor:
    """Clip gradients by their common norm, split and whole ones alike; returns it."""
    if not any(map(is_split, parameters)):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    square = torch.zeros((), dtype=parameters[0].dtype, device=processes.device)
    for split in (True, False):
        mine = [_local(p.grad) for p in parameters if p.grad is not None and is_split(p) == split]
        parts = [grad.to(torch.promote_types(grad.dtype, torch.float32)).square().sum() for grad in mine]
        found = torch.stack(parts).sum() if parts else torch.zeros_like(square)
        square = square + (processes.total(found) if split else found)
    norm = square.sqrt()
    for p in parameters:
        if p.grad is not None:
            _local(p.grad).mul_((limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


@dataclass(frozen=True)
class InStep:
    """Lets all processes pass through a sharded model equally often: one that has fewer micro-batches makes up for it with passes that say nothing."""

    processes: Processes

    def level(self, model: Any, groups: Sequence[list[int]], learns: bool) -> Iterator[list[int]]:
        """This process's micro-batches, each to be passed through the model, with gradient if it `learns`; the passes that it has fewer than others
        follow the last one."""
        missing = self.processes.largest(len(groups)) - len(groups) if is_sharded(model) else 0
        yield from groups
        for _ in range(missing):
            token_11 = torch.zeros(1, 1, dtype=torch.long, device=self.processes.device)
            states = model.base_model(input_ids=token_11, use_cache=False).last_hidden_state
            if learns:
                states.backward(torch.zeros_like(states))


def servable(entry: MethodEntry, comparison: Comparison) -> Comparison:
    """The comparison as sharded models can serve it: without the looks into a run that single processes take by themselves.

    Raises:
        ZooError: the method needs more of its models than scoring, a student that writes, and plain steps.
    """
    found = next(_obstacles(entry), None)
    if found is not None:
        raise ZooError(f"method '{entry.id}' cannot run with sharding: fsdp2: {found}; use sharding: none")
    return comparison.model_copy(update={"settings": comparison.settings.model_copy(update={"diagnose_every": 0, "leakage_every": 0})})


def _obstacles(entry: MethodEntry) -> Iterator[str]:
    update = entry.update
    if not isinstance(update, AdamW) or any(getattr(update, name, None) is not None for name in ("step", "anchor", "adapter")):
        yield "its update is more than AdamW on all weights"
    if entry.learners:
        yield f"it trains '{next(iter(entry.learners))}' beside the student"
    for name, stream in entry.rollouts.items():
        if not isinstance(stream, Student | Dataset | Corpus | Mixture) or not {"student"}.issuperset(stream.reads):
            yield f"its stream '{name}' is not the student's own or given text"
    for name, teacher in entry.teachers.items():
        known = type(teacher) is External or isinstance(teacher, Composite | Labels)
        if not known and not (isinstance(teacher, SelfTeacher) and teacher.weights.kind in ("live", "initial")):  # type: ignore[attr-defined]
            yield f"its teacher '{name}' has weights that move by a rule of their own, or is asked over a network"
    if any(isinstance(statistic, Explored) for term in entry.objective for stream in term.streams() for statistic in _read(entry, stream)):
        yield "it lets models write on behind the answers"


def _read(entry: MethodEntry, stream: str) -> list[Any]:
    from zoo.method import Method

    return list(Method(entry).statistics(stream))
