"""What every measure is: a number for each token, without gradient, from columns, the mask and the rollout."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from zoo.components.base import Component
from zoo.statistics import Statistic, TokenContext

Among = Literal["response", "batch"]


class Measure(Component):
    """Base of all measures; gates compare them, weights map them, and a term's number may be one."""

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return tuple(dict.fromkeys(name for statistic in self.statistics() for name in statistic.scorers))

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()

    def value(self, context: TokenContext) -> Tensor:
        """The number of each token (B, T); arbitrary but finite outside the mask."""
        raise NotImplementedError


def quantile(value_BT: Tensor, context: TokenContext, level: float, among: Among) -> Tensor:
    """A quantile over the supervised tokens of each response, (B, 1), or of the global batch, ()."""
    if among == "batch":
        return context.quantile(value_BT, context.mask_BT, level)
    return context.row_quantile(value_BT, level)
