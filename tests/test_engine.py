"""The reference engine: every kind of stream, on tiny random Llamas and a tokenizer of single letters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.components.base import Context, Slot
from zoo.components.rollouts import Corpus, Dataset, Interleaved, Mixture, Replay, Stream, Student, Switch, Teacher, warp
from zoo.components.rollouts.composed import AdaptivePhi
from zoo.components.rollouts.decoded import RankVerify
from zoo.components.rollouts.handovers import AtPosition, DivergenceJump
from zoo.errors import ZooError
from zoo.harness.engine import ReferenceEngine
from zoo.harness.replay import ReplayBuffer, buffer_for
from zoo.harness.shadow import decoding_copy
from zoo.tensors import Author, Prompt, Rollout

torch.set_num_threads(1)
V, STOP, PAD = 13, 2, 0
LETTERS = "abcdefghij"  # ids 3..12
AXES = ("comparison", 0, "rollout", "main", 7)


class Letters:
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [LETTERS.index(letter) + 3 for letter in text]


def format_prompt(prompt: Prompt, context: Any) -> list[int]:
    extra = "".join(prompt.fields[name] for name in context.fields) if context else ""
    return [1, *Letters().encode(extra + prompt.text, add_special_tokens=False)]


def llama(seed: int, scale: float = 0.5, heads: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=V, max_position_embeddings=128, **sizes)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    with torch.no_grad():  # a tilt for each model, so that student and teacher differ by more than their context
        model.model.norm.weight.fill_(0.4)
    return model


STUDENT, TEACHER = llama(1), llama(2)
PROMPTS = [Prompt(f"p{i}", LETTERS[i % 10] * (1 + i % 4), {"solution": LETTERS[: 1 + i % 5], "hint": "cab"}) for i in range(12)]


def engine(**options: Any) -> ReferenceEngine:
    settings: dict[str, Any] = {"format_prompt": format_prompt, "stop_ids": [STOP], "pad_id": PAD, "vocab_size": V, **options}
    return ReferenceEngine(STUDENT, {"teacher": TEACHER}, Letters(), **settings)


def write(stream: Stream, prompts: Sequence[Prompt] = tuple(PROMPTS), new: int = 16, **options: Any) -> Rollout:
    return engine(**options).rollout(stream, prompts, max_new_tokens=new, seed_axes=AXES, version=3)


def forced_logits(model: LlamaForCausalLM, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Logits (T, V) before each response token, from one full forward of one unpadded sequence."""
    with torch.no_grad():
        return model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]


def supervised(rollout: Rollout) -> list[tuple[int, list[int]]]:
    return [(row, rollout.response_BT[row][rollout.mask_BT[row]].tolist()) for row in range(len(rollout))]


def assert_same(a: Rollout, b: Rollout) -> None:
    assert a.prompts == b.prompts and a.prompt_ids == b.prompt_ids
    for name in ("response_BT", "mask_BT", "author_BT", "group_B", "finished_B"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("behaviour_logp_BT", "student_logp_BT"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), equal_nan=True, atol=1e-9, rtol=0)


EVERY = {
    "student": Student(group=2),
    "tempered": Student(temperature=0.7, top_p=0.8),
    "teacher": Teacher(),
    "dataset": Dataset(),
    "corpus": Corpus(),
    "gkd": Mixture(of={"student": 0.5, "dataset": 0.5}, per="sequence"),
    "luffy": Mixture(of={"student": 2, "teacher": 1}, per="group_member", group=3),
    "minillm": Mixture(of={"student": 0.8, "teacher": 0.2}, per="token"),
    "skd": Interleaved(verify=RankVerify(at_most=3)),
    "adaswitch": Switch(when=DivergenceJump(ratio=1.2, window=3)),
}


@pytest.mark.parametrize("name", EVERY)
def test_rows_depend_on_neither_micro_batch_nor_order(name: str) -> None:
    stream = EVERY[name]
    assert engine().serves(stream)
    whole, split = write(stream), write(stream, max_batch=5)
    assert_same(whole, split)
    order = list(range(len(PROMPTS)))[::-1]
    turned = write(stream, [PROMPTS[i] for i in order])
    back = turned.rows([(len(PROMPTS) - 1 - i) * stream.group + g for i in range(len(PROMPTS)) for g in range(stream.group)])
    assert supervised(back) == supervised(whole)
    few = write(stream, PROMPTS[:3])
    assert supervised(few) == supervised(whole)[: 3 * stream.group]


