"""A layer's forward pass by way of `functions`, for the families that the native decoder knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.harness.fused import CalledLayers
from zoo.harness.lean.functions import Gated, Norm, Rotate
from zoo.harness.native.weights import FAMILIES


def fits(model: Any) -> bool:
    """Whether a model's layers are made of what `lean` runs. Adapters may sit in its linear layers."""
    config, blocks = model.config, list(getattr(model.base_model, "layers", ()))
    if config.model_type not in FAMILIES or config.hidden_act != "silu" or config._attn_implementation != "sdpa" or not len(blocks):
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    size = blocks[0].self_attn.head_dim
    return bool(size & (size - 1) == 0)


def lean(block: Any) -> Callable[..., Tensor]:
    """The block's call on whole sequences, padded on the right: rounded where its own is, with a launch for each stretch between two products.
    With a mask or a cache, or a hook on the block, it is the block's own."""
    attention, mlp = block.self_attn, block.mlp
    first, second = block.input_layernorm, block.post_attention_layernorm
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]

    def call(states_BLH: Tensor, attention_mask: Tensor | None = None, position_embeddings: Any = None, past_key_values: Any = None, **given: Any) -> Tensor:
        hooked = block._forward_hooks or block._forward_pre_hooks
        if hooked or attention_mask is not None or past_key_values is not None or position_embeddings is None:
            told = {"attention_mask": attention_mask, "position_embeddings": position_embeddings, "past_key_values": past_key_values}
            return block._call_impl(states_BLH, **told, **given)  # type: ignore[no-any-return]
        (batch, length, _), kind = states_BLH.shape, _kind(states_BLH)
        states_BLH, normed_BLH = Norm.apply(states_BLH, first.weight, first.variance_epsilon, kind)
        q, k, v = (layer(normed_BLH).view(batch * length, -1, attention.head_dim) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        cosine_RD, sine_RD = (part.reshape(-1, attention.head_dim) for part in position_embeddings)
        normed = (x_NUD if norm is None else norm(x_NUD) for x_NUD, norm in zip((q, k), norms, strict=True))
        q, k = (Rotate.apply(x_NUD, cosine_RD, sine_RD, kind) for x_NUD in normed)
        q, k, v = (x_NUD.view(batch, length, -1, attention.head_dim).transpose(1, 2) for x_NUD in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1, scale=attention.scaling, enable_gqa=q.shape[1] != k.shape[1])
        states_BLH = states_BLH + attention.o_proj(attended.transpose(1, 2).reshape(batch, length, -1))
        states_BLH, normed_BLH = Norm.apply(states_BLH, second.weight, second.variance_epsilon, kind)
        return states_BLH + mlp.down_proj(Gated.apply(mlp.gate_proj(normed_BLH), mlp.up_proj(normed_BLH)))  # type: ignore[no-any-return]

    return call


def _kind(states: Tensor) -> torch.dtype:
    """What matrix products read here."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


class LeanLayers(CalledLayers):
    """Layers by way of `lean`; those of a model that is not made so stay as they are."""

    def _made(self, model: Any, layers: nn.ModuleList) -> list[Any]:
        return [lean(block) for block in layers] if fits(model) else []
