"""vLLM as the student's writer: what is asked of it and in what order, by a module in its place; and the real one where there is a GPU."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_vllm
import numpy as np
import pytest
import torch
from fake_vllm import LLM
from harness_kit import REVERSE_KL, TEACHER, comparison, llama, made, read_pair, trainer_of
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.components.rollouts import Student
from zoo.components.rollouts.decoded import Teacher
from zoo.errors import ZooError
from zoo.harness.comparison import settings_that_matter
from zoo.harness.vllm import VllmDecoder, VllmOptions, engine, options_for, seeds_of, serves, unsupported
from zoo.harness.vllm.decoder import columns
from zoo.harness.writers import Decoder, Writers
from zoo.method import Method
from zoo.seeds import uniforms
from zoo.tensors import Author

PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9, 10], [3, 3]]
STOP, LIMIT = 1, 12


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """vLLM's place taken, on a CPU, with no engine running."""
    module = ModuleType("vllm")
    module.__version__, module.LLM, module.SamplingParams = "0.24.1", LLM, fake_vllm.SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in engine.SURROUNDINGS:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OPD_ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(engine, "_running", None)
    monkeypatch.setattr(engine, "_key", None)
    monkeypatch.setattr(engine, "unfit", lambda device: None)
    return module


def decoder(model: Any, **options: Any) -> VllmDecoder:
    return VllmDecoder(model.double(), pad_id=0, stop_ids=[STOP], vocab_size=38, options=VllmOptions(**options))


SEEDS = [11, 12, 13, 14]


def logp_of(model: Any, prompt: list[int], answer: list[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1, :38] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_answers_and_log_probabilities_become_columns(fake: ModuleType, temperature: float) -> None:
    model = llama(1, 16, True)
    written = decoder(model).write(PROMPTS, SEEDS, LIMIT, temperature=temperature)
    lengths = written.mask_BT.sum(1)
    assert written.response_BT.shape == (4, int(lengths.max())) and (written.response_BT[~written.mask_BT] == 0).all()
    assert ((written.author_BT == int(Author.STUDENT)) == written.mask_BT).all() or int(Author.STUDENT) == 0
    for row, prompt in enumerate(PROMPTS):
        answer = written.response_BT[row, : lengths[row]].tolist()
        assert bool(written.finished_B[row]) == (answer[-1] == STOP) and max(answer) < 38
        drawn, full = logp_of(model, prompt, answer, temperature or 1.0), logp_of(model, prompt, answer)
        behaviour, student = written.behaviour_logp_BT[row, : len(answer)].double(), written.student_logp_BT[row, : len(answer)].double()
        torch.testing.assert_close(behaviour, drawn if temperature else torch.zeros_like(drawn), atol=1e-5, rtol=0)
        if temperature in (0.0, 1.0):  # no law but the plain one is known from one number a token
            torch.testing.assert_close(student, full, atol=1e-5, rtol=0)
        else:
            assert student.isnan().all()
    assert (written.behaviour_logp_BT[~written.mask_BT] == 0).all() and (written.student_logp_BT[~written.mask_BT] == 0).all()
    assert int(written.finished_B.sum()) > 0 or temperature != 1.0


def test_what_is_asked_of_it(fake: ModuleType) -> None:
    decoder(llama(1, 16, True), memory=0.3, rows=64).write(PROMPTS, SEEDS, LIMIT, temperature=0.9, top_p=0.8, stops=[STOP, 5, -1])
    assert [ids for ids, _ in LLM.last.requests] == PROMPTS
    wanted = {
        "max_tokens": LIMIT, "temperature": 0.9, "top_p": 0.8, "stop_token_ids": [1, 5], "ignore_eos": True, "logprobs": 0, "flat_logprobs": True,
        "detokenize": False,
    }  # fmt: skip
    assert [vars(params) for _, params in LLM.last.requests] == [{**wanted, "seed": seed} for seed in SEEDS]
    given = dict(LLM.last.arguments)
    config = json.loads((Path(given.pop("model")) / "config.json").read_text())
    assert (config["vocab_size"], config["architectures"], config["dtype"]) == (38, ["LlamaForCausalLM"], "bfloat16")
    assert given == {
        "load_format": "dummy", "skip_tokenizer_init": True, "generation_config": "vllm", "dtype": "bfloat16", "logprobs_mode": "processed_logprobs",
        "async_scheduling": False, "max_num_seqs": 64, "gpu_memory_utilization": 0.3, "enable_sleep_mode": True, "enforce_eager": False,
    }  # fmt: skip
    decoder(llama(1, 16, True), memory=0.3, rows=64).write(PROMPTS, SEEDS, LIMIT, temperature=0.0)
    assert {params.seed for _, params in LLM.last.requests} == {None} and LLM.last.events.count("start") == 1


def test_no_more_answers_than_rows_are_in_flight_and_each_prompt_gets_its_own(fake: ModuleType) -> None:
    writer = decoder(llama(1, 16, True), rows=3)
    written = writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    assert [event for event in LLM.last.events if event.startswith("write")] == ["write 3", "write 1"]
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = writer.write([prompt], [seed], LIMIT, temperature=1.0)
        assert torch.equal(written.response_BT[row][written.mask_BT[row]], alone.response_BT[0][alone.mask_BT[0]])


@pytest.mark.parametrize("level", [2, 1, 0])
def test_it_wakes_takes_the_weights_writes_and_sleeps(fake: ModuleType, level: int) -> None:
    """At level 2 the fake forgets its weights, so a rollout without a push would answer nan."""
    model = llama(1, 16, True)
    writer = decoder(model, sleep=level)
    first = writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    again = writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)  # the same rollout goes on
    writer.rest()
    writer.rest()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(-3.0)
    changed = writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    writer.release()
    asleep, awake = ([f"sleep {level}"], ["wake weights", "push", "wake kv_cache"]) if level else ([], ["push", "forget"])
    assert LLM.last.events == ["start", "push", "forget", "write 4", "write 4", *asleep, *awake, "write 4", *asleep]
    assert torch.equal(first.response_BT, again.response_BT)
    assert changed.response_BT.shape != first.response_BT.shape or not torch.equal(changed.response_BT, first.response_BT)


