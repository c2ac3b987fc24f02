"""Reward models: sequence classifiers with one output, read from safetensors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError

BATCH = 16


@dataclass(frozen=True)
class Classifier:
    """A reward model and its own tokenizer."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """One number for each answer, (B,), on the CPU; each text alone or in any batch gives the same."""
        texts = [self._text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        found = []
        for start in range(0, len(texts), BATCH):
            rows = [self.tokenizer.encode(text, add_special_tokens=self.tokenizer.chat_template is None) for text in texts[start : start + BATCH]]
            width = max(1, *map(len, rows))
            pad = self.model.config.pad_token_id or 0
            ids_BL = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.model.device)
            mask_BL = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
            found.append(self.model(input_ids=ids_BL, attention_mask=mask_BL).logits[:, 0].float().cpu())
        return torch.cat(found)

    def _text(self, prompt: str, answer: str) -> str:
        if self.tokenizer.chat_template is None:
            return prompt + answer
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return str(self.tokenizer.apply_chat_template(said, tokenize=False))


def load_classifier(pair: str, name: str, where: str, options: dict[str, Any], device: torch.device) -> Classifier:
    """A reward model in evaluation mode, without gradient.

    Raises:
        ZooError: it can't be loaded from safetensors, has another number of outputs, or no padding token.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(where, use_safetensors=True, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ZooError(f"pair '{pair}': cannot load the reward model {name} from {where} ({line.rstrip('.:')}); it needs a sequence classifier in "
                       "safetensors with its tokenizer") from None  # fmt: skip
    if report["missing_keys"]:
        raise ZooError(f"pair '{pair}': the reward model {name} at {where} lacks {min(report['missing_keys'])}; a classifier whose head was "
                       "never trained rewards at random")  # fmt: skip
    if model.config.num_labels != 1:
        raise ZooError(f"pair '{pair}': the reward model {name} has {model.config.num_labels} outputs; a reward is one number")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Classifier(model.eval().to(device).requires_grad_(False), tokenizer)
