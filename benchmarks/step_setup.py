"""What the benchmarks of whole steps share: arithmetic prompts, a pair read from folders or made tiny and random, a trainer that never ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from zoo.entry import load_entry
from zoo.harness.build_micro import make_tokenizer
from zoo.harness.cell import make_trainer
from zoo.harness.comparison import Comparison
from zoo.harness.models import LoadedPair, PairSpec, load_pair
from zoo.harness.parallel import Processes
from zoo.harness.train import Trainer
from zoo.paths import data_root
from zoo.tensors import Prompt

METHOD = "gkd_on_policy"  # reverse KL over the whole vocabulary on the student's own texts: what TRL's trainer does at beta 1
FOREVER = 10**12


@dataclass(frozen=True)
class Questions:
    """A task without verifiers: prompts as models read them, the chat format included."""

    texts: tuple[str, ...]
    checks: tuple[str, ...] = ()

    def prompts(self, split: str) -> list[Prompt]:
        """The same for all splits."""
        return [Prompt(f"{split}-{i}", text) for i, text in enumerate(self.texts)]

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """Nothing is right or wrong."""
        return 0.0

    def feedback(self, text: str, prompt: Prompt) -> str:
        """Nor is there anything to say."""
        return ""


def question_texts(tokenizer: Any, count: int) -> tuple[str, ...]:
    """Questions of about 50 tokens, rendered in the chat format where the tokenizer has one; bare sums where it has not."""
    if tokenizer.chat_template is None:
        return tuple(f"+{3 + i % 7}{i % 10}{5 + i % 4}=" for i in range(count))
    asked = [f"Tom has {3 + i} apples and buys {5 + i % 7} more. How many apples does he have? Think step by step." for i in range(count)]
    return tuple(str(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)) for text in asked)


def make_tiny(folder: Path) -> tuple[Path, Path]:
    """Two random Llamas over characters, for a run on a CPU."""
    for seed, name, hidden in ((1, "student", 32), (2, "teacher", 48)):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=40, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512,
            tie_word_embeddings=True, initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder / "student", folder / "teacher"


def read_pair(student: Path, teacher: Path, prompts: int, device: str, perturb: float = 0.0) -> LoadedPair:
    """The pair with its questions; a teacher that is the student's own checkpoint needs `perturb`, relative noise on its weights, or there is nothing
    to distil."""
    spec = {"id": "benchmark", "title": "Benchmark", "student": {"path": str(student)}, "teachers": {"teacher": {"path": str(teacher)}},
            "task": {"kind": "micro"}, "max_new_tokens": 1}  # fmt: skip
    pair = load_pair(PairSpec.model_validate(spec), device=device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in pair.teachers["teacher"].parameters() if perturb else ():
            weight.mul_(1 + perturb * torch.randn(weight.shape, generator=generator).to(weight))
    return replace(pair, task=Questions(question_texts(AutoTokenizer.from_pretrained(student), prompts)))


def trainer_for(pair: LoadedPair, rollouts: int, new_tokens: int, **settings: Any) -> Trainer:
    """A trainer at its first step."""
    chosen = {"rollouts_per_step": rollouts, "max_new_tokens": new_tokens, "learning_rate": 1e-6, "decode_batch": 256, **settings}
    comparison = {"id": "benchmark", "title": "Benchmark", "pair": "benchmark", "methods": (METHOD,), "seeds": (0,), "suites": ("none",),
                  "budget": {"amount": FOREVER}, "settings": chosen}  # fmt: skip
    entry = load_entry(data_root() / "registry" / "methods" / f"{METHOD}.yaml")
    return make_trainer(entry, Comparison.model_validate(comparison), 0, pair, Processes(device=torch.device(pair.student.device)))


def peak_gib() -> float:
    """The most device memory since the last reset, in GiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def settle() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
