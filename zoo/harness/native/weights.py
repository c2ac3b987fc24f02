"""The weights of a decoder-only model as the native step reads them: fused where the step reads them together, never copied twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError

FAMILIES = ("llama", "qwen2", "qwen3")
OLDEST = (9, 0)  # compute capability: launches overlap, which Hopper began with


@dataclass(frozen=True)
class Layer:
    """One block. Linear weights are (outputs, inputs) as in torch; `qkv` and `gate_up` are stacked along the outputs."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Weights:
    """A whole model: sizes, layers, embedding and head. `head` has the rows of the shared vocabulary only. Embedding and norms may be wider than
    what is multiplied."""

    heads: int
    kv_heads: int
    head_size: int
    eps: float
    layers: tuple[Layer, ...]
    embedding: Tensor
    final_norm: Tensor
    head: Tensor

    @property
    def kind(self) -> torch.dtype:
        """The type of all products' operands."""
        return self.head.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.head.device


def wide_type(kind: torch.dtype) -> torch.dtype:
    """What sums and the residual stream are kept in: fp64 for fp64 weights, else fp32."""
    return torch.float64 if kind == torch.float64 else torch.float32


def unsupported(model: Any) -> str | None:
    """Why the native step can't run this model where it is, or None where it can."""
    config = model.config
    if model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) < OLDEST:
        return f"the kernels need a GPU of compute capability {'.'.join(map(str, OLDEST))} or newer"
    if config.model_type not in FAMILIES:
        return f"the model type {config.model_type} is not one of {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if getattr(config, "attention_bias", False) and config.model_type == "llama":
        return "its attention output has a bias"
    if getattr(config, "mlp_bias", False):
        return "its feed-forward layers have biases"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "some of its layers attend to a window only"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        return f"its rotary embedding ({rope['rope_type']}) changes with the length"
    if type(model.get_input_embeddings()) is not nn.Embedding or type(model.get_output_embeddings()) is not nn.Linear:
        return "its embedding or head is wrapped"
    if any(type(layer) is not nn.Linear for block in model.model.layers for layer in (block.self_attn.q_proj, block.mlp.down_proj)):
        return "its linear layers are wrapped (an adapter, or quantised)"
    if any(block._forward_hooks for block in model.model.layers):
        return "a hook changes what one of its layers gives"
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size & (size - 1) or size < 16:
        return f"its heads have {size} features, which is not a power of two of at least 16"
    return None


def fuse(linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """One weight over several layers that read the same input. The layers' own parameters become views of it, so what an
    optimizer writes in place is what the step reads."""
    return _joined([linear.weight for linear in linears]), None if linears[0].bias is None else _joined([linear.bias for linear in linears])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parameters stacked along their first axis, of which they become views. What is so already is left where it lies: others may share it."""
    first, rows = parts[0].data, [len(part) for part in parts]
    begins = accumulate((part.numel() for part in parts[:-1]), initial=first.storage_offset())
    places = [(first.untyped_storage().data_ptr(), begin) for begin in begins]
    if [(part.untyped_storage().data_ptr(), part.storage_offset()) for part in parts] == places:
        return first.as_strided((sum(rows), *first.shape[1:]), first.stride())
    whole = torch.cat([part.data for part in parts])
    for part, view in zip(parts, whole.split(rows), strict=True):
        part.data = view
    return whole


def gather(model: Any, vocab_size: int | None = None, master: Any = None) -> Weights:
    """The weights of a supported model; its own linear layers become views of them.

    Where the model is a narrow copy of a `master` in training, embedding and norms are the master's own: autocast does not round them, so
    rounding them here would move every log-probability.

    Raises:
        ZooError: the model is not supported, with the reason.
    """
    if reason := unsupported(model):
        raise ZooError(f"the native decoder can't run this model: {reason}; use the reference engine")
    config, body = model.config, model.model
    exact = (master or model).model
    layers = []
    for block, wide in zip(body.layers, exact.layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        qkv, bias = fuse([attention.q_proj, attention.k_proj, attention.v_proj])
        gate_up, _ = fuse([mlp.gate_proj, mlp.up_proj])
        query_norm, key_norm = getattr(wide.self_attn, "q_norm", None), getattr(wide.self_attn, "k_norm", None)
        layers.append(
            Layer(
                attention_norm=wide.input_layernorm.weight.data,
                qkv=qkv,
                qkv_bias=bias,
                query_norm=None if query_norm is None else query_norm.weight.data,
                key_norm=None if key_norm is None else key_norm.weight.data,
                out=attention.o_proj.weight.data,
                mlp_norm=wide.post_attention_layernorm.weight.data,
                gate_up=gate_up,
                down=mlp.down_proj.weight.data,
            )
        )
    return Weights(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=body.layers[0].self_attn.head_dim,
        eps=config.rms_norm_eps,
        layers=tuple(layers),
        embedding=(master or model).get_input_embeddings().weight.data,
        final_norm=exact.norm.weight.data,
        head=model.get_output_embeddings().weight.data[:vocab_size],
    )


def rotary_tables(model: Any, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, head size) of the model's own rotary embedding, in at least fp32 as under autocast."""
    head = model.get_output_embeddings().weight
    device, dtype = head.device, wide_type(head.dtype)
    positions = torch.arange(length, device=device)[None]
    with torch.no_grad():
        cosine, sine = model.model.rotary_emb(torch.empty(1, 1, 1, device=device, dtype=dtype), positions)
    return cosine[0].contiguous(), sine[0].contiguous()
