"""Reward models as transformers saves them: a tiny classifier with random weights in safetensors, read by a pair and paid for by a policy gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import llama, made, trainer_of, write_pair
from transformers import LlamaConfig, LlamaForSequenceClassification

from zoo.compat import pair_problems
from zoo.errors import ZooError
from zoo.harness.build_micro import make_tokenizer
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.method import Method

PAID = {
    "rollout": {"author": "student", "group": 4},
    "rewards": {"liked": {"kind": "reward_model", "model": "rm"}},
    "objective": [{"term": "policy_gradient", "reward": "liked", "credit": {"kind": "group"}, "reduce": "token_mean"}],
}


def classifier(outputs: int = 1) -> LlamaForSequenceClassification:
    config = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=96,
                         num_labels=outputs, pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return LlamaForSequenceClassification(config)


def saved(folder: Path, model: Any, template: str | None = None) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    model.save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    return write_pair(folder, reward_models={"rm": {"path": str(folder / "rm")}})


def read(file: Path) -> LoadedPair:
    return load_pair(load_pair_spec(file))


def test_each_answer_gets_the_classifiers_own_number(tmp_path: Path) -> None:
    model = classifier().eval()
    pair = read(saved(tmp_path, model))
    prompts, answers = ["+35=", "+357=", "+1="], ["3 8#8", "3 8 15#15", ""]
    found = pair.reward_models["rm"].scores(prompts, answers)
    tokenizer = make_tokenizer()
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = model(input_ids=torch.tensor([tokenizer.encode(prompt + answer)])).logits[0, 0]
        torch.testing.assert_close(found[i], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pair.reward_models["rm"].scores([prompt], [answer])[0], found[i], atol=1e-5, rtol=1e-5)
    assert found.unique().numel() == 3 and not any(p.requires_grad for p in pair.reward_models["rm"].model.parameters())


def test_it_reads_prompt_and_answer_in_its_own_chat_format(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '!' if m['role'] == 'user' else '?' }}{{ m['content'] }}{% endfor %}"
    model = classifier().eval()
    pair = read(saved(tmp_path, model, template))
    expected = model(input_ids=torch.tensor([make_tokenizer().encode("!+35=?3 8#8")])).logits[0]
    torch.testing.assert_close(pair.reward_models["rm"].scores(["+35="], ["3 8#8"]), expected, atol=1e-5, rtol=1e-5)


def test_a_policy_gradient_is_paid_by_it(tmp_path: Path) -> None:
    pair = read(saved(tmp_path, classifier()))
    trainer = trainer_of(made(**PAID), pair, budget={"amount": 200}, learning_rate=3e-3)
    before = {k: v.clone() for k, v in pair.reward_models["rm"].model.state_dict().items()}
    trainer.train(lambda row: None, lambda: None)
    for row in trainer.rows:
        assert torch.isfinite(torch.tensor(row["reward.liked.main"])) and row["grad_norm"] > 0
    assert all(torch.equal(v, before[k]) for k, v in pair.reward_models["rm"].model.state_dict().items())
    [rollout] = trainer.write(Method(trainer.entry)).values()
    texts = trainer.bank.judge.texts(rollout)
    scores = pair.reward_models["rm"].scores([p.text for p in rollout.prompts], texts)
    assert len(scores) == len(rollout) and float(scores.std()) > 0


@pytest.mark.parametrize(
    ("model", "why"),
    [(classifier(2), "has 2 outputs; a reward is one number"), (llama(3, 16, True), "lacks score.weight; a classifier whose head was never trained")],
)
def test_what_is_no_reward_model_is_refused(tmp_path: Path, model: Any, why: str) -> None:
    with pytest.raises(ZooError, match=why):
        read(saved(tmp_path, model))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, classifier())
    torch.save(classifier().state_dict(), tmp_path / "rm" / "pytorch_model.bin")
    (tmp_path / "rm" / "model.safetensors").unlink()
    with pytest.raises(ZooError, match=r"cannot load the reward model rm from .*; it needs a sequence classifier in safetensors"):
        read(file)


def test_a_pair_without_it_is_named(tmp_path: Path) -> None:
    known: dict[str, Any] = {"templates": (), "fields": None, "teachers": ("teacher",), "checks": None, "same_vocabulary": True}
    assert pair_problems(made(**PAID), **known, reward_models=["other"]) == ["rewards.liked.model 'rm' is no reward model of this pair; legal here: other"]
