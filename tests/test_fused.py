"""Compiled parts of a step: they give what the separate steps give, and leave alone what they do not cover."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, comparison, made, read_pair, trainer_of
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.harness.bank import Bank, narrow
from zoo.harness.comparison import settings_that_matter
from zoo.harness.compiling import COMPILE_FROM, faster_where_it_pays, pays
from zoo.harness.fused import MOST, CompiledLayers, Fused
from zoo.harness.layers import Layers
from zoo.harness.models import LoadedPair
from zoo.method import Method

KINDS: dict[str, Any] = {
    "reverse": {"divergence": "reverse_kl"},
    "forward, warm": {"divergence": "forward_kl", "temperature": 2.0, "rescale": True},
    "mixture": {"divergence": {"kind": "generalized_jsd", "beta": 0.3}},
    "clipped tokens": {"divergence": "reverse_kl", "shaping": [{"kind": "clip", "at": 0.2}]},
}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


def gradients(pair: LoadedPair, term: dict[str, Any], fused: Fused | None, compiled: CompiledLayers | None = None) -> tuple[dict[str, torch.Tensor], float]:
    trainer = trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[{**REVERSE_KL, **term}]), pair)
    trainer.bank.fused, trainer.bank.compiled = fused, compiled
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    prepared = method.prepare({name: part.context for name, part in scored.items()})
    [loss] = trainer.mover.gather(method, scored, prepared).values()
    found = {name: p.grad.clone() for name, p in pair.student.named_parameters()}
    pair.student.zero_grad(set_to_none=True)
    return found, float(loss)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled, by a compiler that changes nothing."""
    seen: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda call: seen.append(call) or call)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_the_separate_steps(pair: LoadedPair, counted: list[Any], kind: str) -> None:
    plain, loss = gradients(pair, KINDS[kind], None)
    assert not counted
    fused, same = gradients(pair, KINDS[kind], Fused())
    assert len(counted) == 1 and same == pytest.approx(loss, rel=1e-6) and loss > 1e-3
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-5, atol=1e-7)


def test_what_needs_its_entries_is_left_to_the_separate_steps(pair: LoadedPair, counted: list[Any]) -> None:
    for term in (
        {"support": {"kind": "teacher_topk", "k": 4, "mass": {"kind": "renormalise", "side": "both"}}},
        {"shaping": [{"kind": "clip", "at": 0.2, "where": "entry"}]},
    ):
        gradients(pair, term, Fused())
    assert not counted


def test_a_failure_to_compile_is_survived_and_numbers_that_move_are_not_compiled_for_ever(
    pair: LoadedPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(call: Any) -> Any:
        raise_ = RuntimeError("no compiler here\nat all")
        return lambda *_: (_ for _ in ()).throw(raise_)

    monkeypatch.setattr(torch, "compile", broken)
    fused = Fused()
    plain, _ = gradients(pair, {}, None)
    left, _ = gradients(pair, {}, fused)
    assert all(torch.equal(plain[name], left[name]) for name in plain)
    assert [r.message for r in caplog.records if "step by step" in r.message] == ["ReverseKL is computed step by step, slower: no compiler here"]
    monkeypatch.setattr(torch, "compile", lambda call: call)
    fused, z_NV = Fused(), torch.zeros(2, 5)
    entry = made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL])
    divergence: Any = entry.objective[0].divergence
    answers = [fused(divergence, z_NV, z_NV, 1.0 + step) for step in range(MOST + 2)]
    assert [answer is None for answer in answers] == [False] * MOST + [True] * 2


@pytest.mark.slow
def test_compiled_layers_and_losses_change_rounding_alone(pair: LoadedPair) -> None:
    plain, loss = gradients(pair, {}, None)
    fused, same = gradients(pair, {}, Fused(), CompiledLayers())
    assert same == pytest.approx(loss, rel=1e-5)
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-3, atol=1e-6)


def calls_of(pair: LoadedPair) -> list[Any]:
    return [layer._compiled_call_impl for model in (pair.student, *pair.teachers.values()) for layer in model.base_model.layers]


