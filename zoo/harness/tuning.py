"""What the builds of tuned models share: low-rank modules put on a model, their examples, and how they are saved."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.harness.build_micro import Example
from zoo.seeds import seed_for
from zoo.tensors import Prompt


def with_modules(model: Any, rank: int, targets: Sequence[str], *axes: str | int) -> tuple[Any, list[torch.nn.Parameter]]:
    """The model behind peft's low-rank modules (alpha twice the rank), seeded by the axes, and their parameters.

    Raises:
        ZooError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ZooError("building adapters needs peft: pip install 'opd-zoo[peft]'") from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*axes) % 2**63)
        tuned: Any = get_peft_model(model, config)
    return tuned, [p for p in tuned.parameters() if p.requires_grad]


def save_modules(tuned: Any, modules: Sequence[torch.nn.Parameter], folder: Path, base: str) -> None:
    """Save the modules in bf16; `base` names the model they belong to, wherever this machine has it."""
    for module in modules:
        module.data = module.data.bfloat16()
    tuned.peft_config["default"].base_model_name_or_path = base
    tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # a form to be filled in


def examples_of(prompts: Sequence[Prompt], example: Callable[[Prompt], Example], *axes: str | int) -> Iterator[Example]:
    """Examples of the prompts in orders seeded by the axes, each prompt once before any comes again, without end."""
    rng = random.Random(seed_for(*axes))
    while True:
        for prompt in rng.sample(prompts, len(prompts)):
            yield example(prompt)
