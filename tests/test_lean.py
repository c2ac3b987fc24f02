"""Lean layers give what the plain ones give, states and gradients, wherever they serve; and leave alone what they don't know."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import comparison, llama, read_pair, trainer_of, write_pair
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from zoo import load_registry
from zoo.components.updates import Lora
from zoo.harness.adapters import attach
from zoo.harness.bank import narrow
from zoo.harness.cell import make_trainer
from zoo.harness.comparison import settings_that_matter
from zoo.harness.lean import LeanLayers, fits, plain
from zoo.harness.lean.functions import Gated, Norm, Rotate
from zoo.harness.parallel import Processes
from zoo.harness.recompute import recomputed

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]
IDS_BL = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 0, 0, 0]])


def made(config: Any, kind: Any, **changes: Any) -> Any:
    torch.manual_seed(5)
    return kind(config(**{**SIZES, **changes})).double().eval()


def states_and_gradients(model: Any, layers: LeanLayers | None, ids_BL: Tensor = IDS_BL) -> tuple[Tensor, Tensor]:
    model.zero_grad(set_to_none=True)
    with layers.within(model) if layers else nullcontext():
        states_BLH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    (states_BLH.sin() * torch.arange(1, states_BLH.numel() + 1, device=states_BLH.device).view(states_BLH.shape) / states_BLH.numel()).sum().backward()
    return states_BLH.detach(), torch.cat([p.grad.flatten() for p in model.base_model.layers.parameters()])


def _exact_norm(module: Any, x: Tensor) -> Tensor:
    return module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("config", "kind"), FAMILIES, ids=["llama", "qwen2", "qwen3"])
def test_states_and_gradients_are_those_of_the_plain_layers(config: Any, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(config, kind)
    assert fits(model)
    monkeypatch.setattr(type(model.base_model.norm), "forward", _exact_norm)  # theirs is in fp32 even in a model of fp64
    (plain_BLH, plain_P), (lean_BLH, lean_P) = (states_and_gradients(model, layers) for layers in (None, LeanLayers()))
    torch.testing.assert_close(lean_BLH, plain_BLH, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lean_P, plain_P, rtol=1e-9, atol=1e-10)
    assert all(block._compiled_call_impl is None for block in model.base_model.layers)


def test_padding_changes_nothing_and_the_layers_are_really_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers, turned, rotate = made(*FAMILIES[0]), LeanLayers(), [], plain.rotate

    def counted(*given: Any, **named: Any) -> Tensor:
        turned.append(1)
        return rotate(*given, **named)

    monkeypatch.setattr(plain, "rotate", counted)
    with torch.no_grad(), layers.within(model):
        padded_BLH = model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state
        alone_BLH = model.base_model(input_ids=IDS_BL[1:, :2], use_cache=False).last_hidden_state
    torch.testing.assert_close(padded_BLH[1, :2], alone_BLH[0], rtol=1e-9, atol=1e-9)
    assert len(turned) == 2 * 2 * SIZES["num_hidden_layers"]


def test_with_a_mask_or_a_cache_a_layer_is_its_own() -> None:
    model, mask_BL = made(*FAMILIES[0]), torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    with torch.no_grad():
        wanted = model(input_ids=IDS_BL, attention_mask=mask_BL, use_cache=True)
        with LeanLayers().within(model):
            found = model(input_ids=IDS_BL, attention_mask=mask_BL, use_cache=True)
            further = model(input_ids=IDS_BL[:, :1], attention_mask=torch.cat([mask_BL, mask_BL[:, :1]], 1), past_key_values=found.past_key_values)
    assert torch.equal(found.logits, wanted.logits)
    assert further.logits.shape == (2, 1, SIZES["vocab_size"])


def test_a_hook_on_a_block_is_called_whenever_it_came() -> None:
    model, layers = made(*FAMILIES[0]), LeanLayers()
    with torch.no_grad(), layers.within(model):
        before_BLH = model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state
        hook = model.base_model.layers[1].register_forward_hook(lambda _, given, out: out + 1)
        hooked_BLH = model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state
        hook.remove()
        after_BLH = model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state
    assert torch.equal(after_BLH, before_BLH) and (hooked_BLH - before_BLH).abs().max() > 0.01


@pytest.mark.parametrize("unfit", ["activation", "window", "attention"])
def test_models_that_are_made_otherwise_stay_plain(unfit: str) -> None:
    config, kind = FAMILIES[1 if unfit == "window" else 0]
    changes: dict[str, dict[str, Any]] = {
        "activation": {"hidden_act": "gelu"},
        "window": {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
    }
    model = made(config, kind, **changes.get(unfit, {}))
    if unfit == "attention":
        model.set_attn_implementation("eager")
    assert not fits(model)
    with LeanLayers().within(model):
        assert all(block._compiled_call_impl is None for block in model.base_model.layers)


def test_adapters_learn_through_lean_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(0, 32, False).double().eval()
    monkeypatch.setattr(type(model.base_model.norm), "forward", _exact_norm)
    attach(model, Lora(rank=2, alpha=4.0), "a comparison", 0)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter.data) * 0.1
    found = []
    for layers in (None, LeanLayers()):
        model.zero_grad(set_to_none=True)
        with layers.within(model) if layers else nullcontext():
            model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state.sin().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert found[0].abs().sum() > 0


def test_the_functions_gradients_are_those_of_what_they_compute() -> None:
    torch.manual_seed(2)
    x_NH, gain_H, along_NH = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6), (6,), (4, 6)))
    assert torch.autograd.gradcheck(lambda x, gain: Norm.apply(x, gain, 1e-5, torch.float64), (x_NH, gain_H))
    assert torch.autograd.gradcheck(lambda x, gain: Norm.apply(x, gain, 1e-5, torch.float64)[1], (x_NH, gain_H))
    heads_NUD, angle_RD = torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, dtype=torch.float64).repeat(1, 2)
    assert torch.autograd.gradcheck(lambda x: Rotate.apply(x, angle_RD.cos(), angle_RD.sin(), torch.float64), (heads_NUD,))
    assert torch.autograd.gradcheck(Gated.apply, (x_NH, along_NH))


def test_with_activation_checkpointing_gradients_are_the_same() -> None:
    model, layers = made(*FAMILIES[0]), LeanLayers()
    _, wanted_P = states_and_gradients(model, layers)
    model.zero_grad(set_to_none=True)
    with layers.within(model), recomputed(model, nullcontext):
        states_BLH = model.base_model(input_ids=IDS_BL, use_cache=False).last_hidden_state
    (states_BLH.sin() * torch.arange(1, states_BLH.numel() + 1).view(states_BLH.shape) / states_BLH.numel()).sum().backward()
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in model.base_model.layers.parameters()]), wanted_P)


def test_a_run_on_a_cpu_has_plain_layers_and_the_setting_is_no_part_of_a_cell(tmp_path: Path) -> None:
    assert trainer_of(load_registry()["gkd"], read_pair(write_pair(tmp_path))).bank.lean is None
    assert settings_that_matter(comparison(layers="plain"), "gkd") == settings_that_matter(comparison(), "gkd")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("wide", [True, False], ids=["trained", "narrow"])
def test_on_a_gpu_kernels_compute_what_torch_does(wide: bool) -> None:
    from zoo.harness.lean import kernels

    torch.manual_seed(3)
    kind, own = torch.bfloat16, torch.float32 if wide else torch.bfloat16
    x_NH, along_NH = (torch.randn(700, 896, device="cuda").to(own) for _ in range(2))
    gain_H, grad_NH = torch.rand(896, device="cuda").to(own), torch.randn(700, 896, device="cuda").to(kind)
    scale_N = plain.norm(x_NH, gain_H, 1e-6, kind)[1]
    heads_NUD, angle_RD = torch.randn(700, 14, 64, device="cuda").to(kind), torch.randn(70, 32, device="cuda").repeat(1, 2)
    gate, up, grad = (torch.randn(700, 4864, device="cuda").to(kind) for _ in range(3))
    for found, wanted in (
        (kernels.norm(x_NH, gain_H, 1e-6, kind), plain.norm(x_NH, gain_H, 1e-6, kind)),
        (kernels.norm_backward(x_NH, gain_H, scale_N, grad_NH, None), plain.norm_backward(x_NH, gain_H, scale_N, grad_NH, None)),
        (kernels.norm_backward(x_NH, gain_H, scale_N, grad_NH, along_NH), plain.norm_backward(x_NH, gain_H, scale_N, grad_NH, along_NH)),
        *((
            [kernels.rotate(heads_NUD, angle_RD.cos(), angle_RD.sin(), kind, back=back)],
            [plain.rotate(heads_NUD, angle_RD.cos(), angle_RD.sin(), kind, back=back)],
        ) for back in (False, True)),
        ([kernels.gated(gate, up)], [plain.gated(gate, up)]),
        (kernels.gated_backward(gate, up, grad), plain.gated_backward(gate, up, grad)),
    ):  # fmt: skip
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one.float(), other.float(), rtol=1.6e-2, atol=2e-2)
            assert float((one.float() - other.float()).norm() / other.float().norm()) < 2e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("config", "kind"), FAMILIES, ids=["llama", "qwen2", "qwen3"])
def test_on_a_gpu_lean_layers_are_as_near_to_exact_ones_as_plain_ones(config: Any, kind: Any) -> None:
    model, ids_BL = made(config, kind).float().cuda(), torch.arange(8 * 50, device="cuda").view(8, 50) % 31
    exact_BLH, exact_P = states_and_gradients(model.double(), None, ids_BL)
    model.float()
    apart = []
    for layers in (None, LeanLayers()):
        with narrow():
            states_BLH, gradient_P = states_and_gradients(model, layers, ids_BL)
        apart.append([float((found - wanted).norm() / wanted.norm()) for found, wanted in ((states_BLH, exact_BLH), (gradient_P, exact_P))])
    assert apart[1][0] < 1.3 * apart[0][0] < 0.05 and apart[1][1] < 1.3 * apart[0][1] < 0.1
    found = []
    for layers in (None, LeanLayers()):
        torch.cuda.synchronize()
        rest = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with narrow():
            states_and_gradients(model, layers, ids_BL)
        found.append(torch.cuda.max_memory_allocated() - rest)
    assert found[1] < found[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_is_lean_unless_it_is_asked_to_be_plain(tmp_path: Path) -> None:
    pair = read_pair(write_pair(tmp_path))
    pair.student.cuda()
    for teacher in pair.teachers.values():
        teacher.cuda()
    banks = [make_trainer(load_registry()["gkd"], comparison(**asked), 0, pair, Processes(device=torch.device("cuda"))).bank
             for asked in ({}, {"layers": "plain"}, {"compile": "on"}, {"compile": "on", "layers": "plain"})]  # fmt: skip
    found = [tuple(part is not None for part in (bank.lean, bank.compiled, bank.fused)) for bank in banks]
    assert found == [(True, False, False), (False, False, False), (True, False, True), (False, True, True)]
