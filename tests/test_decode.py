"""Sampling, lock-step decoding and the evaluation decoder, on tiny random Llamas."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.components.rollouts.sampling import inverse_cdf, nucleus, sample_from, warp
from zoo.errors import ZooError
from zoo.harness import graphs
from zoo.harness.decode import Stepper, by_length
from zoo.harness.writers import Decoder
from zoo.seeds import seed_for, uniforms

torch.set_num_threads(1)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 3, 4], [9, 9]]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def llama(seed: int = 0, vocabulary: int = 13, **settings: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        **settings,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def generated(model: LlamaForCausalLM, prompt: list[int], new: int, stop: int | None = None) -> list[int]:
    ids = torch.tensor([prompt], device=model.device)
    options = {"do_sample": False, "max_new_tokens": new, "eos_token_id": stop, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def plain_inverse_cdf(logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    cdf_BV = logits_BV.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(cdf_BV, uniform_B[:, None], right=True)[:, 0]


def test_seeds_tell_axes_apart_and_refuse_floats() -> None:
    assert seed_for("a", 1) == seed_for("a", 1)
    assert len({seed_for("a", 1), seed_for("a", "1"), seed_for("a1"), seed_for(1, "a"), seed_for("a", 1, 0)}) == 5
    assert 0 <= seed_for("x") < 2**63
    with pytest.raises(TypeError, match="float"):
        seed_for(0.5)  # type: ignore[arg-type]


def test_uniforms_are_private_prefixes_and_streams_differ() -> None:
    both = uniforms([3, 4], 10)
    assert torch.equal(uniforms([4], 6)[0], both[1, :6])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(uniforms([3], 10, stream=1)[0], both[0])
    assert abs(float(uniforms(range(200), 50).mean()) - 0.5) < 0.01


@pytest.mark.parametrize("vocabulary", [5, 2048, 5000, 151936])
def test_two_level_search_equals_one_cumulative_sum(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits_BV = 3 * torch.randn(12, vocabulary, generator=generator, dtype=torch.float64)
    logits_BV[:, ::3] = float("-inf")
    uniform_B = torch.cat([torch.rand(10, generator=generator, dtype=torch.float64), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)])
    token_B = inverse_cdf(logits_BV, uniform_B)
    assert torch.equal(token_B[:-1], plain_inverse_cdf(logits_BV, uniform_B)[:-1])
    assert torch.isfinite(logits_BV.gather(-1, token_B[:, None])).all()


def test_a_token_without_mass_is_never_drawn() -> None:
    logits_BV = torch.full((3, 3000), float("-inf"))
    logits_BV[:, [700, 2999]] = 0.0
    assert inverse_cdf(logits_BV, torch.tensor([0.0, 0.49, 1 - 1e-16], dtype=torch.float64)).tolist() == [700, 700, 2999]


def test_a_row_is_drawn_alike_alone_and_in_a_batch() -> None:
    logits_BV, uniform_B = torch.randn(64, 4000), torch.rand(64, dtype=torch.float64)
    alone = torch.cat([inverse_cdf(logits_BV[i : i + 1], uniform_B[i : i + 1]) for i in range(64)])
    assert torch.equal(inverse_cdf(logits_BV, uniform_B), alone)


def test_frequencies_and_log_probabilities_of_a_warped_draw() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    uniform_B = torch.rand(40000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = sample_from(logits_V.expand(len(uniform_B), -1), uniform_B, temperature=0.7, top_p=0.9)
    law = (logits_V / 0.7).softmax(-1)
    law[2:] = 0.0  # the first two hold 0.74 + 0.18 > 0.9, the first alone does not
    law = law / law.sum()
    share = torch.bincount(draw.token_B, minlength=5) / len(uniform_B)
    torch.testing.assert_close(share, law, atol=0.01, rtol=0)
    torch.testing.assert_close(draw.behaviour_logp_B, law.log()[draw.token_B])
    torch.testing.assert_close(draw.full_logp_B, logits_V.log_softmax(-1)[draw.token_B])


def test_greedy_draw_and_nucleus_edges() -> None:
    logits_BV = torch.tensor([[0.0, 3.0, 1.0]])
    draw = sample_from(logits_BV, torch.tensor([0.99]), temperature=0.0)
    assert draw.token_B.tolist() == [1] and draw.behaviour_logp_B.item() == 0.0
    assert draw.full_logp_B.item() == pytest.approx(logits_BV.log_softmax(-1)[0, 1].item())
    assert nucleus(logits_BV, 0.0).isfinite().sum() == 1
    assert warp(logits_BV, 0.0, 1.0).softmax(-1).tolist() == [[0.0, 1.0, 0.0]]


def test_greedy_equals_generate() -> None:
    model = llama()
    prompts = [*PROMPTS, [1], [3, 3], [10, 11, 12], [8, 1], [12, 2], [5, 5, 5]]
    answers = Decoder(model, pad_id=0, stop_ids=[2], max_batch=3).generate(prompts, max_new_tokens=24)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = generated(model, prompt, 24, stop=2)
        assert answer.finished == (expected[-1] == 2)
        assert list(answer.ids) == (expected[:-1] if answer.finished else expected)
    assert any(a.finished for a in answers) and not all(a.finished for a in answers)


def test_samples_depend_on_neither_batch_nor_order_nor_padding() -> None:
    model = llama().double()
    seeds = [11, 12, 13, 14]
    options = {"max_new_tokens": 20, "temperature": 1.0}
    together = Decoder(model, pad_id=0, stop_ids=[2]).generate(PROMPTS, seeds=seeds, **options)
    backwards = Decoder(model, pad_id=5, stop_ids=[2], max_batch=2).generate(PROMPTS[::-1], seeds=seeds[::-1], **options)
    alone = [Decoder(model, pad_id=0, stop_ids=[2]).generate([p], seeds=[s], **options)[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    assert together == backwards[::-1] == alone
    assert len({a.ids for a in together}) == len(together)


def test_sampling_without_seeds_and_empty_prompts_are_refused() -> None:
    decoder = Decoder(llama(), pad_id=0, stop_ids=[2])
    with pytest.raises(ZooError, match="one seed for each"):
        decoder.generate(PROMPTS, max_new_tokens=2, temperature=1.0)
    with pytest.raises(ZooError, match="no tokens"):
        decoder.generate([[1], []], max_new_tokens=2)
    with pytest.raises(ZooError, match="20 tokens but the model only 13"):
        Stepper(llama(), pad_id=0, vocab_size=20)


def test_a_padded_vocabulary_is_cut_and_never_drawn() -> None:
    model = llama(vocabulary=16)
    answers = Decoder(model, pad_id=0, stop_ids=[], vocab_size=13).generate(
        PROMPTS * 10, max_new_tokens=30, temperature=3.0, seeds=range(40)
    )
    assert max(token for answer in answers for token in answer.ids) == 12


def test_training_mode_and_dropout_come_back() -> None:
    model = llama(attention_dropout=0.9).train()
    decoder = Decoder(model, pad_id=0, stop_ids=[2])
    first, again = decoder.generate(PROMPTS, max_new_tokens=8), decoder.generate(PROMPTS, max_new_tokens=8)
    assert first == again and model.training and model.model.layers[0].self_attn.training


def test_chunks_keep_long_prompts_together() -> None:
    assert by_length([[1], [1, 2, 3], [1, 2], [1, 2, 3]], 2) == [[1, 3], [2, 0]]


def decode_both(model: LlamaForCausalLM, prompts: list[list[int]], new: int) -> tuple[torch.Tensor, torch.Tensor, Stepper]:
    """Logits (T, B, V) of the growing cache and of fixed shapes, fed with the same tokens."""
    growing, fixed = Stepper(model, pad_id=0, graphs=False), Stepper(model, pad_id=0, graphs=True)
    logits = [(growing.prefill(prompts, new), fixed.prefill(prompts, new).clone())]
    for _ in range(new - 1):
        token_B = logits[-1][0].argmax(-1)
        logits.append((growing.step(token_B), fixed.step(token_B).clone()))
    return torch.stack([a for a, _ in logits]), torch.stack([b for _, b in logits]), fixed


def test_fixed_shapes_equal_the_growing_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return original(*args, **options)  # type: ignore[arg-type]

    original = graphs.grouped_attention
    graphs.AttentionInterface.register(graphs.GROUPED, counted)
    try:
        grown, fixed, stepper = decode_both(llama().double(), PROMPTS, 12)
    finally:
        graphs.AttentionInterface.register(graphs.GROUPED, original)
    torch.testing.assert_close(fixed, grown, atol=1e-10, rtol=0)
    assert stepper.fallback is None and len(calls) == 2 * 11  # layers x steps


def test_a_kept_shape_serves_the_next_call_and_sees_weights_updated_in_place() -> None:
    model = llama()
    stepper = Stepper(model, pad_id=0, graphs=True)
    before = stepper.prefill(PROMPTS, 8).clone()
    stepper.step(torch.tensor([1, 2, 3, 4]))
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    torch.testing.assert_close(stepper.prefill(PROMPTS, 8), 2 * before)
    assert len(stepper._shapes) == 1
    stepper.prefill(PROMPTS, 400)
    assert [shape.length for shape in stepper._shapes] == [128, 512]
    stepper.release()
    assert stepper._shapes == []


def test_a_model_beyond_fixed_shapes_falls_back_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    model = llama()
    model.set_attn_implementation("eager")
    grown, fixed, stepper = decode_both(model, PROMPTS, 6)
    torch.testing.assert_close(fixed, grown)
    assert stepper.fallback is not None and "sdpa" in stepper.fallback and "without CUDA graphs" in caplog.text


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.15)])
def test_graph_decoding_equals_eager_decoding(dtype: torch.dtype, tolerance: float) -> None:
    model = llama().to("cuda", dtype)
    grown, fixed, stepper = decode_both(model, PROMPTS, 200)
    assert stepper.fallback is None and stepper._shapes[0].graph is not None
    torch.testing.assert_close(fixed, grown, atol=tolerance, rtol=0)


@pytest.mark.gpu
@needs_gpu
def test_a_graph_sees_weights_updated_in_place() -> None:
    model, token_B = llama().cuda(), torch.tensor([1, 2, 3, 4], device="cuda")
    graph, eager = Stepper(model, pad_id=0, graphs=True), Stepper(model, pad_id=0, graphs=False)
    graph.prefill(PROMPTS, 50)
    stale_BV = graph.step(token_B).clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    torch.testing.assert_close(graph.prefill(PROMPTS, 50), eager.prefill(PROMPTS, 50), atol=1e-3, rtol=0)
    fresh_BV = graph.step(token_B)
    torch.testing.assert_close(fresh_BV, eager.step(token_B), atol=1e-3, rtol=0)
    assert (fresh_BV - stale_BV).abs().max() > 0.01 and len(graph._shapes) == 1


@pytest.mark.gpu
@needs_gpu
def test_graph_greedy_equals_generate() -> None:
    model = llama().cuda()
    decoder = Decoder(model, pad_id=0, stop_ids=[2])
    answers = decoder.generate(PROMPTS, max_new_tokens=40)
    expected = [generated(model, prompt, 40, stop=2) for prompt in PROMPTS]
    assert decoder.writers.stepper("student").fallback is None
    assert [list(a.ids) for a in answers] == [e[:-1] if e[-1] == 2 else e for e in expected]


@pytest.mark.gpu
@needs_gpu
def test_sampling_on_the_gpu_equals_the_cpu() -> None:
    logits_BV = 3 * torch.randn(32, 151936, generator=torch.Generator().manual_seed(0))
    uniform_B = torch.rand(32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    on_gpu = inverse_cdf(logits_BV.cuda(), uniform_B.cuda()).cpu()
    assert (on_gpu == inverse_cdf(logits_BV, uniform_B)).float().mean() > 0.9  # exp differs in its last bit