@pytest.mark.parametrize("name", ["student", "tempered", "minillm", "skd", "adaswitch"])
def test_student_log_probabilities_equal_a_forced_forward(name: str) -> None:
    rollout = write(EVERY[name])
    for row, response in supervised(rollout):
        logp_TV = forced_logits(STUDENT, rollout.prompt_ids[row], response).log_softmax(-1)
        expected_T = logp_TV[range(len(response)), response]
        torch.testing.assert_close(rollout.student_logp_BT[row, : len(response)], expected_T, atol=1e-5, rtol=0)


def law(name: str, stream: Any, student_TV: torch.Tensor, teacher_TV: torch.Tensor, author_T: torch.Tensor) -> torch.Tensor:
    """Next-token probabilities (T, V) of each stream, written out."""
    if name == "tempered":
        return warp(student_TV, 0.7, 0.8).softmax(-1)
    p, q = teacher_TV.softmax(-1), student_TV.softmax(-1)
    if name == "minillm":
        return 0.8 * q + 0.2 * p
    if name == "skd":
        top = torch.zeros_like(p).scatter(-1, p.topk(3).indices, 1.0)
        return q * top + (q * (1 - top)).sum(-1, keepdim=True) * p
    if name == "adaswitch":
        return torch.where((author_T == Author.TEACHER)[:, None], p, q)
    return p if name == "teacher" else q


@pytest.mark.parametrize("name", ["student", "tempered", "teacher", "minillm", "skd", "adaswitch"])
def test_behaviour_log_probabilities_equal_the_law_of_the_stream(name: str) -> None:
    rollout = write(EVERY[name])
    for row, response in supervised(rollout):
        student_TV = forced_logits(STUDENT, rollout.prompt_ids[row], response)
        teacher_TV = forced_logits(TEACHER, rollout.prompt_ids[row], response)
        law_TV = law(name, EVERY[name], student_TV, teacher_TV, rollout.author_BT[row, : len(response)])
        expected_T = law_TV[range(len(response)), response].log()
        torch.testing.assert_close(rollout.behaviour_logp_BT[row, : len(response)], expected_T, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["student", "tempered", "minillm", "skd"])
def test_the_first_token_follows_the_law_of_the_stream(name: str) -> None:
    many = [Prompt(f"q{i}", "ab") for i in range(4000)]
    rollout = write(EVERY[name].model_copy(update={"group": 1}), many, new=1, max_batch=4000)
    prompt = rollout.prompt_ids[0]
    student_1V, teacher_1V = forced_logits(STUDENT, prompt, [5]), forced_logits(TEACHER, prompt, [5])
    expected_V = law(name, EVERY[name], student_1V, teacher_1V, torch.zeros(1))[0]
    share_V = torch.bincount(rollout.response_BT[:, 0], minlength=V) / len(many)
    error_V = (expected_V * (1 - expected_V) / len(many)).sqrt()
    assert ((share_V - expected_V).abs() <= 4 * error_V + 1e-9).all()
    assert float(expected_V.max()) < 0.9, "a law this peaked would prove nothing"


def test_the_mixtures_author_column_has_the_weights() -> None:
    rollout = write(EVERY["minillm"], [Prompt(f"q{i}", "ab") for i in range(2000)], new=2)
    share = float((rollout.author_BT == Author.TEACHER)[rollout.mask_BT].double().mean())
    assert share == pytest.approx(0.2, abs=0.03)


def test_interleaved_keeps_the_students_token_only_within_the_teachers_top_k() -> None:
    rollout = write(Interleaved(verify=RankVerify(at_most=2), teacher_temperature=0.5), new=20)
    kept = replaced = 0
    for row, response in supervised(rollout):
        teacher_TV = forced_logits(TEACHER, rollout.prompt_ids[row], response)
        rank_T = (teacher_TV > teacher_TV.gather(-1, torch.tensor(response)[:, None])).sum(-1)
        wrote_T = rollout.author_BT[row, : len(response)] == Author.STUDENT
        assert (rank_T[wrote_T] < 2).all()
        kept, replaced = kept + int(wrote_T.sum()), replaced + int((~wrote_T).sum())
    assert kept > 10 and replaced > 10


def test_interleaved_over_the_whole_vocabulary_is_on_policy() -> None:
    same, student = write(Interleaved(verify=RankVerify(at_most=V))), write(Student())
    assert supervised(same) == supervised(student) and int(same.author_BT.max()) == Author.STUDENT


