"""Teachers that are the initial student with a direction added to its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.base import Context
from zoo.components.teachers import SteeredWeights
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair
from zoo.tensors import Prompt

STEERED = "steered:"  # key of such weights, behind it the teacher's name


def steered(weights: SteeredWeights, pair: LoadedPair, dtype: torch.dtype | None) -> Any:
    """A frozen copy of the initial student that adds the direction behind one of its blocks.

    Raises:
        ZooError: the model's blocks are not where decoder models keep them, or the prompts are the same in both readings.
    """
    model = pair.frozen_student(dtype)
    blocks = blocks_of(model)
    block = blocks[max(1, round(weights.depth * len(blocks))) - 1]
    prompts = pair.task.prompts("train")[: weights.prompts]
    direction_H = mean_state(model, block, pair, prompts, weights.toward) - mean_state(model, block, pair, prompts, None)
    if not bool(direction_H.any()):
        raise ZooError(f"a steered teacher: template '{weights.toward.template}' shows the prompts as they are, so there is no direction; use another one")
    shift_H = (weights.strength * direction_H).to(next(model.parameters()).dtype)

    def shifted(module: nn.Module, given: Any, output: Any) -> Any:
        return output + shift_H if isinstance(output, Tensor) else (output[0] + shift_H, *output[1:])

    block.register_forward_hook(shifted)
    return model


def blocks_of(model: Any) -> Sequence[nn.Module]:
    """The decoder's blocks, in order.

    Raises:
        ZooError: the model keeps them elsewhere.
    """
    found = getattr(model.base_model, "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise ZooError(f"a steered teacher needs a model whose blocks are base_model.layers; {type(model).__name__} keeps them elsewhere")
    return list(found)


@torch.no_grad()
def mean_state(model: Any, block: nn.Module, pair: LoadedPair, prompts: Sequence[Prompt], context: Context | None) -> Tensor:
    """The mean over prompts of a block's output at the prompt's last token, float64, (H,)."""
    seen: list[Tensor] = []

    def noted(module: nn.Module, given: Any, output: Any) -> None:
        state_1LH = output if isinstance(output, Tensor) else output[0]
        seen.append(state_1LH[0, -1].double())

    handle = block.register_forward_hook(noted)
    try:
        for prompt in prompts:
            ids_1L = torch.tensor([pair.format_prompt(prompt, context)], device=model.device)
            model.base_model(input_ids=ids_1L, use_cache=False)
    finally:
        handle.remove()
    return torch.stack(seen).mean(0)
