"""The native decoder: its plain operations against the reference engine on a CPU, its kernels against the plain operations on a GPU."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from zoo.components.rollouts import Student
from zoo.components.rollouts.sampling import nucleus
from zoo.harness.decode import Stepper, lock_step
from zoo.harness.native import NativeDecoder, plain, unsupported
from zoo.harness.native.rows import Rows
from zoo.seeds import uniforms

SIZES = {"vocab_size": 61, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"head_dim": 16}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
}
STOP = 7
NORM_ROUNDING = 1e-5  # transformers computes its norms in fp32 whatever the weights are
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11], [12], [13, 14], [3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5], [8, 9, 7, 9], [3, 2, 3, 8, 4]]


def model_of(family: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Any:
    config, model, extra = FAMILIES[family]
    torch.manual_seed(3)
    built = model(config(**SIZES, **extra, max_position_embeddings=1024)).double().eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(6.0)
    return built.to(device, dtype)


def both(model: Any, limit: int, temperature: float, rows: int, top_p: float) -> tuple[Any, Any]:
    uniform_QT = uniforms(list(range(len(PROMPTS))), limit)
    stepper = Stepper(model, pad_id=0, graphs=False)
    expected = lock_step(Student(temperature=temperature, top_p=top_p), {"student": stepper}, PROMPTS, uniform_QT.T[:, None], stop_ids=[STOP])
    native = NativeDecoder(model, pad_id=0, stop_ids=[STOP], rows=rows)
    return expected, native.write(PROMPTS, uniform_QT, temperature=temperature, top_p=top_p)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("temperature", "rows", "top_p"), [(1.0, 256, 1.0), (0.7, 16, 1.0), (0.0, 16, 0.9), (1.0, 4, 1.0), (1.2, 16, 0.8)])
def test_it_writes_what_the_reference_engine_writes(family: str, temperature: float, rows: int, top_p: float) -> None:
    expected, found = both(model_of(family), 40, temperature, rows, top_p)
    count, longest = expected.response_BT.shape
    mask_BT = expected.mask_BT
    assert (found.response_QT[:count, :longest].long() == expected.response_BT)[mask_BT].all()
    assert (found.response_QT[:count, :longest][~mask_BT] == 0).all()
    torch.testing.assert_close(found.student_QT[:count, :longest], expected.student_logp_BT, atol=NORM_ROUNDING, rtol=0)
    torch.testing.assert_close(found.behaviour_QT[:count, :longest], expected.behaviour_logp_BT, atol=NORM_ROUNDING, rtol=0)
    assert (found.finished_Q[:count].bool() == expected.finished_B).all()
    assert 0 < int(expected.finished_B.sum()) < count or temperature == 0.0


def test_fused_layers_remain_the_models_own() -> None:
    model = model_of("qwen2")
    native = NativeDecoder(model, pad_id=0, stop_ids=[STOP])
    before = native.weights.layers[0].qkv.clone()
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.add_(1.0)
    changed = (native.weights.layers[0].qkv != before).any(1)
    assert changed.tolist() == [False] * 64 + [True] * 32 + [False] * 32
    again = NativeDecoder(model, pad_id=0, stop_ids=[STOP]).weights.layers[0]
    assert again.qkv.data_ptr() == native.weights.layers[0].qkv.data_ptr() and torch.equal(again.qkv, native.weights.layers[0].qkv)
    assert again.qkv_bias is not None and torch.equal(again.qkv_bias, native.weights.layers[0].qkv_bias)


def test_what_it_cannot_run_is_refused_with_the_reason() -> None:
    model = model_of("llama")
    assert unsupported(model) is None
    model.config.hidden_act = "gelu"
    assert "gelu" in str(unsupported(model))


def test_on_an_older_gpu_the_kernels_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(device=torch.device("cuda"), config=SimpleNamespace(model_type="gemma"))
    for found, reason in (((8, 0), "compute capability 9.0"), ((9, 0), "gemma")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=found: found)
        assert reason in str(unsupported(there))


def rows_of(count: int, dtype: torch.dtype, device: str) -> Rows:
    """Rows that are alive, each with a request of its own for one token."""
    rows = Rows.idle(count, count, 1, 0, torch.device(device), dtype)
    rows.alive_R.fill_(1)
    rows.request_R.copy_(torch.arange(count))
    return rows


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (0.0, 1.0), (1.0, 0.8), (1.3, 0.5)])
def test_kernels_write_what_the_plain_operations_write(family: str, temperature: float, top_p: float) -> None:
    """fp32 without TF32 on the GPU against fp64 on the CPU: tokens of all rows but those that a rounding can turn."""
    uniform_QT, law = uniforms(list(range(len(PROMPTS))), 60), {"temperature": temperature, "top_p": top_p}
    expected = NativeDecoder(model_of(family), pad_id=0, stop_ids=[STOP], rows=16).write(PROMPTS, uniform_QT, **law)
    native = NativeDecoder(model_of(family, torch.float32, "cuda"), pad_id=0, stop_ids=[STOP], rows=16)
    for _ in range(2):  # the second time through kept buffers and graphs
        found = native.write(PROMPTS, uniform_QT, **law)
        count = len(PROMPTS)
        same_Q = (found.response_QT[:count].cpu() == expected.response_QT[:count]).all(1)
        assert same_Q.float().mean() > 0.8
        for name in ("student_QT", "behaviour_QT"):
            torch.testing.assert_close(getattr(found, name)[:count].cpu()[same_Q].double(), getattr(expected, name)[:count][same_Q], atol=2e-3, rtol=0)
        assert (found.finished_Q[:count].cpu() == expected.finished_Q[:count])[same_Q].all()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("vocabulary", [200, 49152])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_the_nucleus_is_the_reference_ones_token_by_token(vocabulary: int, ties: bool, top_p: float) -> None:
    """Many uniforms on one law. Among tokens as probable as the last one the smaller ids are in."""
    from zoo.harness.native.kernels import draw

    count = 4096
    logits_V = 3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(5))
    logits_RV = (logits_V.round() if ties else logits_V).expand(count, -1).contiguous()
    uniform_R1, stop_S = ((torch.arange(count) + 0.5) / count)[:, None], torch.tensor([-1], dtype=torch.int32)
    found, expected = rows_of(count, torch.float32, "cuda"), rows_of(count, torch.float64, "cpu")
    law: dict[str, Any] = {"temperature": 1.1, "top_p": top_p, "limit": 1}
    draw(logits_RV.cuda(), found, uniform_R1.cuda(), stop_S.cuda(), **law)
    plain.draw(logits_RV.double(), expected, uniform_R1.double(), stop_S, **law)
    same_R = found.response_QT[:, 0].cpu() == expected.response_QT[:, 0]
    assert same_R.float().mean() > 0.99, "but where a uniform lies between two tokens"
    torch.testing.assert_close(found.behaviour_QT.cpu().double()[same_R], expected.behaviour_QT[same_R], atol=1e-4, rtol=0)
    inside_V = nucleus(logits_RV[:1].double() / 1.1, top_p)[0]
    assert (inside_V[found.response_QT[:, 0].long().cpu()] > float("-inf")).float().mean() > 0.999


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str) -> None:
    """Up to each answer's first near-tie (two best tokens within 0.001 nat), where rounding decides."""
    model = model_of(family, torch.float32, "cuda")
    uniform_QT = torch.zeros(len(PROMPTS), 60, dtype=torch.float64)
    found = NativeDecoder(model, pad_id=0, stop_ids=[-1], rows=16).write(PROMPTS, uniform_QT, temperature=0.0)
    agreed = 0
    for q, prompt in enumerate(PROMPTS):
        output = model.generate(
            torch.tensor([prompt], device="cuda"), max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        top_T2 = torch.stack(output.logits)[:, 0].topk(2).values
        tied_T = ((top_T2[:, 0] - top_T2[:, 1]) < 1e-3).nonzero()[:, 0].tolist()
        safe = min([*tied_T, 60])
        assert found.response_QT[q, :safe].tolist() == output.sequences[0, len(prompt) : len(prompt) + safe].tolist()
        agreed += safe
    assert agreed > 300


@pytest.mark.gpu
@needs_gpu
def test_weights_updated_in_place_are_seen_by_the_graphs() -> None:
    model = model_of("llama", torch.float32, "cuda")
    native = NativeDecoder(model, pad_id=0, stop_ids=[STOP], rows=16)
    uniform_QT = uniforms(list(range(len(PROMPTS))), 60)
    before = native.write(PROMPTS, uniform_QT, temperature=1.0).response_QT.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    after = native.write(PROMPTS, uniform_QT, temperature=1.0).response_QT.clone()
    fresh = NativeDecoder(model, pad_id=0, stop_ids=[STOP], rows=16).write(PROMPTS, uniform_QT, temperature=1.0).response_QT
    assert (after != before).any() and (after == fresh).float().mean() > 0.95


def test_a_narrow_copy_reads_its_masters_embedding_and_norms() -> None:
    """As autocast does: log-probabilities are nearer to the training forward than with rounded ones, and steps of the master are seen."""
    master = model_of("llama", torch.float32)
    narrow = copy.deepcopy(master).bfloat16()
    own, shared = (NativeDecoder(copy.deepcopy(narrow), pad_id=0, stop_ids=[-1], rows=16, master=m) for m in (None, master))
    assert shared.weights.embedding.data_ptr() == master.get_input_embeddings().weight.data_ptr()
    assert shared.weights.final_norm.dtype == torch.float32 and shared.weights.kind == torch.bfloat16 == own.weights.final_norm.dtype
    uniform_QT = uniforms(list(range(len(PROMPTS))), 30)
    far = {}
    for name, native in (("own", own), ("shared", shared)):
        rows, gaps = native.write(PROMPTS, uniform_QT, temperature=1.0), []
        for q, prompt in enumerate(PROMPTS):
            ids = torch.tensor([prompt + rows.response_QT[q].tolist()])
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = master.model(ids).last_hidden_state[0, len(prompt) - 1 : -1]
            logits = hidden.bfloat16().float() @ narrow.get_output_embeddings().weight.float().T
            logp = logits.log_softmax(-1).gather(1, rows.response_QT[q, :, None].long())[:, 0]
            gaps.append((logp - rows.student_QT[q]).abs())
        far[name] = float(torch.cat(gaps).detach().mean())
    assert far["shared"] < 0.8 * far["own"]