def test_a_switch_happens_once_at_the_first_jump_of_the_divergence() -> None:
    ratio, window, switched = 1.2, 3, 0
    rollout = write(EVERY["adaswitch"])
    for row, response in supervised(rollout):
        q_TV = forced_logits(STUDENT, rollout.prompt_ids[row], response).log_softmax(-1)
        p_TV = forced_logits(TEACHER, rollout.prompt_ids[row], response).log_softmax(-1)
        d = (p_TV.exp() * (p_TV - q_TV)).sum(-1).tolist()
        jumps = [i for i in range(1, len(d)) if d[i] > ratio * sum(d[max(0, i - window) : i]) / min(i, window)]
        first = jumps[0] if jumps else len(d)
        expected = [int(Author.STUDENT)] * first + [int(Author.TEACHER)] * (len(d) - first)
        assert rollout.author_BT[row, : len(d)].tolist() == expected
        switched += bool(jumps)
    assert switched > 0


def test_a_switch_at_a_position_is_drawn_for_each_row() -> None:
    rollout = write(Switch(first="teacher", then="student", when=AtPosition(low=1, high=3)), [Prompt(f"q{i}", "a") for i in range(60)], new=6)
    lengths = [int((rollout.author_BT[r][rollout.mask_BT[r]] == Author.TEACHER).sum()) for r in range(60) if rollout.mask_BT[r].sum() > 3]
    assert set(lengths) == {1, 2, 3}


def test_a_sequence_mixture_has_its_proportions_and_whole_sequences() -> None:
    many = [Prompt(f"q{i}", "ab", {"solution": "abc"}) for i in range(600)]
    rollout = write(EVERY["gkd"], many, new=4)
    from_data_B = (rollout.author_BT == Author.DATASET).any(1)
    assert float(from_data_B.double().mean()) == pytest.approx(0.5, abs=0.07)
    assert ((rollout.author_BT == Author.DATASET) | ~rollout.mask_BT)[from_data_B].all()
    assert rollout.prompts == tuple(many)
    other = engine().rollout(EVERY["gkd"], many, max_new_tokens=4, seed_axes=("another",))
    assert not torch.equal((other.author_BT == Author.DATASET).any(1), from_data_B)


def test_group_members_are_separate_draws_with_authors_by_place() -> None:
    rollout = write(EVERY["luffy"])
    assert rollout.group_B.tolist() == [i for i in range(12) for _ in range(3)]
    wrote = [int(rollout.author_BT[row, 0]) for row in range(6)]
    assert wrote == [Author.STUDENT, Author.STUDENT, Author.TEACHER] * 2
    texts = supervised(write(Student(group=2)))
    assert sum(texts[2 * i][1] != texts[2 * i + 1][1] for i in range(12)) >= 10


def test_repeated_prompts_get_their_own_noise() -> None:
    rollout = write(Student(), [PROMPTS[0]] * 6)
    assert len({tuple(ids) for _, ids in supervised(rollout)}) >= 5


def test_the_stop_token_is_supervised_and_padding_is_not() -> None:
    rollout = write(Student(), [Prompt(f"q{i}", "ab") for i in range(60)])
    assert rollout.version == 3 and 0 < int(rollout.finished_B.sum()) < 60
    for row, response in supervised(rollout):
        assert bool(rollout.finished_B[row]) == (response[-1] == STOP) and STOP not in response[:-1]
        after = slice(len(response), None)
        assert (rollout.response_BT[row, after] == PAD).all() and not rollout.mask_BT[row, after].any()
        assert (rollout.behaviour_logp_BT[row, after] == 0).all()
    assert int(rollout.mask_BT.any(0).sum()) == rollout.response_BT.shape[1]


def test_given_texts_end_with_the_stop_token_or_are_cut() -> None:
    rollout = write(Dataset(), PROMPTS[:5], new=4)
    assert [ids for _, ids in supervised(rollout)] == [[3, 2], [3, 4, 2], [3, 4, 5, 2], [3, 4, 5, 6], [3, 4, 5, 6]]
    assert rollout.finished_B.tolist() == [True, True, True, False, False]
    assert rollout.behaviour_logp_BT[rollout.mask_BT].isnan().all() and rollout.student_logp_BT[rollout.mask_BT].isnan().all()
    whole = write(Corpus(), PROMPTS[:2])
    assert whole.prompt_ids[1] == (1,) and supervised(whole)[1][1] == [4, 4, 3, 4, 2]
    assert (whole.author_BT[whole.mask_BT] == Author.CORPUS).all()
    drawn = write(Corpus(), PROMPTS, corpus=["jjj", "iii"])
    assert {tuple(ids) for _, ids in supervised(drawn)} == {(12, 12, 2), (11, 11, 2)}


