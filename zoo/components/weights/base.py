"""What every weight is."""

from __future__ import annotations

from torch import Tensor

from zoo.components.base import TokenPart
from zoo.statistics import TokenContext


class Weight(TokenPart):
    """Base of all weights."""

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        """Factor (B, T)."""
        raise NotImplementedError
