"""Activation checkpointing: the gradients of a pass that keeps everything, from one that keeps one state a layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, comparison, made, read_pair, trainer_of
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.errors import ZooError
from zoo.harness.bank import narrow
from zoo.harness.comparison import settings_that_matter
from zoo.harness.fused import CompiledLayers
from zoo.harness.models import LoadedPair
from zoo.harness.recompute import recomputed
from zoo.method import Method

HINTED = {"self": {"kind": "student", "weights": "initial", "context": {"fields": ["solution"], "template": "solution"}}}
ENTRIES: dict[str, dict[str, Any]] = {
    "divergence": {**TEACHER, "objective": [REVERSE_KL]},
    "states of all layers": {"teachers": HINTED, "objective": [{"term": "representation", "layers": "all", "teacher": "self", "reduce": "token_mean"}]},
    "adapter": {**TEACHER, "objective": [REVERSE_KL], "update": {
        "kind": "adamw", "adapter": {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


@contextmanager
def counted(pair: LoadedPair, calls: list[int], kept: list[int]) -> Iterator[None]:
    """The student's passes through its first layer with gradient, and the numbers that autograd keeps by itself."""
    hook = pair.student.base_model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1) if torch.is_grad_enabled() else None)
    own = {p.data_ptr() for p in pair.student.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(0 if tensor.data_ptr() in own else tensor.numel())
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
    finally:
        hook.remove()


def gradients(pair: LoadedPair, entry: dict[str, Any], compiled: CompiledLayers | None = None, **settings: Any) -> tuple[dict[str, torch.Tensor], int, int]:
    """Gradients of one update, how often the first layer ran with gradient for each micro-batch, and how much was kept."""
    calls, kept = list[int](), list[int]()
    trainer = trainer_of(made(rollout={"author": "student"}, **entry), pair, micro_tokens=10_000, **settings)
    trainer.bank.compiled = compiled
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    prepared = method.prepare({name: part.context for name, part in scored.items()})
    with counted(pair, calls, kept):
        trainer.mover.gather(method, scored, prepared)
    found = {name: p.grad.clone() for name, p in pair.student.named_parameters() if p.grad is not None}
    pair.reset_student()
    return found, len(calls), sum(kept)


@pytest.mark.parametrize("name", ENTRIES)
def test_gradients_are_the_same_and_less_is_kept(pair: LoadedPair, name: str) -> None:
    plain, once, much = gradients(pair, ENTRIES[name])
    found, twice, little = gradients(pair, ENTRIES[name], activation_checkpointing=True)
    assert (once, twice) == (1, 2) and little < 0.5 * much
    assert found.keys() == plain.keys() and all(torch.equal(found[key], plain[key]) for key in plain)
    assert max(float(value.abs().max()) for value in plain.values()) > 1e-3
    assert {layer._compiled_call_impl for layer in pair.student.base_model.layers} == {None}


def test_layers_that_are_compiled_stay_so_in_both_passes(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: lambda *args, **kwargs: seen.append(torch.is_grad_enabled()) or call(*args, **kwargs))
    plain, _, _ = gradients(pair, ENTRIES["divergence"])
    found, _, _ = gradients(pair, ENTRIES["divergence"], CompiledLayers(), activation_checkpointing=True)
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    layers = len(pair.student.base_model.layers)
    assert sum(seen) == 3 * layers  # the trial, and the update forward and again


def test_the_second_pass_runs_in_the_precision_of_the_first(pair: LoadedPair) -> None:
    depth: list[str] = []

    @contextmanager
    def precision() -> Iterator[None]:
        depth.append("in")
        try:
            yield
        finally:  # the second pass ends, by an error, as soon as it has what is needed
            depth.append("out")

    with recomputed(pair.student, precision):
        states_BLH = pair.student.base_model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).last_hidden_state
    assert not depth
    states_BLH.sum().backward()
    pair.student.zero_grad(set_to_none=True)
    assert depth == ["in", "out"] * len(pair.student.base_model.layers)


def test_a_model_without_layers_is_refused_and_the_setting_is_no_part_of_a_cell() -> None:
    class Bare:
        base_model = torch.nn.Linear(1, 1)

    with pytest.raises(ZooError, match="Bare has no list of layers to compute again; use activation_checkpointing: false"), recomputed(Bare(), nullcontext):
        pass
    assert settings_that_matter(comparison(activation_checkpointing=True), "gkd") == settings_that_matter(comparison(), "gkd")
    assert "activation_checkpointing" not in comparison().settings.model_dump()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_less_memory_gives_the_same_gradients_under_autocast(compiled: bool) -> None:
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, max_position_embeddings=512)
    model, layers, found, peaks = LlamaForCausalLM(config).cuda().eval(), CompiledLayers(), [], []
    ids_BL = torch.arange(8 * 512, device="cuda").view(8, 512) % 61
    for again in (False, True, False, True):  # the first two make what later ones find
        rest = torch.cuda.memory_allocated()  # what other tests have left is none of ours
        torch.cuda.reset_peak_memory_stats()
        with narrow(), layers.within(model) if compiled else nullcontext(), recomputed(model, narrow) if again else nullcontext():
            states_BLH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        states_BLH.float().sin().sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - rest)
        found.append(torch.cat([p.grad.flatten() for p in model.base_model.layers.parameters()]))
        model.zero_grad(set_to_none=True)
    assert float((found[3] - found[2]).norm() / found[2].norm()) < 0.02 and peaks[3] < 0.7 * peaks[2]
