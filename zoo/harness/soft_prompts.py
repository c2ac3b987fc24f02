"""A model behind learned embeddings: soft prompts, of which nothing but the embeddings is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.learners import SoftPrompt
from zoo.seeds import seed_for


class Prompted(nn.Module):
    """The embeddings `soft_MH` and the model that reads them before every text; the model is no part of the module's parameters. It answers what
    scoring asks of a backbone, with the soft positions left out of all states."""

    def __init__(self, model: Any, start_MH: Tensor) -> None:
        super().__init__()
        self.soft_MH = nn.Parameter(start_MH)
        self._model = (model,)  # in a tuple, so that its weights are neither trained nor saved with these

    @classmethod
    def before(cls, model: Any, tokenizer: Any, spec: SoftPrompt, *axes: str | int) -> Prompted:
        """A soft prompt at its beginning."""
        table_VH = model.get_input_embeddings().weight.detach()
        if spec.init is not None:
            ids = list(tokenizer.encode(spec.init, add_special_tokens=False))
            at = torch.tensor([ids[i % len(ids)] for i in range(spec.length)])
        else:
            generator = torch.Generator().manual_seed(seed_for("soft prompt", *axes) % 2**63)
            at = torch.randint(min(len(tokenizer), len(table_VH)), (spec.length,), generator=generator)
        start_MH = table_VH[at.to(table_VH.device)]
        return cls(model, start_MH.clone() if start_MH.dtype == torch.float64 else start_MH.float())

    @property
    def base_model(self) -> Prompted:
        """The backbone is the whole of it."""
        return self

    @property
    def config(self) -> Any:
        """The model's."""
        return self._model[0].config

    def get_output_embeddings(self) -> Any:
        """The model's head."""
        return self._model[0].get_output_embeddings()

    def forward(self, input_ids: Tensor, use_cache: bool = False, output_hidden_states: bool = False) -> SimpleNamespace:
        """The states behind each token, (B, L, H)."""
        model, size = self._model[0], len(self.soft_MH)
        embedded_BLH = model.get_input_embeddings()(input_ids)
        soft_BMH = self.soft_MH.to(embedded_BLH.dtype).expand(len(input_ids), -1, -1)
        given = model.base_model(inputs_embeds=torch.cat([soft_BMH, embedded_BLH], 1), use_cache=use_cache, output_hidden_states=output_hidden_states)
        layers = tuple(states[:, size:] for states in given.hidden_states) if output_hidden_states else None
        return SimpleNamespace(last_hidden_state=given.last_hidden_state[:, size:], hidden_states=layers)