def test_what_is_written_with_a_context_carries_the_plain_prompt() -> None:
    stream = Student(context=Context(fields=("hint",), template="hint"))
    rollout = write(stream)
    assert rollout.prompt_ids == write(Student()).prompt_ids
    row, response = supervised(rollout)[0]
    shown = format_prompt(PROMPTS[0], stream.context)
    expected_T = forced_logits(STUDENT, shown, response).log_softmax(-1)[range(len(response)), response]
    torch.testing.assert_close(rollout.behaviour_logp_BT[row, : len(response)], expected_T, atol=1e-8, rtol=0)
    assert rollout.student_logp_BT[rollout.mask_BT].isnan().all()


def test_a_truncated_horizon_is_never_longer_than_the_comparisons() -> None:
    assert write(Student(max_new_tokens=3)).response_BT.shape[1] == 3
    assert write(Student(max_new_tokens=90), new=4).response_BT.shape[1] == 4


@pytest.mark.parametrize(("share", "limit", "length"), [(0.25, 128, 32), (0.29, 100, 29), (0.1, 24, 2), (0.01, 24, 1), (0.0, 24, 1), (1.0, 24, 24)])
def test_a_share_of_the_comparisons_horizon_rounds_down_to_one_token_at_least(share: float, limit: int, length: int) -> None:
    assert Student(horizon_share=share).horizon(limit) == length
    assert Student(horizon_share=share, max_new_tokens=5).horizon(limit) == min(5, length)
    with pytest.raises(ValueError, match="horizon_share must lie in"):
        Student(horizon_share=1.5)


def test_rollouts_leave_training_mode_gradients_and_global_randomness_alone() -> None:
    STUDENT.train()
    state = torch.get_rng_state()
    rollout = write(EVERY["minillm"])
    assert STUDENT.training and torch.equal(torch.get_rng_state(), state)
    assert not rollout.student_logp_BT.requires_grad and not rollout.student_logp_BT.is_inference()
    STUDENT.eval()


def test_a_decoding_copy_follows_the_weights_and_keeps_its_buffers() -> None:
    student = llama(5).float()
    shadowed = ReferenceEngine(
        student, {}, Letters(), format_prompt=format_prompt, stop_ids=[STOP], pad_id=PAD, vocab_size=V, decode_dtype=torch.float64
    )
    plain = ReferenceEngine(student.double(), {}, Letters(), format_prompt=format_prompt, stop_ids=[STOP], pad_id=PAD, vocab_size=V)
    for _ in range(2):
        a, b = (e.rollout(Student(), PROMPTS, max_new_tokens=8, seed_axes=AXES) for e in (shadowed, plain))
        assert supervised(a) == supervised(b)
        with torch.no_grad():
            student.lm_head.weight.neg_()
    half = decoding_copy(llama(5).float(), torch.bfloat16)
    assert half.lm_head.weight.dtype == torch.bfloat16 and half.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_teacher_that_moves_with_the_student_decodes_through_a_copy_with_its_present_weights() -> None:
    student, moving, fixed, odd = llama(5).bfloat16(), llama(6, heads=2).float(), llama(7).bfloat16(), llama(8).float()
    teachers = {"moving": moving, "fixed": fixed, "odd": odd}
    given: dict[str, Any] = {"format_prompt": format_prompt, "stop_ids": [STOP], "pad_id": PAD, "vocab_size": V}
    shadowed = ReferenceEngine(student, teachers, Letters(), **given, decode_dtype=torch.bfloat16)
    for name in ("moving", "fixed", "odd", "moving"):
        own = teachers[name] if name == "odd" else decoding_copy(teachers[name], torch.bfloat16)
        plain = ReferenceEngine(student, {name: own}, Letters(), **given)
        a, b = (e.rollout(Teacher(teacher=name), PROMPTS, max_new_tokens=8, seed_axes=AXES) for e in (shadowed, plain))
        assert supervised(a) == supervised(b) and torch.equal(a.behaviour_logp_BT, b.behaviour_logp_BT)
        with torch.no_grad():
            moving.lm_head.weight.neg_()
    assert moving.lm_head.weight.dtype == torch.float32 and shadowed.writers.masters == {"moving": moving}
    assert shadowed.writers.models["fixed"] is fixed and shadowed.writers.models["odd"] is odd, "its heads have 8 features: it could gain nothing"
    assert shadowed.whole_student() is student


