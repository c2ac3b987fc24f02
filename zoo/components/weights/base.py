"""What every weight is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from zoo.components.base import Component
from zoo.statistics import Statistic, TokenContext


class Weight(Component):
    """Base of all weights. `outcome` marks those that read a sequence's result, `reads_advantage` those of a policy gradient only."""

    outcome: ClassVar[bool] = False
    reads_advantage: ClassVar[bool] = False

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return ()

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def weight(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        """Factor (B, T)."""
        raise NotImplementedError