def test_the_embedding_is_cut_to_the_vocabulary_and_every_weight_must_arrive(fake: ModuleType) -> None:
    untied = llama(2, 24, False)
    writer = decoder(untied)
    writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    inner = LLM.last.inner.plain
    assert torch.equal(inner.lm_head.weight, untied.lm_head.weight[:38]) and inner.model.embed_tokens.weight.shape[0] == 38
    assert torch.equal(inner.model.layers[1].mlp.up_proj.weight, untied.model.layers[1].mlp.up_proj.weight)
    writer.rest()
    LLM.last.inner.forgotten = {"model.layers.1.mlp.down_proj.weight"}
    with pytest.raises(ZooError, match=r"1 weights .* model\.layers\.1\.mlp\.down_proj\.weight"):
        writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)


def test_starting_it_leaves_the_process_its_own_noise(fake: ModuleType) -> None:
    for draw in (lambda: torch.rand(1).item(), lambda: random.random(), lambda: np.random.rand()):
        engine._running = None
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        expected = draw()
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        decoder(llama(1, 16, True)).write(PROMPTS, SEEDS, 1, temperature=1.0)
        assert draw() == expected


def test_seeds_come_from_named_axes() -> None:
    noise = uniforms([1, 2, 3], 4)
    assert seeds_of(noise[:, 0]) == seeds_of(uniforms([1, 2, 3], 9)[:, 0]) and len(set(seeds_of(noise[:, 0]))) == 3
    assert seeds_of(uniforms([2], 4, stream=1)[:, 0]) != seeds_of(uniforms([2], 4)[:, 0])
    assert 2**40 < max(seeds_of(uniforms(list(range(50)), 1)[:, 0])) < 2**53


