"""The micro task and its shipped pair: prompts, splits, checks, tokenizer, test items, weights."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoTokenizer

from zoo.errors import ZooError
from zoo.harness import build_micro
from zoo.paths import data_root, shipped_pair
from zoo.tasks import make_task, micro
from zoo.tensors import Prompt

TASK = micro.MicroTask()
ADD, COPY = micro.add_prompt("3572"), micro.copy_prompt("a9k3")
PAIR = shipped_pair("micro")
FIRST_TRAIN, FIRST_VALID = ["+7616=", "+99806="], "+8818="


def everything() -> dict[str, list[Prompt]]:
    return {split: TASK.prompts(split) for split in ("train", "valid")} | {name: micro.held_out(name) for name in ("add", "ood", "copy")}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(PAIR / "student")


def test_a_chain_and_its_fields() -> None:
    assert ADD.text == "+3572="
    assert dict(ADD.fields) == {"solution": "3 8 15 17#17", "answer": "17", "hint": "3 8", "domain": "add", "content": "3572"}
    assert COPY.text == "@a9k3=" and COPY.fields["solution"] == COPY.fields["answer"] == "a9k3"


def test_prompts_are_fixed_and_of_the_promised_lengths() -> None:
    train, valid = TASK.prompts("train"), make_task("micro").prompts("valid")
    assert (len(train), len(valid)) == (20_000, 512)
    assert len({p.id for p in train}) == 20_000 and len({p.text for p in valid}) == 512
    assert {len(p.text) - 2 for p in train} == {3, 4, 5, 6, 7}
    assert {len(p.text) - 2 for p in micro.held_out("ood")} == {8, 9}
    # Written down once: another value means that the prompts of every published record have changed.
    assert [p.text for p in train[:2]] == FIRST_TRAIN and valid[0].text == FIRST_VALID


def test_no_content_is_in_two_splits() -> None:
    by_list = {name: {p.text for p in prompts} for name, prompts in everything().items()}
    names = list(by_list)
    assert all(not by_list[a] & by_list[b] for i, a in enumerate(names) for b in names[i + 1 :])
    assert {micro.split_of("add", text[1:-1]) for text in by_list["train"]} == {"train"}
    assert {micro.split_of("add", text[1:-1]) for text in by_list["add"] | by_list["ood"]} == {"test"}


def test_pretraining_sees_the_train_split_only_and_every_kind(tokenizer: Any) -> None:
    texts = [tokenizer.decode(prompt) for prompt, _ in islice(build_micro.pretraining_examples(tokenizer, seed=0), 2000)]
    bare = [text.rsplit("!", 1)[-1].rsplit("?", 1)[-1] for text in texts]
    assert {micro.split_of("add" if text[0] == "+" else "copy", text[1:-1]) for text in bare} == {"train"}
    shares = build_micro.MIXTURE
    for mark, share in (("+", shares["plain"] + shares["longer"]), ("@", shares["copy"]), ("!", shares["solution"]), ("?", shares["hint"])):
        assert sum(text[0] == mark for text in texts) / 2000 == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(
    ("text", "answer", "flexible", "exact", "form"),
    [
        ("3 8 15 17#17", 1, 1, 1, 1),
        (" 3 8 15 17#17 ", 1, 1, 1, 1),
        ("3 8 14 17#17", 1, 1, 0, 1),
        ("17#17", 1, 1, 0, 1),
        ("3 8 15 17#16", 0, 0, 0, 1),
        ("3 8 15 17#170", 0, 0, 0, 1),
        ("3 8 15 17#017", 0, 0, 0, 1),
        ("#17", 0, 1, 0, 0),
        ("3 8 15 17#17#17", 0, 1, 0, 0),
        ("3 8 15 17#17#18", 0, 0, 0, 0),
        ("3 8 15 17#17 a", 0, 1, 0, 0),
        ("17", 0, 0, 0, 0),
        ("3  8#17", 0, 1, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_checks_of_a_chain(text: str, answer: int, flexible: int, exact: int, form: int) -> None:
    assert [TASK.verify(check, text, ADD) for check in ("answer", "flexible", "exact", "format")] == [answer, flexible, exact, form]


def test_checks_of_a_copy() -> None:
    assert [TASK.verify("answer", text, COPY) for text in ("a9k3", "a9k", "a9k33", "")] == [1.0, 0.0, 0.0, 0.0]
    assert TASK.verify("exact", "a9k3", COPY) == 1.0 and TASK.verify("flexible", "xa9k3", COPY) == 1.0


@given(st.text(alphabet="0123456789", min_size=1, max_size=12))
def test_a_gold_solution_passes_every_check_and_one_more_digit_fails(digits: str) -> None:
    prompt = micro.add_prompt(digits)
    assert int(prompt.fields["answer"]) == sum(map(int, digits))
    assert all(TASK.verify(check, prompt.fields["solution"], prompt) == 1.0 for check in micro.CHECKS)
    assert TASK.verify("answer", prompt.fields["solution"] + "0", prompt) == 0.0


def test_unknown_names_get_the_legal_ones() -> None:
    with pytest.raises(ZooError, match="no check 'anser'; did you mean 'answer'"):
        TASK.verify("anser", "", ADD)
    with pytest.raises(ZooError, match="no split 'test'; "):
        TASK.prompts("test")


MADE = {"attempt": "3 8 1a", "feedback": "bad #", "outcome": "good", "peer_success": "3 8#8", "peer_failure": "3 9#9", "reflection": "h?",
        "other_prompt": "+12=", "partial_solution": "3", "ablated": "+1=",
        "observation": "?bad 2?+12=", "history": "+12=?bad 2?", "hidden_state": "3 8 8", "experience": "3 8#8"}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [
    ("3 8 15 17#17", "good"), ("3 8 14 17#17", "bad 3"), ("3 8#8", "bad 3"), ("3 8 15 17 17#17", "bad 5"), ("3 8 15 17#16", "bad #"),
    ("3 8", "form")])  # fmt: skip
def test_feedback_names_the_first_wrong_step(text: str, said: str) -> None:
    assert TASK.feedback(text, micro.add_prompt("3572")) == said


def test_the_tokenizer_returns_every_prompt_and_solution_as_it_was(tokenizer: Any) -> None:
    prompts = [p for group in everything().values() for p in group]
    texts = [p.text for p in prompts] + [p.fields["solution"] for p in prompts] + [t.format_map({**MADE, "prompt": ADD.text, **ADD.fields}) for t in contexts()]
    ids = tokenizer(texts).input_ids
    assert all(len(row) == len(text) for row, text in zip(ids, texts, strict=True))
    assert tokenizer.batch_decode(ids) == texts
    assert tokenizer.unk_token_id not in {i for row in ids for i in row}


def test_stop_tokens_and_vocabulary_are_shared(tokenizer: Any) -> None:
    assert len(tokenizer) == 40 and tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<e1>", "<e2>", "<unk>"]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "<e1>", None)
    assert tokenizer("+35=<e2>").input_ids[-1] == 2 and tokenizer.decode([7, 1], skip_special_tokens=True) == "3"
    assert AutoTokenizer.from_pretrained(PAIR / "teacher").get_vocab() == tokenizer.get_vocab() == build_micro.make_tokenizer().get_vocab()


def contexts() -> list[str]:
    pair = yaml.safe_load((data_root() / "registry" / "pairs" / "micro.yaml").read_text())
    return list(pair["contexts"].values())


def test_the_pair_declares_the_contexts_of_pretraining_and_room_for_the_longest_answer() -> None:
    pair = yaml.safe_load((data_root() / "registry" / "pairs" / "micro.yaml").read_text())
    assert pair["contexts"] == {**micro.CONTEXTS, **micro.MADE_CONTEXTS}
    assert pair["words"] == micro.WORDS
    longest = max(len(p.fields["solution"]) for prompts in everything().values() for p in prompts)
    assert longest + 1 < pair["max_new_tokens"] == build_micro.MAX_NEW_TOKENS


def test_committed_items_are_what_the_seeds_give(tmp_path: Path) -> None:
    build_micro.write_items(tmp_path)
    for name in ("add", "ood", "copy"):
        committed = data_root() / "suites" / "tasks" / "data" / f"micro_{name}.jsonl"
        assert (tmp_path / committed.name).read_bytes() == committed.read_bytes()
        assert list(json.loads(committed.read_text().splitlines()[0])) == ["id", "prompt", "solution", "answer"]


@pytest.mark.parametrize(("name", "low", "high"), [("student", 3.5e5, 4.5e5), ("teacher", 2.5e6, 3.5e6)])
def test_shipped_weights_have_the_promised_size_and_type(name: str, low: float, high: float) -> None:
    with safe_open(PAIR / name / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    assert low < sum(t.numel() for t in tensors) < high
    assert {t.dtype for t in tensors} == {torch.bfloat16} and all(bool(t.isfinite().all()) for t in tensors)


def test_the_shipped_pair_is_small_and_its_record_names_no_folder() -> None:
    assert sum(f.stat().st_size for f in PAIR.rglob("*") if f.is_file()) <= 8_000_000
    record = json.loads((PAIR / "build.json").read_text())
    student, teacher = record["student"]["accuracy"], record["teacher"]["accuracy"]
    assert 0.35 <= student["add"] <= 0.45 and teacher["add"] >= 0.97
    assert student["solution"] >= student["add"] + 0.2
    assert str(Path.home()) not in json.dumps(record)


def tiny(**changes: Any) -> build_micro.Recipe:
    return build_micro.Recipe(**({"layers": 1, "width": 16, "feed_forward": 16, "steps": 3, "batch": 8, "learning_rate": 1e-3, "heads": 2} | changes))


def test_a_build_repeats_itself_and_the_seed_matters(tokenizer: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        before = torch.random.get_rng_state()
        model, steps = build_micro.train(tiny(), tokenizer, seed, lambda line: None)
        assert steps == 3 and torch.equal(torch.random.get_rng_state(), before)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_a_student_stops_at_the_first_evaluation_in_its_band_on_both_lists(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([(0.1, 0.1), (0.4, 0.3), (0.5, 0.4), (0.44, 0.36), (0.4, 0.4)])
    monkeypatch.setattr(build_micro, "in_distribution", lambda *_: next(shares))
    _, steps = build_micro.train(tiny(steps=9, band=(0.36, 0.44), evaluate_every=1), tokenizer, 0, lambda line: None)
    assert steps == 4


@pytest.mark.parametrize("shares", [[(0.1, 0.1)] * 3, [(0.1, 0.1), (0.5, 0.6)]])
def test_a_student_that_misses_its_band_is_an_error(shares: list[tuple[float, float]], tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(shares)
    monkeypatch.setattr(build_micro, "in_distribution", lambda *_: next(left))
    with pytest.raises(ZooError, match=rf"no evaluation within \(0.36, 0.44\) by step {len(shares)}; build again with another seed"):
        build_micro.train(tiny(band=(0.36, 0.44), evaluate_every=1), tokenizer, 0, lambda line: None)


def test_the_loss_is_that_of_each_example_alone(tokenizer: Any) -> None:
    model = build_micro.make_model(tiny(), tokenizer, seed=0)
    examples = list(islice(build_micro.pretraining_examples(tokenizer, seed=0), 5))
    alone = []
    for prompt, response in examples:
        logp_TV = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        alone.append(-sum(logp_TV[len(prompt) + t - 1, token] for t, token in enumerate(response)))
    torch.testing.assert_close(build_micro.summed_loss(model, examples), torch.stack(alone).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_accuracies_are_those_on_record(name: str) -> None:
    record = json.loads((PAIR / "build.json").read_text())[name]["accuracy"]
    assert build_micro.measure(PAIR / name) == pytest.approx(record, abs=0.02)