def test_layers_are_compiled_for_scores_and_updates_and_plain_for_decoders(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: lambda *args, **kwargs: seen.append(call) or call(*args, **kwargs))
    plain, loss = gradients(pair, {}, None)
    assert not seen
    same, again = gradients(pair, {}, None, CompiledLayers())
    assert again == loss and all(torch.equal(plain[name], same[name]) for name in plain)
    assert len(set(seen)) == len(calls_of(pair)) and set(calls_of(pair)) == {None}


def test_a_batch_of_one_row_goes_through_the_plain_layers(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: lambda states, *args, **kwargs: rows.append(len(states)) or call(states, *args, **kwargs))
    compiled, ids_BL = CompiledLayers(), torch.tensor([[1, 2, 3], [3, 2, 1]])
    with compiled.within(pair.student), torch.no_grad():
        rows.clear()
        alone = pair.student.base_model(input_ids=ids_BL[:1], use_cache=False).last_hidden_state
        assert not rows
        both = pair.student.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    assert set(rows) == {2} and len(rows) == len(pair.student.base_model.layers)
    torch.testing.assert_close(both[:1], alone)


def test_layers_that_do_not_compile_stay_plain_and_waiting_gradients_stay(
    pair: LoadedPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(call: Any, dynamic: bool) -> Any:
        def fails(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no compiler here\nat all")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    waiting = next(pair.student.parameters())
    waiting.grad = torch.ones_like(waiting)
    compiled = CompiledLayers()
    for _ in range(2):
        with compiled.within(pair.student):
            pair.student(input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert waiting.grad is not None and bool((waiting.grad == 1).all())
    pair.student.zero_grad(set_to_none=True)
    assert [r.message for r in caplog.records if "not compiled" in r.message] == ["the layers of LlamaForCausalLM are not compiled, slower: no compiler here"]


def test_a_long_run_on_a_gpu_is_compiled_a_short_one_and_one_on_a_cpu_are_not() -> None:
    long, short = comparison(budget={"amount": COMPILE_FROM}), comparison(budget={"amount": COMPILE_FROM - 1})
    assert [pays(one, device) for one in (long, short) for device in ("cuda", "cpu")] == [True, False, False, False]
    assert pays(comparison(compile="on"), "cpu") and not pays(comparison(compile="off", budget={"amount": COMPILE_FROM}), "cuda")
    assert settings_that_matter(comparison(compile="on"), "gkd") == settings_that_matter(comparison(), "gkd")
    assert "compile" not in comparison().settings.model_dump()


def test_what_reaches_into_layers_keeps_them_plain(pair: LoadedPair) -> None:
    def bank_of(**changes: Any) -> Bank:
        return trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL], **changes), pair, compile="on").bank

    assert bank_of().compiled is not None and bank_of().fused is not None
    inner = bank_of()
    inner.compiled, inner.layers = None, Layers(2, (1,), {"student": (1,)})
    faster_where_it_pays(made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL]), comparison(compile="on"), inner)
    assert inner.compiled is None


@pytest.mark.filterwarnings("ignore:.*Disabling autocast")
def test_cudnn_stays_out_of_training_and_is_left_to_others() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with narrow():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_compiled_layers_change_rounding_alone() -> None:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64, hidden_size=192, intermediate_size=320, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=128
    )
    model, compiled, found = LlamaForCausalLM(config).cuda().eval(), CompiledLayers(), []
    for batch in ((4, 40), (7, 96), (4, 40), (7, 96)):
        ids_BL = torch.arange(batch[0] * batch[1], device="cuda").view(batch) % 61
        with narrow(), compiled.within(model) if len(found) >= 2 else nullcontext():
            assert (model.base_model.layers[0]._compiled_call_impl is not None) == (len(found) >= 2)
            states_BLH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        states_BLH.float().sin().sum().backward()
        found.append((states_BLH.detach().float(), torch.cat([p.grad.flatten() for p in model.base_model.layers.parameters()])))
        model.zero_grad(set_to_none=True)
    for plain, fast in zip(found[:2], found[2:], strict=True):
        assert all(float((a - b).norm() / a.norm()) < 0.05 for a, b in zip(plain, fast, strict=True))