def test_lists_by_token_are_read_too_and_missing_log_probabilities_are_refused() -> None:
    at = [{7: SimpleNamespace(logprob=-0.5), 3: SimpleNamespace(logprob=-1.0)}, {3: SimpleNamespace(logprob=-0.25)}]
    answer = SimpleNamespace(token_ids=(3, 3), logprobs=at, finish_reason="length")
    assert columns([answer], 0, torch.device("cpu")).behaviour_logp_BT.tolist() == [[-1.0, -0.25]]
    with pytest.raises(ZooError, match="1 log-probabilities for 2 tokens"):
        columns([SimpleNamespace(token_ids=(3, 3), logprobs=at[:1], finish_reason="length")], 0, torch.device("cpu"))


def test_which_streams_it_serves(fake: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    assert serves(Student()) and serves(Student(temperature=0.0)) and serves(Student(temperature=0.6, top_p=0.9))
    assert not serves(Student(temperature=0.005)) and not serves(Teacher())
    student, teacher = llama(1, 16, True).double(), llama(2, 24, False).double()
    both = {"student": student, "teacher": teacher}
    writers = Writers(both, pad_id=0, stop_ids=[STOP], vocab_size=38, max_batch=4, vllm=VllmOptions())
    noise = uniforms(SEEDS, LIMIT).T[:, None]
    assert writers.batch(Student()) > 4 and writers.batch(Teacher()) == 4
    writers.write(Teacher(), {"teacher": PROMPTS}, noise)
    assert engine.running() is None
    written = writers.write(Student(), {"student": PROMPTS}, noise, stop_ids=[4], score_student=False)
    writers.rest()
    assert LLM.last.events[-2:] == ["write 4", "sleep 2"] and written.student_logp_BT[written.mask_BT].isnan().all()
    assert [params.seed for _, params in LLM.last.requests] == seeds_of(noise[0, 0]) and LLM.last.requests[0][1].stop_token_ids == [4]
    student.model.layers[0].register_forward_hook(lambda *_: None)
    writers = Writers(both, pad_id=0, stop_ids=[STOP], vocab_size=38, max_batch=4, vllm=VllmOptions())
    assert writers.batch(Student()) == 4 and "not decoded by vLLM: a hook" in caplog.text
    assert "adapter" in str(unsupported(SimpleNamespace(config=student.config, named_parameters=lambda: [("a.lora_A.x", None)])))


def test_absent_old_or_out_of_place_it_says_so_in_one_line(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = decoder(llama(1, 16, True))
    fake.__version__ = "0.23.0"  # type: ignore[attr-defined]
    with pytest.raises(ZooError, match=r"needs vLLM 0\.24 or newer, and this is 0\.23\.0"):
        writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ZooError, match=r"pip install 'opd-zoo\[vllm\]'") as found:
        writer.write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    assert "\n" not in str(found.value)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    fake.__version__ = "1.0"  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert "on cpu" in str(engine.unfit(torch.device("cpu"))) and "CUDA_VISIBLE_DEVICES" in str(engine.unfit(torch.device("cuda:1")))
    assert engine.unfit(torch.device("cuda:0")) is None


def test_one_model_a_process_and_what_vllm_says_when_it_does_not_start(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "LLM", lambda **_: (_ for _ in ()).throw(ValueError("Free memory on device is less\nthan desired")))
    with pytest.raises(ZooError, match=r"did not start: Free memory on device is less; "):
        decoder(llama(1, 16, True)).write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    monkeypatch.setattr(fake, "LLM", LLM)
    decoder(llama(1, 16, True)).write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    with pytest.raises(ZooError, match="one model with one set of options a process"):
        decoder(llama(2, 24, False)).write(PROMPTS, SEEDS, LIMIT, temperature=1.0)
    with pytest.raises(ZooError, match="are 67 tokens, and vLLM was started for 64"):  # it would cut answers short without a word
        decoder(llama(1, 16, True)).write(PROMPTS, SEEDS, 62, temperature=1.0)
    with pytest.raises(ZooError, match="token 39, and the pair's vocabulary ends at 38"):
        decoder(llama(1, 16, True)).write([[2, 39]], SEEDS[:1], LIMIT, temperature=1.0)
    with pytest.raises(ZooError, match="prompt 1 has no tokens"):
        decoder(llama(1, 16, True)).write([[2], []], SEEDS[:2], LIMIT, temperature=1.0)


def test_a_run_trains_and_evaluates_with_it(fake: ModuleType, pair_file: Path) -> None:
    """Every rollout is of the present weights (lag 0), between waking and sleeping; evaluation is answered by the same engine."""
    pair = read_pair(pair_file, torch.float64)
    trainer = trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL]), pair, engine="vllm", budget={"amount": 200})
    trainer.train(lambda row: None, lambda: None)
    assert len(trainer.rows) > 2
    gaps = [row["lag0.mean"] for row in trainer.rows if "lag0.mean" in row]
    assert len(gaps) == 2 and max(gaps) < 1e-6
    step = ["wake weights", "push", "wake kv_cache", "write 8", "sleep 2"]
    assert LLM.last.events == ["start", "push", "forget", "write 8", "sleep 2", *step * (len(trainer.rows) - 1)]
    settings = comparison(engine="vllm").settings
    beside = Decoder(pair.student, pad_id=pair.pad_id, stop_ids=pair.stop_ids, vocab_size=pair.vocab_size, vllm=options_for(settings))
    plain = Decoder(pair.student, pad_id=pair.pad_id, stop_ids=pair.stop_ids, vocab_size=pair.vocab_size)
    assert beside.generate(PROMPTS, max_new_tokens=6) == plain.generate(PROMPTS, max_new_tokens=6)
    assert LLM.last.events[-5:] == [*step[:3], "write 4", "sleep 2"]