def test_missing_teachers_fields_and_buffers_are_named() -> None:
    with pytest.raises(ZooError, match="did you mean 'teacher'"):
        write(Teacher(teacher="teach"))
    with pytest.raises(ZooError, match=r"prompt 'p0' has no field 'solutions'.*did you mean 'solution'"):
        write(Dataset(field="solutions"))
    with pytest.raises(ZooError, match="needs its buffer"):
        write(Replay())


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"author": "mixture", "of": {"student": 1, "dataset": 1}, "per": "token"}, "no next-token distribution"),
        ({"author": "mixture", "of": {"student": 1, "teacher": 1}, "per": "group_member", "group": 3}, "add up to group"),
        ({"author": "mixture", "of": {"student": -1, "teacher": 1}, "per": "token"}, "at least 0"),
        ({"author": "switch", "first": "student", "then": "student"}, "two authors"),
        ({"author": "interleaved", "verify": {"kind": "rang", "at_most": 3}}, "did you mean 'rank'"),
        ({"author": "replay", "group": 4}, "leave group at 1"),
        ({"author": "replay", "temperature": 0.5}, "inside 'of'"),
        ({"author": "student", "temperature": -1.0}, "temperature"),
        ({"author": "student", "temprature": 1.0}, "temprature"),
        ({"author": "studnet"}, "did you mean 'student'"),
    ],
)
def test_malformed_streams_are_refused(stream: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=message):
        Slot("rollout").validate(stream)


def test_replay_chooses_its_source_by_phi_progress_and_room() -> None:
    buffer = ReplayBuffer(Replay(capacity=12, phi=AdaptivePhi(start=0.5)), pad_id=PAD)
    assert [buffer.source(u, 0.5) for u in (0.2, 0.3, 0.6)] == ["fresh", "fresh", "otherwise"]  # 0.3: there is room
    buffer.append(write(Student()))
    assert [buffer.source(u, 0.5) for u in (0.2, 0.3, 0.6)] == ["fresh", "buffer", "otherwise"]


def test_phi_rises_with_the_validation_loss_only() -> None:
    buffer = ReplayBuffer(Replay(phi=AdaptivePhi(start=0.85, step=0.1, eps=0.05)), pad_id=PAD)
    seen = []
    for loss in (1.0, 1.04, 0.5, 1.05, 1.06, 1.2):
        buffer.after_step({"loss": 9.0, "validation_loss": loss})
        buffer.after_step({"loss": 9.0})
        seen.append(round(buffer.phi, 6))
    assert seen == [0.85, 0.85, 0.85, 0.95, 0.95, 1.0]


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    """The state as it comes back from safetensors and JSON."""
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    rest = {name: value for name, value in state.items() if name not in tensors}
    return {**load(save(tensors)), **json.loads(json.dumps(rest, allow_nan=False))}


def test_replay_is_first_in_first_out_and_survives_a_restart_exactly() -> None:
    stream = Replay(capacity=18, phi=AdaptivePhi(start=1.0))
    buffer = buffer_for(stream, pad_id=PAD)
    assert buffer is not None
    served = engine()
    for step in range(2):
        fresh = served.rollout(stream, PROMPTS, max_new_tokens=9, seed_axes=("r", step), version=step, memory=buffer, progress=0.0)
        assert int(fresh.author_BT.max()) == Author.STUDENT and fresh.version == step
    state = buffer.state_dict()
    assert len(buffer) == 18 and state["versions"] == [0] * 6 + [1] * 12
    restored = ReplayBuffer(stream, pad_id=PAD)
    restored.load_state_dict(through_disk(state))
    a, b = (
        served.rollout(stream, PROMPTS, max_new_tokens=9, seed_axes=("r", 5), version=9, memory=m, progress=0.999)
        for m in (buffer, restored)
    )
    assert_same(a, b)
    assert a.version == b.version == 0 and a.group_B.tolist() == list(range(12)) and len({prompt.id for prompt in a.prompts}) > 6
    for row, response in supervised(a):
        expected_T = forced_logits(STUDENT, a.prompt_ids[row], response).log_softmax(-1)[range(len(response)), response]
        torch.testing.assert_close(a.behaviour_logp_BT[row, : len(response)], expected_T, atol=1e-8, rtol=0)
    empty = ReplayBuffer(stream, pad_id=PAD)
    empty.load_state_dict(through_disk(empty.state_dict()))
    assert len(empty) == 0 and math.isclose(empty.phi, 1.0)


def test_replay_falls_back_to_given_texts() -> None:
    stream = Replay(phi=AdaptivePhi(start=0.0))
    rollout = engine().rollout(stream, PROMPTS, max_new_tokens=9, seed_axes=AXES, memory=buffer_for(stream, pad_id=PAD))
    assert (rollout.author_BT[rollout.mask_BT] == Author.DATASET).all()
    assert buffer_for(Student(), pad_id=PAD) is None