def test_its_settings_change_no_other_runs_key() -> None:
    plain, asked = comparison(), comparison(engine="vllm")
    assert settings_that_matter(comparison(vllm_memory=0.7, vllm_sleep=1), "gkd") == settings_that_matter(plain, "gkd")
    assert settings_that_matter(comparison(engine="reference"), "gkd") == settings_that_matter(plain, "gkd")
    assert settings_that_matter(asked, "gkd") == {**settings_that_matter(plain, "gkd"), "engine": "vllm"}
    assert not {"vllm_memory", "vllm_sleep"} & plain.settings.model_dump().keys()
    assert options_for(plain.settings) is None and options_for(comparison(engine="vllm", vllm_memory=0.2, decode_batch=32).settings) == VllmOptions(0.2, 2, 32)
    assert Method(made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL]))


# --- the real one ---

missing = "no CUDA device" if not torch.cuda.is_available() else "vLLM is not installed" if importlib.util.find_spec("vllm") is None else ""
real = pytest.mark.skipif(bool(missing), reason=missing)
NEAR_TIE = 0.15  # nat; both sides multiply in bf16
BYTES = 2 << 30


@pytest.fixture(scope="module")
def beside() -> Iterator[tuple[Any, VllmDecoder]]:
    """A small Llama in fp32 with wide margins, and vLLM beside it."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.08, eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).cuda().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    yield model, VllmDecoder(model, pad_id=0, stop_ids=[-1], vocab_size=500, options=VllmOptions(memory=0.1, rows=16, cache_bytes=BYTES, eager=True))


LONG = [[3 + (7 * row + 5 * at) % 480 for at in range(4 + row)] for row in range(12)]


@pytest.mark.gpu
@real
def test_greedy_answers_are_those_of_generate(beside: tuple[Any, VllmDecoder]) -> None:
    """Up to each answer's first near-tie."""
    model, writer = beside
    found, agreed = writer.write(LONG, [0] * len(LONG), 40, temperature=0.0), 0
    narrow = LlamaForCausalLM(model.config).cuda().eval()
    narrow.load_state_dict({name: weight.bfloat16().float() for name, weight in model.state_dict().items()})
    for row, prompt in enumerate(LONG):
        output = narrow.generate(
            torch.tensor([prompt], device="cuda"), max_new_tokens=40, do_sample=False, eos_token_id=None, suppress_tokens=list(range(500, 512)),
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        top_T2 = torch.stack(output.logits)[:, 0, :500].topk(2).values
        safe = min([*((top_T2[:, 0] - top_T2[:, 1]) < NEAR_TIE).nonzero()[:, 0].tolist(), 40])
        assert found.response_BT[row, :safe].tolist() == output.sequences[0, len(prompt) : len(prompt) + safe].tolist()
        agreed += safe
    print(f"greedy: {agreed} of {40 * len(LONG)} tokens compared")
    assert agreed > 30


@pytest.mark.gpu
@real
def test_log_probabilities_are_those_of_the_training_forward(beside: tuple[Any, VllmDecoder]) -> None:
    model, writer = beside
    found, gaps = writer.write(LONG, list(range(len(LONG))), 60, temperature=1.0), []
    for row, prompt in enumerate(LONG):
        ids = torch.tensor([prompt + found.response_BT[row].tolist()], device="cuda")
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(ids).logits[0, len(prompt) - 1 : -1, :500].float()
        gaps.append((logits.log_softmax(-1).gather(1, found.response_BT[row, :, None])[:, 0] - found.student_logp_BT[row]).abs())
    gap = torch.cat(gaps)
    print(f"lag 0: mean {gap.mean():.4f}, 99.9 % {gap.quantile(0.999):.3f} nat")
    assert gap.mean() < 0.12 and len(set(found.response_BT.flatten().tolist())) > 50 and int(found.response_BT.max()) < 500


@pytest.mark.gpu
@real
def test_a_request_draws_its_own_noise(beside: tuple[Any, VllmDecoder]) -> None:
    """Alone, or among others in another order: the same tokens, but where a rounding turned one."""
    _, writer = beside
    seeds = list(range(100, 100 + len(LONG)))
    together = writer.write(LONG, seeds, 30, temperature=1.0).response_BT
    backwards = writer.write(LONG[::-1], seeds[::-1], 30, temperature=1.0).response_BT.flip(0)
    other = writer.write(LONG, [seed + 1000 for seed in seeds], 30, temperature=1.0).response_BT
    same = (together == backwards).all(1).float().mean()
    print(f"the same answers among others: {float(same):.2f} of the rows")
    assert same > 0.5 and (together == other).all(1).float().mean() < 0.2


@pytest.mark.gpu
@real
def test_asleep_it_gives_its_memory_back_and_awake_it_has_the_new_weights(beside: tuple[Any, VllmDecoder]) -> None:
    model, writer = beside
    before = writer.write(LONG, [5] * len(LONG), 30, temperature=0.0).response_BT
    torch.cuda.synchronize()
    awake = torch.cuda.mem_get_info()[0]
    writer.rest()
    freed = torch.cuda.mem_get_info()[0] - awake
    assert freed > 0.9 * BYTES
    again = writer.write(LONG, [5] * len(LONG), 30, temperature=0.0).response_BT
    writer.rest()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(-2.0)
    changed = writer.write(LONG, [5] * len(LONG), 30, temperature=0.0).response_BT
    writer.rest()
    print(f"asleep: {freed / 2**30:.2f} GiB given back; unchanged weights: {float((before == again).float().mean()):.3f} of the tokens again")
    assert (before == again).float().mean() > 0.8 and (before == changed).float().mean() < 0.5
